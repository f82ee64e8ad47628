"""Uniform coupling: the baseline of routing."""

from typing import Any

from torch import Tensor

from capsexp.nn.votes import Votes
from capsexp.routing.base import Routing
from capsexp.types import RoutingOutput


class Uniform(Routing):
    """Every child has the coupling 1 / J with each parent, for any votes.

    Args:
        iterations: has no effect; it exists so that one grid can sweep over algorithms.
        gradient: as ``iterations``.
        **sizes: children, parents, dim_in, dim_out, and squash.

    Example:
        >>> from capsexp.nn import GivenVotes
        >>> votes = GivenVotes(torch.tensor([[[[3.0, 2.0]], [[1.0, -1.0]]]]))  # of 2 children for 2 parents
        >>> Uniform(children=2, parents=2, dim_in=1, dim_out=1)(votes).coupling_BJI
        tensor([[[0.5000, 0.5000],
                 [0.5000, 0.5000]]])
    """

    shares = "parents"

    def __init__(self, *, iterations: int = 1, gradient: str = "full", **sizes: Any) -> None:
        super().__init__(**sizes)

    def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
        """The squashed sum of the votes, times 1 / J."""
        return self.weigh(votes, 1 / self.parent_count)
