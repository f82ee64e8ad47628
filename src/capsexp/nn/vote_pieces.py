"""Routing on votes that are built for some images at a time, and built again in the backward pass.

Votes of a few images stay in the cache of the processor for all iterations, and operators pass over B x J x E x I
numbers.  The backward pass needs only poses and weight.  The gradient of the votes is a sum of outer products, one per
operator; one batched product computes it at the end.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from capsexp.nn import vote_operators
from capsexp.nn.autocast import without_autocast
from capsexp.nn.vote_operators import PIECE_BYTES, add_bmm, agree_built, bmm, sum_built
from capsexp.nn.votes import GivenVotes, LinearVotes, Votes

Work = Callable[[Votes], tuple[Tensor, ...]]
"""A function from votes to tensors whose first dimension counts the images; images do not depend on each other."""


FEWEST_ROUNDS = 3
"""Weighted sums from which on votes that are built pay: with two, the factored form takes two thirds of the time."""


def in_pieces(
    work: Work, votes: Votes, parameters: Iterable[Tensor], *, rounds: int = FEWEST_ROUNDS
) -> tuple[Tensor, ...]:
    """``work(votes)``, computed for some images at a time if the form of the votes is ``pieces``.

    Args:
        work: the function; it runs again in the backward pass, so it must draw no random numbers and change nothing.
        votes: the votes of all images.
        parameters: further tensors that ``work`` uses and that may need a gradient.
        rounds: number of weighted sums; below :data:`FEWEST_ROUNDS` all images are computed at once.
    """
    if rounds < FEWEST_ROUNDS:
        return work(votes)
    if not isinstance(votes, LinearVotes) or votes.form != "pieces" or torch.compiler.is_compiling():
        return work(votes)
    if not votes.shape[0]:
        return work(votes)  # no image, no piece
    poses_BDI, weight_JEDI, _, product_type = votes.operands()
    arguments = work, product_type, votes.mask_BI, poses_BDI, weight_JEDI, *parameters
    return cast("tuple[Tensor, ...]", _InPieces.apply(*arguments))  # type: ignore[no-untyped-call]


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        work: Work,
        product_type: torch.dtype | None,
        mask_BI: Tensor | None,
        poses_BDI: Tensor,
        weight_JEDI: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(mask_BI, poses_BDI, weight_JEDI)
        ctx.set_materialize_grads(False)
        ctx.work, ctx.product_type, ctx.parameters = work, product_type, parameters
        found: list[Tensor] = []
        for piece in _pieces(poses_BDI, weight_JEDI, product_type):
            with without_autocast(poses_BDI.device.type):
                parts = work(GivenVotes(piece.votes_BJEI, _of(mask_BI, piece.images)))
            found = found or [part.new_empty(len(poses_BDI), *part.shape[1:]) for part in parts]
            for whole, part in zip(found, parts, strict=True):
                whole[piece.images] = part
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        mask_BI, poses_BDI, weight_JEDI = ctx.saved_tensors
        wanted = [each for each in ctx.parameters if each.requires_grad]
        totals = {id(each): torch.zeros_like(each) for each in wanted}
        grad_u_BDI = torch.zeros_like(poses_BDI)
        parents, dim_out, components, children = weight_JEDI.shape
        grad_w_IDF = weight_JEDI.new_zeros(children, components, parents * dim_out)
        for piece in _pieces(poses_BDI, weight_JEDI, ctx.product_type):
            votes = _RecordingVotes(piece.votes_BJEI.detach().requires_grad_(), _of(mask_BI, piece.images))
            with torch.enable_grad(), without_autocast(poses_BDI.device.type):
                parts = ctx.work(votes)
            some = [_of(grad, piece.images) for grad in grads]
            for parameter, grad in zip(wanted, votes.differentiate(parts, some, wanted), strict=True):
                totals[id(parameter)] += 0 if grad is None else grad
            _children_first(votes.gradient(out=piece.votes_BJEI), piece.room_IBF)
            _children_last(bmm(piece.room_IBF, piece.w_IDF.mT, ctx.product_type), grad_u_BDI[piece.images])
            add_bmm(grad_w_IDF, piece.u_IBD.mT, piece.room_IBF, ctx.product_type)
        grad_w_JEDI = grad_w_IDF.permute(2, 1, 0).reshape(weight_JEDI.shape)
        return None, None, None, grad_u_BDI, grad_w_JEDI, *(totals.get(id(each)) for each in ctx.parameters)


# -- the votes of a piece ---------------------------------------------------------------------------------------------


class _VotePiece(NamedTuple):
    """The votes of some images, and their factors; all pieces share their memory."""

    images: slice
    votes_BJEI: Tensor
    room_IBF: Tensor
    u_IBD: Tensor
    w_IDF: Tensor


def _pieces(u_BDI: Tensor, w_JEDI: Tensor, product_type: torch.dtype | None) -> Iterator[_VotePiece]:
    images, components, children = u_BDI.shape
    parents, dim_out = w_JEDI.shape[:2]
    most = PIECE_BYTES.get(u_BDI.device.type, vote_operators.OTHER_PIECE_BYTES)
    rows = max(1, most // max(1, w_JEDI[:, :, 0].numel() * u_BDI.element_size()))
    rows = math.ceil(images / max(1, math.ceil(images / rows))) or 1  # pieces of one size
    u_IBD = (
        u_BDI.flatten(0, 1).T.contiguous().view(children, images, components)
    )  # the transposition of a matrix is fastest
    w_IDF = w_JEDI.permute(3, 2, 0, 1).flatten(2).contiguous()
    rooms = u_BDI.new_empty(2, rows * parents * dim_out * children)
    for row in range(0, images, rows):
        size = min(rows, images - row)
        votes, room = rooms[:, : size * parents * dim_out * children]
        votes_BJEI, room_IBF = votes.view(size, parents, dim_out, children), room.view(children, size, -1)
        here_IBD = u_IBD[:, row : row + size]
        add_bmm(room_IBF.zero_(), here_IBD, w_IDF, product_type)
        _children_last(room_IBF, votes_BJEI)
        yield _VotePiece(slice(row, row + size), votes_BJEI, room_IBF, here_IBD, w_IDF)
        if vote_operators.only_first_piece():
            return


class _RecordingVotes(GivenVotes):
    """Votes that record, in the backward pass, the outer products whose sum is their gradient."""

    def __init__(self, votes_BJEI: Tensor, mask_BI: Tensor | None) -> None:
        super().__init__(votes_BJEI, mask_BI)
        self._products: list[tuple[Tensor, Tensor]] = []
        self._grad_BJEI: Tensor | None = None

    def weighted_sum(self, coupling: Tensor | float) -> Tensor:
        batch, parents, _, children = self.shape
        if not isinstance(coupling, Tensor):
            coupling = self._votes_BJEI.new_full((), coupling)
        coupling_BJI = coupling.expand(batch, parents, children).contiguous()
        return cast("Tensor", _Sum.apply(coupling_BJI, self._votes_BJEI, self._products))  # type: ignore[no-untyped-call]

    def agreement(self, parents_BJE: Tensor) -> Tensor:
        return cast("Tensor", _Agreement.apply(parents_BJE, self._votes_BJEI, self._products))  # type: ignore[no-untyped-call]

    def differentiate(
        self, parts: Iterable[Tensor], grads: Iterable[Tensor | None], wanted: list[Tensor]
    ) -> tuple[Tensor | None, ...]:
        """The gradients of ``wanted``; that of the votes is stored for :meth:`gradient`."""
        pairs = [(part, grad) for part, grad in zip(parts, grads, strict=True) if grad is not None]
        pairs = [(part, grad) for part, grad in pairs if part.requires_grad]
        if not pairs:
            return (None,) * len(wanted)
        outputs, given = zip(*pairs, strict=True)
        self._grad_BJEI, *found = torch.autograd.grad(outputs, (self._votes_BJEI, *wanted), given, allow_unused=True)
        return tuple(found)

    def gradient(self, out: Tensor) -> Tensor:
        """The gradient of the votes, written to ``out``, which may be the memory of the votes."""
        (batch, parents, dim_out, children), count = self.shape, len(self._products)
        y_BJKI, x_BJKE = out.new_empty(batch, parents, count, children), out.new_empty(batch, parents, count, dim_out)
        for number, (y_BJI, x_BJE) in enumerate(self._products):
            y_BJKI[:, :, number], x_BJKE[:, :, number] = y_BJI, x_BJE
        torch.bmm(x_BJKE.flatten(0, 1).mT, y_BJKI.flatten(0, 1), out=out.flatten(0, 1))
        return out if self._grad_BJEI is None else out.add_(self._grad_BJEI)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, coupling_BJI: Tensor, votes_BJEI: Tensor, products: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.save_for_backward(coupling_BJI, votes_BJEI)
        ctx.products = products
        return sum_built(coupling_BJI, votes_BJEI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BJE: Tensor) -> tuple[Tensor | None, ...]:
        coupling_BJI, votes_BJEI = ctx.saved_tensors
        ctx.products.append((coupling_BJI.detach(), grad_BJE))  # with its graph it would reference itself
        return agree_built(grad_BJE, votes_BJEI) if ctx.needs_input_grad[0] else None, None, None


class _Agreement(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parents_BJE: Tensor, votes_BJEI: Tensor, products: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.save_for_backward(parents_BJE, votes_BJEI)
        ctx.products = products
        return agree_built(parents_BJE, votes_BJEI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BJI: Tensor) -> tuple[Tensor | None, ...]:
        parents_BJE, votes_BJEI = ctx.saved_tensors
        ctx.products.append((grad_BJI, parents_BJE.detach()))
        return sum_built(grad_BJI, votes_BJEI) if ctx.needs_input_grad[0] else None, None, None


def _children_first(from_BXI: Tensor, to_IBX: Tensor) -> None:
    """Copy with the children as the first dimension; as matrices, whose transposition is fastest."""
    to_IBX.flatten(1).copy_(from_BXI.flatten(0, -2).T)


def _children_last(from_IBX: Tensor, to_BXI: Tensor) -> None:
    """Copy with the children as the last dimension; the inverse of :func:`_children_first`."""
    to_BXI.flatten(0, -2).copy_(from_IBX.flatten(1).T)


def _of(tensor: Tensor | None, images: slice) -> Tensor | None:
    return None if tensor is None else tensor[images]
