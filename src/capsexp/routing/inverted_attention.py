"""Inverted dot-product attention: the parents compete for each child, and layer normalisation replaces the squash."""

import math
from typing import Any

import torch
from torch import Tensor

from capsexp.errors import require_choice, require_int
from capsexp.nn.finish import LayerNorm
from capsexp.nn.vote_pieces import in_pieces
from capsexp.nn.votes import Votes
from capsexp.routing.base import GRADIENTS, Routing
from capsexp.types import RoutingOutput


class InvertedAttention(Routing):
    r"""Tsai, Srivastava, Goh and Salakhutdinov (2020), *Capsules with Inverted Dot-Product Attention Routing*.

    The sequential form: all rounds of a layer before the next layer.  A round sets the couplings to the softmax over
    the parents of <v, p> / sqrt(E), where the parents' poses p begin at zero, and then p to the layer normalisation of
    the weighted sum.  Logits are replaced, not added up.  There are no activations; lengths of poses, about sqrt(E),
    stand in their place.

    Args:
        iterations: number of rounds, at least 1; the first uses 1 / J everywhere.
        gradient: ``full`` differentiates every round, as the authors' code; ``last`` treats the coupling as a constant.
        **sizes: children, parents, dim_in and dim_out.

    Example:
        >>> from capsexp.nn import ClassCapsules
        >>> layer = ClassCapsules(36, 10, 16, 16, InvertedAttention)
        >>> layer(torch.rand(5, 36, 16)).poses_BJE.square().sum(2).round()[0, 0]  # E
        tensor(16., grad_fn=<SelectBackward0>)
    """

    shares = "parents"
    activation = "none"
    activation_range = (0.0, float("inf"))
    has_master = False

    def __init__(self, *, iterations: int = 2, gradient: str = "full", **sizes: Any) -> None:
        super().__init__(finish=LayerNorm, **sizes)
        self.iterations = require_int("iterations", iterations, 1)
        self.gradient = require_choice("gradient", gradient, GRADIENTS)
        self._divisor = math.sqrt(sizes["dim_out"])

    @torch.no_grad()
    def start(self, weight_JEDI: Tensor) -> None:
        """Normal numbers of variance J / (D I), as in the authors' code; D counts the columns of a matrix pose."""
        parents, _, components, children = weight_JEDI.shape
        weight_JEDI.copy_(torch.randn_like(weight_JEDI) * math.sqrt(parents / (components * children)))

    def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
        """Poses, their lengths, and the couplings of the last round."""
        if self.gradient == "full":
            return RoutingOutput(*in_pieces(self._route, votes, self.parameters(), rounds=self.iterations))
        with torch.no_grad():
            coupling = self._attend(votes)
        return self.weigh(votes, coupling)

    def _route(self, votes: Votes) -> RoutingOutput:
        return self.weigh(votes, self._attend(votes))

    def _attend(self, votes: Votes) -> Tensor | float:
        coupling: Tensor | float = 1 / self.parent_count
        for _ in range(self.iterations - 1):
            poses_BJE = self.finish(votes.weighted_sum(coupling))
            coupling = (votes.agreement(poses_BJE) / self._divisor).softmax(1)
        return coupling
