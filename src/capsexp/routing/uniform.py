"""Uniform coupling: what routing is compared with."""

from typing import Any

from torch import Tensor

from capsexp.nn.votes import Votes
from capsexp.routing.base import Routing
from capsexp.types import RoutingOutput


class Uniform(Routing):
    """Every child gives each parent 1 / J of its vote, whatever the votes are.

    Args:
        iterations: has no effect; it is there so that one grid can sweep over algorithms.
        gradient: the same.
        **sizes: children, parents, dim_in, dim_out, and squash.
    """

    coupling_sum = 1.0

    def __init__(self, *, iterations: int = 1, gradient: str = "full", **sizes: Any) -> None:
        super().__init__(**sizes)

    def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
        """The squashed mean over what the parents may have."""
        return self.weigh(votes, 1 / self.parent_count)
