"""Votes of matrix poses: the child's matrix times a transformation matrix."""

import copy
import math
from typing import cast

from torch import Tensor

from capsexp.nn.autocast import autocast_type
from capsexp.nn.functional import at_least_single
from capsexp.nn.vote_makers import MatrixVoteMaker, Recipe
from capsexp.nn.votes import Form, LinearVotes, Votes


class MatrixVotes(Votes):
    """Votes M W of square matrices M (m, m), read as D = m * m components, row by row.

    Hinton et al. (2018) and Tsai et al. (2020).  Every row of M is multiplied by the same W, so the rows are further
    images of :class:`~capsexp.nn.votes.LinearVotes` with poses of m components: m times fewer weights and products than
    with matrices (D, D).

    Args:
        poses_BID: the children's poses (B, I, D).
        weight_JEDI: W of each pair, transposed: (J, m, m, I) with the columns of W first.
        mask_BI: True where a child exists, or None if all exist.  Poses elsewhere must be zero.
        form: that of the votes of rows.

    Example:
        >>> votes = MatrixVotes(torch.rand(5, 36, 16), torch.rand(10, 4, 4, 36))
        >>> votes.shape, votes.weighted_sum(torch.rand(5, 10, 36)).shape
        ((5, 10, 16, 36), torch.Size([5, 10, 16]))
    """

    def __init__(
        self,
        poses_BID: Tensor,
        weight_JEDI: Tensor,
        mask_BI: Tensor | None = None,
        form: Form | None = None,
    ) -> None:
        self.poses_BID, self.mask_BI, self._side = poses_BID, mask_BI, weight_JEDI.shape[2]
        self._rows = LinearVotes(self._apart(poses_BID), weight_JEDI, form=form)
        self._weight_JEDI = weight_JEDI

    @property
    def shape(self) -> tuple[int, int, int, int]:  # noqa: D102
        _, parents, side, children = self._rows.shape
        return cast("Tensor", self.poses_BID).shape[0], parents, side * side, children

    def weighted_sum(self, coupling: Tensor | float) -> Tensor:  # noqa: D102
        if isinstance(coupling, Tensor) and coupling.dim() == 3:
            coupling = coupling.repeat_interleave(self._side, 0)
        return self._of_rows(self._rows.weighted_sum(coupling)).flatten(2)

    def agreement(self, parents_BJE: Tensor) -> Tensor:  # noqa: D102
        each_RJI = self._rows.agreement(self._apart(parents_BJE))
        return each_RJI.view(-1, self._side, *each_RJI.shape[1:]).sum(1)

    def materialise(self) -> Tensor:  # noqa: D102
        return self._of_rows(self._rows.materialise()).flatten(2, 3)

    def recipe(self) -> Recipe:  # noqa: D102
        poses_BDI = at_least_single(cast("Tensor", self.poses_BID)).transpose(1, 2).contiguous()
        product_type = autocast_type(poses_BDI.device.type)
        return Recipe(MatrixVoteMaker, poses_BDI, at_least_single(self._weight_JEDI), product_type)

    def detach(self) -> "MatrixVotes":  # noqa: D102
        other = copy.copy(self)
        other.poses_BID, other._rows = cast("Tensor", self.poses_BID).detach(), self._rows.detach()
        other._weight_JEDI = self._weight_JEDI.detach()
        return other

    def _apart(self, poses_BXD: Tensor) -> Tensor:
        """The rows of matrices (B, X, m * m): (B * m, X, m)."""
        batch, capsules, _ = poses_BXD.shape
        rows_BXRD = poses_BXD.reshape(batch, capsules, self._side, self._side)
        return rows_BXRD.transpose(1, 2).flatten(0, 1)

    def _of_rows(self, made: Tensor) -> Tensor:
        """What the rows give (B * m, J, ...), as (B, J, m, ...)."""
        return made.view(-1, self._side, *made.shape[1:]).transpose(1, 2)


def side_of(components: int) -> int | None:
    """m, if so many components are a square matrix (m, m)."""
    side = math.isqrt(components)
    return side if side * side == components else None
