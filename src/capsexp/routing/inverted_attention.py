"""Inverted dot-product attention: the parents compete for each child, and layer normalisation replaces the squash."""

import math
from contextlib import nullcontext
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

    A round sets the couplings to the softmax over the parents of <v, p> / sqrt(E), where the parents' poses p begin at
    zero, and then p to the layer normalisation of the weighted sum.  Logits are replaced, not added up.  There are no
    activations; lengths of poses, about sqrt(E), stand in their place.

    A call is the sequential form: all rounds of a layer before the next layer.  In the concurrent form all layers of a
    network do a round at once (:meth:`one_round`), see :class:`~capsexp.models.layered_capsnet.LayeredCapsNet`.

    Args:
        iterations: number of rounds, at least 1; the first uses 1 / J everywhere.
        gradient: ``full`` differentiates every round, as the authors' code; ``last`` treats couplings as constants, so
            gradients flow through the last weighted sum of a call only, and in the concurrent form through that of
            each round, by the children's poses.
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

    def forward(
        self,
        votes: Votes,
        activations_BI: Tensor | None = None,
        *,
        rounds: int | None = None,
        parents_BJE: Tensor | None = None,
    ) -> RoutingOutput:
        """Poses, their lengths, and the couplings of the last round.

        Args:
            votes: votes of I children for J parents.
            activations_BI: without effect.
            rounds: number of rounds; None for ``iterations``.
            parents_BJE: poses of the parents before the first round; None for zero, at which couplings are 1 / J.
        """
        rounds = self.iterations if rounds is None else rounds
        if self.gradient == "full" and parents_BJE is None:
            return RoutingOutput(
                *in_pieces(lambda some: self._route(some, rounds), votes, self.parameters(), rounds=rounds)
            )
        return self._route(votes, rounds, parents_BJE)

    def one_round(self, votes: Votes, parents_BJE: Tensor | None = None) -> RoutingOutput:
        """The output of a single round, by a call of the module: its hooks, with which couplings are read, run too.

        Args:
            votes: votes of I children for J parents.
            parents_BJE: poses of the parents before the round; None in the first one.

        Example:
            >>> from capsexp.nn import GivenVotes
            >>> votes = GivenVotes(torch.rand(5, 10, 16, 36))
            >>> routing = InvertedAttention(iterations=2, children=36, parents=10, dim_in=16, dim_out=16)
            >>> first = routing.one_round(votes)
            >>> torch.equal(routing.one_round(votes, first.poses_BJE).poses_BJE, routing(votes).poses_BJE)
            True
        """
        output: RoutingOutput = self(votes, rounds=1, parents_BJE=parents_BJE)
        return output

    def _route(self, votes: Votes, rounds: int, parents_BJE: Tensor | None = None) -> RoutingOutput:
        with torch.no_grad() if self.gradient == "last" else nullcontext():
            coupling = self._attend(votes, parents_BJE)
            for _ in range(rounds - 1):
                coupling = self._attend(votes, self.finish(votes.weighted_sum(coupling)))
        return self.weigh(votes, coupling)

    def _attend(self, votes: Votes, parents_BJE: Tensor | None) -> Tensor | float:
        """The couplings of a round, from the parents' poses before it."""
        if parents_BJE is None:
            return 1 / self.parent_count
        return (votes.agreement(parents_BJE) / self._divisor).softmax(1)
