"""What every routing algorithm is, and the loop that those by agreement share."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from capsexp.errors import require_choice, require_int
from capsexp.nn.functional import SQUASHES, lengths
from capsexp.nn.vote_pieces import in_pieces
from capsexp.nn.votes import Votes
from capsexp.types import RoutingOutput


class Routing(nn.Module, ABC):
    """Turns the votes for one layer's capsules into their poses.

    Configured by ``_partial_``: the layer calls it with its own four sizes and holds the instance, which may have
    parameters or buffers.

    Args:
        children: I.
        parents: J.
        dim_in: D, components of a child's pose.
        dim_out: E, components of a parent's pose.
        squash: how a parent's sum is shortened, one of :data:`~capsexp.nn.functional.SQUASHES`.
    """

    coupling_range: tuple[float, float] = (0.0, 1.0)
    """Between which numbers every coupling lies."""
    coupling_sum: float | None = None
    """What a child's couplings add up to over its parents, or None where that is free."""

    def __init__(self, *, children: int, parents: int, dim_in: int, dim_out: int, squash: str = "classic") -> None:
        super().__init__()
        self.child_count, self.parent_count = children, parents
        self.squash = SQUASHES[require_choice("squash", squash, tuple(SQUASHES))]

    @abstractmethod
    def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
        """Poses, activations and the coupling that weighted the poses.

        Args:
            votes: of I children for J parents.
            activations_BI: how present each child is, for the algorithms that ask; the poses' lengths say it otherwise.
        """

    @property
    def weight_std(self) -> float:
        """Standard deviation of the transformation matrices with which this algorithm begins to learn."""
        return 0.1

    def normalise(self, coupling_BJI: Tensor) -> Tensor:
        """Couplings that have been averaged over images, made what this algorithm's own couplings are like.

        Zhao et al. (2019), section 5: a mean of couplings is normalised as the network was trained, child by child over
        the parents.  Here it stays as it is, which suits algorithms without a normalisation.
        """
        return coupling_BJI

    def weigh(self, votes: Votes, coupling: Tensor | float) -> RoutingOutput:
        """Poses for a coupling that is known: the squashed weighted sum, and its lengths.

        Args:
            votes: of I children for J parents.
            coupling: (B, J, I), or (J, I) if all images share it, or one number for all.
        """
        batch, parents, _, children = votes.shape
        poses_BJE = self.squash(votes.weighted_sum(coupling), -1)
        if not isinstance(coupling, Tensor):
            coupling = poses_BJE.new_full((1, 1, 1), coupling)
        return RoutingOutput(poses_BJE, lengths(poses_BJE), coupling.expand(batch, parents, children))


class AgreementRouting(Routing):
    """Routing by agreement: sums, squashes, compares, couples anew, ``iterations`` times.

    The update behind the last poses is not computed, so the coupling that comes back is the one that weighted them.

    Args:
        iterations: weighted sums, at least 1; the first uses the same coupling everywhere.
        gradient: ``full`` follows every iteration backwards; ``last`` takes the coupling for a constant, so gradients
            flow through the last weighted sum alone.
        **sizes: children, parents, dim_in, dim_out, and squash.
    """

    def __init__(self, *, iterations: int = 3, gradient: str = "full", **sizes: Any) -> None:
        super().__init__(**sizes)
        self.iterations = require_int("iterations", iterations, 1)
        self.gradient = require_choice("gradient", gradient, ("full", "last"))

    @property
    @abstractmethod
    def first_coupling(self) -> float:
        """The coupling before anything is known."""

    @abstractmethod
    def couple(self, logits_BJI: Tensor) -> Tensor:
        """The coupling (B, J, I) that follows from the logits, child by child, over the parents."""

    def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
        """Sabour et al. (2017), procedure 1, with ``couple`` for its softmax."""
        if self.gradient == "full" and self.iterations > 1:
            return RoutingOutput(*in_pieces(self._route, votes, self.parameters()))
        with torch.no_grad():  # without a loop the coupling is a number
            coupling = self._agree(votes)
        return self.weigh(votes, coupling)

    def normalise(self, coupling_BJI: Tensor) -> Tensor:
        """The mean couplings, taken for logits: max-min again for max-min, a softmax again for softmax."""
        return self.couple(coupling_BJI)

    def _route(self, votes: Votes) -> RoutingOutput:
        return self.weigh(votes, self._agree(votes))

    def _agree(self, votes: Votes) -> Tensor | float:
        coupling: Tensor | float = self.first_coupling
        logits_BJI: Tensor | float = 0.0
        for _ in range(self.iterations - 1):
            parents_BJE = self.squash(votes.weighted_sum(coupling), -1)  # s_j = sum_i c_ij u_ji; v_j = squash(s_j)
            logits_BJI = votes.agreement(parents_BJE) + logits_BJI  # b_ij <- b_ij + u_ji . v_j
            coupling = self.couple(logits_BJI)
        return coupling
