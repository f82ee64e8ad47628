"""Uniform coupling: the baseline of routing."""

from torch import Tensor

from capsexp.nn.votes import Votes
from capsexp.routing.one_pass import OnePass
from capsexp.types import RoutingOutput


class Uniform(OnePass):
    """Every child has the coupling 1 / J with each parent, for any votes.

    Args:
        **sizes: children, parents, dim_in, dim_out, squash, and what :class:`~capsexp.routing.one_pass.OnePass` takes.

    Example:
        >>> from capsexp.nn import GivenVotes
        >>> votes = GivenVotes(torch.tensor([[[[3.0, 2.0]], [[1.0, -1.0]]]]))  # of 2 children for 2 parents
        >>> Uniform(children=2, parents=2, dim_in=1, dim_out=1)(votes).coupling_BJI
        tensor([[[0.5000, 0.5000],
                 [0.5000, 0.5000]]])
    """

    shares = "parents"

    def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
        """The squashed sum of the votes, times 1 / J."""
        return self.weigh(votes, 1 / self.parent_count)
