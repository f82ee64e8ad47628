"""The weighted sum of votes and their agreement as operators with gradients, computed piece by piece; see ``votes``.

In the form T, the sum of y_BJI x_BJE w_JEDI u_BDI over all six letters, y is a coupling or the gradient of a logit, x a
parent's pose or the gradient of a sum, w the weight, and u holds the children's poses.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from capsexp.nn.autocast import without_autocast
from capsexp.nn.functional import at_least_single
from capsexp.nn.threads import each_in_a_thread


class WeightedSum(torch.autograd.Function):
    """s = dT/dx at y = coupling; its backward pass recomputes c*u instead of keeping it."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        coupling_BJI: Tensor,
        poses_BDI: Tensor,
        weight_JEDI: Tensor,
        built_BJEI: Tensor | None,
        product_type: Any,
    ) -> Tensor:
        ctx.save_for_backward(coupling_BJI, poses_BDI, weight_JEDI)
        ctx.product_type = product_type
        if built_BJEI is not None:
            return sum_built(coupling_BJI, built_BJEI)
        return _sum_votes(coupling_BJI, poses_BDI, weight_JEDI, product_type)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BJE: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        coupling_BJI, poses_BDI, weight_JEDI = ctx.saved_tensors
        wanted = ("y" if ctx.needs_input_grad[0] else "") + _wanted(ctx)
        found = _gradients(wanted, coupling_BJI, grad_BJE, poses_BDI, weight_JEDI, ctx.product_type)
        return found.get("y"), found.get("u"), found.get("w"), None, None


class Agreement(torch.autograd.Function):
    """b = dT/dy at x = the parents' poses; its backward pass recomputes v W instead of keeping it."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        parents_BJE: Tensor,
        poses_BDI: Tensor,
        weight_JEDI: Tensor,
        built_BJEI: Tensor | None,
        product_type: Any,
    ) -> Tensor:
        ctx.save_for_backward(parents_BJE, poses_BDI, weight_JEDI)
        ctx.product_type = product_type
        if built_BJEI is not None:
            return agree_built(parents_BJE, built_BJEI)
        return _agree(parents_BJE, poses_BDI, weight_JEDI, product_type)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BJI: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        parents_BJE, poses_BDI, weight_JEDI = ctx.saved_tensors
        wanted = ("x" if ctx.needs_input_grad[0] else "") + _wanted(ctx)
        found = _gradients(wanted, grad_BJI, parents_BJE, poses_BDI, weight_JEDI, ctx.product_type)
        return found.get("x"), found.get("u"), found.get("w"), None, None


def _wanted(ctx: Any) -> str:
    return ("u" if ctx.needs_input_grad[1] else "") + ("w" if ctx.needs_input_grad[2] else "")


# -- the form T and its derivatives -----------------------------------------------------------------------------------

PIECE_BYTES = {"cpu": 5 << 19}
"""Largest size of a piece of c*u or v W: one that stays in the cache of a CPU, or one that fills another device."""
OTHER_PIECE_BYTES = 256 << 20


_first_alone = False


@contextlib.contextmanager
def first_piece_alone() -> Iterator[None]:
    """Compute only the first piece: for tensors without content, as all pieces take the same memory."""
    global _first_alone  # a plain name, which torch.compile can read
    _first_alone = True
    try:
        yield
    finally:
        _first_alone = False


def only_first_piece() -> bool:
    """True if only the first piece is computed, see :func:`first_piece_alone`."""
    return _first_alone


Piece = tuple[slice, slice]
"""Some images and some parents."""


def _pieces(u_BDI: Tensor, parents: int) -> tuple[list[slice], list[slice], Callable[[], Tensor | None]]:
    """The slices of images and of parents, and what makes the memory of a piece (parents, images, D, I).

    All pieces of a thread share one buffer, as the allocation of memory costs more than the writes to it.  A compiler
    allocates the memory itself.
    """
    images, shape = len(u_BDI), u_BDI.shape[1:]
    most = PIECE_BYTES.get(u_BDI.device.type, OTHER_PIECE_BYTES) // u_BDI.element_size() // max(1, shape.numel())
    rows = math.ceil(images / max(1, math.ceil(images / max(1, most)))) or 1  # pieces of one size
    several = min(parents, max(1, most // rows))
    size = several * rows * shape.numel()

    def make_room() -> Tensor | None:
        return None if torch.compiler.is_compiling() else u_BDI.new_empty(size)

    some_images = [slice(row, min(row + rows, images)) for row in range(0, images, rows)]
    some_parents = [slice(parent, min(parent + several, parents)) for parent in range(0, parents, several)]
    if _first_alone:
        return some_images[:1], some_parents[:1], make_room
    return some_images, some_parents, make_room


def _of_piece(room: Tensor | None, u_BDI: Tensor, parents: slice) -> Tensor | None:
    """The memory for a piece's (parents, images, D, I)."""
    shape = parents.stop - parents.start, *u_BDI.shape
    return None if room is None else room[: math.prod(shape)].view(shape)


def _sum_votes(y_BJI: Tensor, u_BDI: Tensor, w_JEDI: Tensor, product_type: torch.dtype | None) -> Tensor:
    """dT/dx (B, J, E)."""
    found_BJE = u_BDI.new_empty(len(u_BDI), *w_JEDI.shape[:2])
    images, parents, make_room = _pieces(u_BDI, len(w_JEDI))

    def work(piece: Piece, room: Tensor | None) -> None:
        b, j = piece
        weighted = _weigh(y_BJI[b, j].transpose(0, 1)[:, :, None], u_BDI[b], _of_piece(room, u_BDI[b], j))
        found_BJE[b, j] = bmm(weighted, w_JEDI[j].flatten(2).mT, product_type).transpose(0, 1)

    each_in_a_thread(work, list(itertools.product(images, parents)), make_room, u_BDI)
    return found_BJE


def _agree(x_BJE: Tensor, u_BDI: Tensor, w_JEDI: Tensor, product_type: torch.dtype | None) -> Tensor:
    """dT/dy (B, J, I)."""
    found_BJI = u_BDI.new_empty(len(u_BDI), len(w_JEDI), u_BDI.shape[2])
    images, parents, make_room = _pieces(u_BDI, len(w_JEDI))

    def work(piece: Piece, room: Tensor | None) -> None:
        b, j = piece
        back = _pull(x_BJE[b, j].transpose(0, 1), w_JEDI[j], product_type, _of_piece(room, u_BDI[b], j))
        found_BJI[b, j] = back.mul_(u_BDI[b]).sum(2).transpose(0, 1)

    each_in_a_thread(work, list(itertools.product(images, parents)), make_room, u_BDI)
    return found_BJI


def _gradients(
    wanted: str, y_BJI: Tensor, x_BJE: Tensor, u_BDI: Tensor, w_JEDI: Tensor, product_type: torch.dtype | None
) -> dict[str, Tensor]:
    """The derivatives of T with respect to those of y, x, u and w that ``wanted`` names.

    That of u is a sum over parents, that of w a sum over images: a thread adds up all terms of one, in one order.
    """
    like = {"y": y_BJI, "x": x_BJE, "u": u_BDI, "w": w_JEDI}
    start = {"y": torch.empty_like, "x": torch.empty_like, "u": torch.zeros_like, "w": torch.zeros_like}
    found = {name: start[name](like[name], memory_format=torch.contiguous_format) for name in wanted}
    images, parents, make_room = _pieces(u_BDI, len(w_JEDI))

    def pull(b: slice, room: Tensor | None) -> None:
        for j in parents:
            back = _pull(x_BJE[b, j].transpose(0, 1), w_JEDI[j], product_type, _of_piece(room, u_BDI[b], j))
            if "u" in wanted:
                _add_product(found["u"][b], y_BJI[b, j].transpose(0, 1)[:, :, None], back)
            if "y" in wanted:
                found["y"][b, j] = back.mul_(u_BDI[b]).sum(2).transpose(0, 1)

    def weigh(j: slice, room: Tensor | None) -> None:
        for b in images:
            weighted = _weigh(y_BJI[b, j].transpose(0, 1)[:, :, None], u_BDI[b], _of_piece(room, u_BDI[b], j))
            if "x" in wanted:
                found["x"][b, j] = bmm(weighted, w_JEDI[j].flatten(2).mT, product_type).transpose(0, 1)
            if "w" in wanted:
                add_bmm(found["w"][j].flatten(2), x_BJE[b, j].transpose(0, 1).mT, weighted, product_type)

    if "y" in wanted or "u" in wanted:
        each_in_a_thread(pull, images, make_room, u_BDI)
    if "x" in wanted or "w" in wanted:
        each_in_a_thread(weigh, parents, make_room, u_BDI)
    return found


def materialised(u_BDI: Tensor, w_JEDI: Tensor, product_type: torch.dtype | None) -> Tensor:
    """The votes (B, J, E, I), by one batched product over the children."""
    votes_IBF = bmm(u_BDI.permute(2, 0, 1), w_JEDI.permute(3, 2, 0, 1).flatten(2), product_type)
    votes_FI = votes_IBF.flatten(1).T.contiguous()  # as a matrix, whose transposition is twice as fast
    return votes_FI.view(u_BDI.shape[0], *w_JEDI.shape[:2], w_JEDI.shape[3])  # an exporter's batch has no len


def sum_built(coupling: Tensor, votes_BJEI: Tensor) -> Tensor:
    """The weighted sum (B, J, E) of votes that are built; row by matrix is twice as fast as matrix by column."""
    with without_autocast(votes_BJEI.device.type):
        return (coupling[..., None, :] @ votes_BJEI.mT).squeeze(-2)


def agree_built(parents_BJE: Tensor, votes_BJEI: Tensor) -> Tensor:
    """The agreement (B, J, I) with votes that are built."""
    with without_autocast(votes_BJEI.device.type):
        return (parents_BJE[:, :, None] @ votes_BJEI).squeeze(2)


def _weigh(y: Tensor, u_BDI: Tensor, room: Tensor | None) -> Tensor:
    """A piece of y * u, flattened to (parents, images, D*I)."""
    return (y * u_BDI if room is None else torch.mul(y, u_BDI, out=room)).flatten(2)


def _pull(x: Tensor, w_JEDI: Tensor, product_type: torch.dtype | None, room: Tensor | None) -> Tensor:
    """A piece of x W, the parents' poses mapped back to the children's components: (parents, images, D, I)."""
    shape = len(x), x.shape[1], *w_JEDI.shape[2:]
    if room is None or product_type is not None:
        return bmm(x, w_JEDI.flatten(2), product_type).view(shape)
    return torch.bmm(x, w_JEDI.flatten(2), out=room.flatten(2)).view(shape)


def bmm(left: Tensor, right: Tensor, product_type: torch.dtype | None) -> Tensor:
    """A batched product in float32 or better, with its factors in ``product_type`` if that is given."""
    if product_type is None:
        return torch.bmm(left, right)
    return at_least_single(torch.bmm(left.to(product_type), right.to(product_type)))


def _add_product(total_BDI: Tensor, y: Tensor, back: Tensor) -> None:
    """Add y * back, summed over the parents of a piece: on a CPU one pass per parent, elsewhere one kernel for all."""
    if total_BDI.device.type != "cpu":
        total_BDI += (y * back).sum(0)
        return
    for y_BI, back_BDI in zip(y, back, strict=True):
        total_BDI.addcmul_(y_BI, back_BDI)


def add_bmm(total: Tensor, left: Tensor, right: Tensor, product_type: torch.dtype | None) -> None:
    """Add a batched product to ``total``."""
    if product_type is None:
        total.baddbmm_(left, right)
    else:
        total += bmm(left, right, product_type)
