"""Votes to which every child adds a fixed offset: its place in the image."""

import copy

import torch
from torch import Tensor

from capsexp.nn.vote_makers import Recipe
from capsexp.nn.votes import Votes


class ShiftedVotes(Votes):
    """Votes plus an offset of each child, the same for all images and parents.

    Args:
        votes: the votes.
        offset_EI: the offsets, which have no gradient.

    Example:
        >>> from capsexp.nn import GivenVotes
        >>> votes = ShiftedVotes(GivenVotes(torch.ones(1, 2, 3, 4)), torch.full((3, 4), 0.5))
        >>> votes.weighted_sum(1.0)
        tensor([[[6., 6., 6.],
                 [6., 6., 6.]]])
    """

    def __init__(self, votes: Votes, offset_EI: Tensor) -> None:
        self.mask_BI, self.poses_BID, self.field = votes.mask_BI, votes.poses_BID, votes.field
        self._votes, self._offset_EI = votes, offset_EI

    @property
    def shape(self) -> tuple[int, int, int, int]:  # noqa: D102
        return self._votes.shape

    def weighted_sum(self, coupling: Tensor | float) -> Tensor:  # noqa: D102
        sums_BJE = self._votes.weighted_sum(coupling)
        if not isinstance(coupling, Tensor):
            return sums_BJE + self._offset_EI.sum(1) * coupling
        return sums_BJE + coupling.to(sums_BJE.dtype) @ self._offset_EI.T.to(sums_BJE.dtype)

    def agreement(self, parents_BJE: Tensor) -> Tensor:  # noqa: D102
        agreement_BJI = self._votes.agreement(parents_BJE)
        return agreement_BJI + parents_BJE.to(agreement_BJI.dtype) @ self._offset_EI.to(agreement_BJI.dtype)

    def materialise(self) -> Tensor:  # noqa: D102
        return self._votes.materialise() + self._offset_EI

    def detach(self) -> "ShiftedVotes":  # noqa: D102
        other = copy.copy(self)
        other._votes = self._votes.detach()
        other.poses_BID = other._votes.poses_BID
        return other

    def recipe(self) -> Recipe | None:  # noqa: D102
        found = self._votes.recipe()
        return None if found is None else found._replace(offset_EI=self._offset_EI)


def centres(height: int, width: int, types: int, components: int, side: int) -> Tensor:
    """The centre of each child's place, in parts of the grid's height and width, at two components of its vote: (E, I).

    Source: Hinton et al. (2018), coordinate addition: row and column are added to the first two elements of the
    right-hand column of a matrix vote.

    Args:
        height: rows of the grid.
        width: columns of the grid.
        types: T; there are I = T * height * width children, with the places of a type adjacent.
        components: E.
        side: distance of the two components: m for matrices (m, m) row by row.

    Example:
        >>> centres(height=1, width=2, types=1, components=4, side=2)
        tensor([[0.0000, 0.0000],
                [0.5000, 0.5000],
                [0.0000, 0.0000],
                [0.2500, 0.7500]])
    """
    rows_P = ((torch.arange(height) + 0.5) / height).repeat_interleave(width)
    columns_P = ((torch.arange(width) + 0.5) / width).repeat(height)
    offset_EI = torch.zeros(components, types * height * width)
    offset_EI[side - 1], offset_EI[2 * side - 1] = rows_P.repeat(types), columns_P.repeat(types)
    return offset_EI
