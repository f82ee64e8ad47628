"""Votes of some images at a time: how they are built, and how their gradient reaches poses and weight."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from capsexp.nn.vote_operators import add_bmm, bmm


class Recipe(NamedTuple):
    """The parts from which votes are built.

    Attributes:
        kind: builds them.
        poses_BDI: the children's poses.
        weight_JEDI: the transformation matrices.
        product_type: the type of matrix products if it differs from that of the poses.
        offset_EI: what is added to the votes of every image and parent; None for nothing.
    """

    kind: "type[VoteMaker]"
    poses_BDI: Tensor
    weight_JEDI: Tensor
    product_type: torch.dtype | None
    offset_EI: Tensor | None = None


class VoteMaker(ABC):
    """Builds votes for slices of images, and adds up the gradients of poses and weight.

    Args:
        poses_BDI: the children's poses.
        weight_JEDI: the transformation matrices.
        product_type: see :class:`Recipe`.
        rows: the largest number of images in a slice.
    """

    def __init__(self, poses_BDI: Tensor, weight_JEDI: Tensor, product_type: torch.dtype | None, rows: int) -> None:
        self.product_type = product_type
        self._room: Tensor = poses_BDI.new_empty(rows * self.size_per_image(weight_JEDI))

    @staticmethod
    @abstractmethod
    def components(weight_JEDI: Tensor) -> int:
        """E, the components of a vote."""

    @classmethod
    def size_per_image(cls, weight_JEDI: Tensor) -> int:
        """J * E * I, the numbers in the votes of an image."""
        return weight_JEDI.shape[0] * cls.components(weight_JEDI) * weight_JEDI.shape[3]

    @abstractmethod
    def make(self, images: slice, votes_BJEI: Tensor) -> None:
        """Write the votes of these images."""

    @abstractmethod
    def expect_gradients(self) -> None:
        """Allocate all that :meth:`pull` needs, so that every piece finds the same memory in use."""

    @abstractmethod
    def pull(self, images: slice, grad_BJEI: Tensor) -> None:
        """Add the gradients by way of these images' votes; ``grad_BJEI`` loses its content."""

    @abstractmethod
    def gradients(self) -> tuple[Tensor, Tensor]:
        """The gradients of the poses (B, D, I) and of the weight (J, E, D, I), of all that was pulled."""


class VectorVoteMaker(VoteMaker):
    """Votes W u of vectors u, by a batched product over the children.

    Example:
        >>> maker = VectorVoteMaker(torch.ones(1, 2, 3), torch.ones(4, 5, 2, 3), None, rows=1)
        >>> votes = torch.empty(1, 4, 5, 3)
        >>> maker.make(slice(0, 1), votes)
        >>> votes.unique()
        tensor([2.])
    """

    def __init__(self, poses_BDI: Tensor, weight_JEDI: Tensor, product_type: torch.dtype | None, rows: int) -> None:
        super().__init__(poses_BDI, weight_JEDI, product_type, rows)
        images, components, children = poses_BDI.shape
        # The transposition of a matrix is fastest.
        self._u_IBD = poses_BDI.flatten(0, 1).T.contiguous().view(children, images, components)
        self._w_IDF = weight_JEDI.permute(3, 2, 0, 1).flatten(2).contiguous()
        self._weight_shape = weight_JEDI.shape
        self._grads: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def components(weight_JEDI: Tensor) -> int:  # noqa: D102
        return weight_JEDI.shape[1]

    def make(self, images: slice, votes_BJEI: Tensor) -> None:  # noqa: D102
        room_IBF = self._of_piece(votes_BJEI)
        add_bmm(room_IBF.zero_(), self._u_IBD[:, images], self._w_IDF, self.product_type)
        votes_BJEI.flatten(0, -2).copy_(room_IBF.flatten(1).T)

    def expect_gradients(self) -> None:  # noqa: D102
        self._grads = torch.zeros_like(self._u_IBD), torch.zeros_like(self._w_IDF)

    def pull(self, images: slice, grad_BJEI: Tensor) -> None:  # noqa: D102
        assert self._grads is not None, "no gradients are expected"
        room_IBF = self._of_piece(grad_BJEI)
        room_IBF.flatten(1).copy_(grad_BJEI.flatten(0, -2).T)
        grad_u_IBD, grad_w_IDF = self._grads
        grad_u_IBD[:, images] = bmm(room_IBF, self._w_IDF.mT, self.product_type)
        add_bmm(grad_w_IDF, self._u_IBD[:, images].mT, room_IBF, self.product_type)

    def gradients(self) -> tuple[Tensor, Tensor]:  # noqa: D102
        assert self._grads is not None, "no gradients are expected"
        grad_u_IBD, grad_w_IDF = self._grads
        grad_w_JEDI = grad_w_IDF.permute(2, 1, 0).reshape(self._weight_shape)
        return grad_u_IBD.permute(1, 2, 0).contiguous(), grad_w_JEDI

    def _of_piece(self, votes_BJEI: Tensor) -> Tensor:
        return self._room[: votes_BJEI.numel()].view(votes_BJEI.shape[3], len(votes_BJEI), -1)


class MatrixVoteMaker(VoteMaker):
    """Votes M W of square matrices M (m, m), a component of the sum at a time with the children side by side.

    Example:
        >>> maker = MatrixVoteMaker(torch.ones(1, 4, 3), torch.ones(5, 2, 2, 3), None, rows=1)
        >>> votes = torch.empty(1, 5, 4, 3)
        >>> maker.make(slice(0, 1), votes)
        >>> votes.unique()
        tensor([2.])
    """

    def __init__(self, poses_BDI: Tensor, weight_JEDI: Tensor, product_type: torch.dtype | None, rows: int) -> None:
        super().__init__(poses_BDI, weight_JEDI, product_type, rows)
        self._weight_JCXI, self._side = weight_JEDI, weight_JEDI.shape[1]
        self._poses_BRXI = poses_BDI.view(len(poses_BDI), self._side, self._side, -1)
        self._grads: tuple[Tensor, Tensor] | None = None
        self._second: Tensor | None = None

    @staticmethod
    def components(weight_JEDI: Tensor) -> int:  # noqa: D102
        return weight_JEDI.shape[1] ** 2

    def make(self, images: slice, votes_BJEI: Tensor) -> None:  # noqa: D102
        u_BRXI, w_JCXI = self._poses_BRXI[images], self._weight_JCXI
        if self.product_type is not None:
            u_BRXI, w_JCXI = (each.to(self.product_type).to(votes_BJEI.dtype) for each in (u_BRXI, w_JCXI))
        votes_BJRCI = votes_BJEI.view(*votes_BJEI.shape[:2], self._side, self._side, -1)
        for x in range(self._side):
            row_BJRCI, column_BJRCI = u_BRXI[:, None, :, None, x], w_JCXI[None, :, None, :, x]
            if x == 0:
                torch.mul(row_BJRCI, column_BJRCI, out=votes_BJRCI)
            else:
                votes_BJRCI.addcmul_(row_BJRCI, column_BJRCI)

    def expect_gradients(self) -> None:  # noqa: D102
        parents, columns, rows, children = self._weight_JCXI.shape
        self._second = torch.empty_like(self._room)
        self._grads = torch.zeros_like(self._poses_BRXI), self._weight_JCXI.new_zeros(children, parents * columns, rows)

    def pull(self, images: slice, grad_BJEI: Tensor) -> None:  # noqa: D102
        assert self._grads is not None, "no gradients are expected"
        assert self._second is not None
        batch, parents, _, children = grad_BJEI.shape
        side, size = self._side, grad_BJEI.numel()
        rows_BRJCI = self._second[:size].view(batch, side, parents, side, children)
        rows_BRJCI.copy_(grad_BJEI.view(batch, parents, side, side, children).transpose(1, 2))
        room_IAF = self._room[:size].view(children, batch * side, parents * side)
        room_IAF.flatten(1).copy_(rows_BRJCI.flatten(0, -2).T)
        u_IAX = self._poses_BRXI[images].flatten(0, 2).T.contiguous().view(children, batch * side, side)
        w_IFX = self._weight_JCXI.flatten(0, 2).T.contiguous().view(children, parents * side, side)
        grad_u_BRXI, grad_w_IFX = self._grads
        grad_u_IAX = bmm(room_IAF, w_IFX, self.product_type)
        grad_u_BRXI[images].flatten(0, 2).copy_(grad_u_IAX.flatten(1).T)
        add_bmm(grad_w_IFX, room_IAF.mT, u_IAX, self.product_type)

    def gradients(self) -> tuple[Tensor, Tensor]:  # noqa: D102
        assert self._grads is not None, "no gradients are expected"
        grad_u_BRXI, grad_w_IFX = self._grads
        grad_w_JCXI = grad_w_IFX.flatten(1).T.contiguous().view(self._weight_JCXI.shape)
        return grad_u_BRXI.flatten(1, 2), grad_w_JCXI
