"""Optimised routing: agreement as the minimisation of one objective, with an entropy term."""

from typing import Any

import torch
from torch import Tensor, nn

from capsexp.errors import require_choice, require_int, require_number
from capsexp.nn.functional import lengths
from capsexp.nn.vote_pieces import in_pieces
from capsexp.nn.votes import Votes
from capsexp.routing.base import GRADIENTS, Routing
from capsexp.types import RoutingOutput


class Optimised(Routing):
    r"""Wang and Liu (2018), *An Optimization View on Dynamic Routing Between Capsules*.

    Coordinate descent on

    .. math:: -\sum_{ij} c_{ij} \langle v_{ij}, s_j \rangle + \alpha \sum_{ij} c_{ij} \ln c_{ij},
       \quad \sum_j c_{ij} = 1, \quad |s_j| = 1.

    A round sets each unit vector s to the direction of its weighted sum, then each coupling to the softmax over the
    parents of <v, s> / alpha; logits are replaced, not added up as in dynamic routing.  The poses are the last weighted
    sums, divided by 1 + the parent's largest coupling.  Their lengths are not bounded by 1.

    Args:
        iterations: number of weighted sums, at least 1; the first uses 1 / J everywhere.
        gradient: ``full`` differentiates every round; ``last`` treats the coupling as a constant.
        alpha: weight of the entropy, above 0: large for equal couplings, small for a choice.
        **sizes: children, parents, dim_in and dim_out.

    Example:
        >>> from capsexp.nn import GivenVotes
        >>> votes = GivenVotes(torch.tensor([[[[3.0, 2.0]], [[1.0, -1.0]]]]))  # of 2 children for 2 parents
        >>> Optimised(children=2, parents=2, dim_in=1, dim_out=1, iterations=2)(votes).poses_BJE.round(decimals=3)
        tensor([[[ 2.3660],
                 [-0.0640]]])
    """

    shares = "parents"
    has_master = False
    activation_range = (0.0, float("inf"))

    def __init__(self, *, iterations: int = 3, gradient: str = "full", alpha: float = 1.0, **sizes: Any) -> None:
        super().__init__(finish=lambda _parents, _dim: nn.Identity(), **sizes)
        self.iterations = require_int("iterations", iterations, 1)
        self.gradient = require_choice("gradient", gradient, GRADIENTS)
        self.alpha = require_number("alpha", alpha, 0, open_ends="<")

    @torch.no_grad()
    def start(self, weight_JEDI: Tensor) -> None:
        """Normal numbers, each matrix divided by its Frobenius norm: votes are then not longer than their child."""
        drawn_JEDI = torch.randn_like(weight_JEDI)
        weight_JEDI.copy_(drawn_JEDI / drawn_JEDI.square().sum((1, 2), keepdim=True).sqrt())

    def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
        """Poses, lengths, and the couplings of the last sum."""
        if self.gradient == "full":
            return RoutingOutput(*in_pieces(self._route, votes, (), rounds=self.iterations))
        with torch.no_grad():
            coupling = self._choose(votes)
        return self._divided(votes, coupling)

    def weights(self, coupling_BJI: Tensor, activations_BI: Tensor | None = None) -> Tensor:
        """The couplings, divided by 1 + the largest of their parent."""
        return coupling_BJI / (1 + coupling_BJI.amax(2, keepdim=True))

    def _route(self, votes: Votes) -> RoutingOutput:
        return self._divided(votes, self._choose(votes))

    def _choose(self, votes: Votes) -> Tensor | float:
        coupling: Tensor | float = 1 / self.parent_count
        for _ in range(self.iterations - 1):
            sums_BJE = votes.weighted_sum(coupling)
            units_BJE = sums_BJE / lengths(sums_BJE, keepdim=True)
            coupling = (votes.agreement(units_BJE) / self.alpha).softmax(1)
        return coupling

    def _divided(self, votes: Votes, coupling: Tensor | float) -> RoutingOutput:
        batch, parents, _, children = votes.shape
        sums_BJE = votes.weighted_sum(coupling)
        if not isinstance(coupling, Tensor):
            coupling = sums_BJE.new_full((batch, parents, children), coupling)
        if votes.mask_BI is not None:  # who is not there is not the largest either
            coupling = coupling * votes.mask_BI[:, None]
        poses_BJE = sums_BJE / (1 + coupling.amax(2)[:, :, None])
        return RoutingOutput(poses_BJE, lengths(poses_BJE), coupling)
