"""The weighted sum of votes and their agreement as operators with gradients, computed piece by piece; see ``votes``.

In the form T, the sum of y_BJI x_BJE w_JEDI u_BDI over all six letters, y is a coupling or the gradient of a logit, x a
parent's pose or the gradient of a sum, w the weight, and u holds the children's poses.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from capsexp.nn.functional import at_least_single


class WeightedSum(torch.autograd.Function):
    """s = dT/dx at y = coupling; its backward recomputes c*u instead of keeping it."""

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
            return (built_BJEI @ coupling_BJI[..., None]).squeeze(3)
        return _sum_votes(coupling_BJI, poses_BDI, weight_JEDI, product_type)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BJE: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        coupling_BJI, poses_BDI, weight_JEDI = ctx.saved_tensors
        wanted = ("y" if ctx.needs_input_grad[0] else "") + _wanted(ctx)
        found = _gradients(wanted, coupling_BJI, grad_BJE, poses_BDI, weight_JEDI, ctx.product_type)
        return found.get("y"), found.get("u"), found.get("w"), None, None


class Agreement(torch.autograd.Function):
    """b = dT/dy at x = the parents' poses; its backward recomputes v W instead of keeping it."""

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
            return (parents_BJE[:, :, None] @ built_BJEI).squeeze(2)
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

PIECE_BYTES = {"cpu": 5 << 20}
"""How large a piece of c*u or v W may be: on a CPU what stays in its cache, elsewhere what fills the device."""
OTHER_PIECE_BYTES = 256 << 20


def _pieces(poses_BDI: Tensor, parents: int) -> Iterator[tuple[slice, slice]]:
    """Slices of images and of parents, such that one piece (images, parents, D, I) is small enough."""
    budget = PIECE_BYTES.get(poses_BDI.device.type, OTHER_PIECE_BYTES) // poses_BDI.element_size()
    values = poses_BDI[0].numel() if len(poses_BDI) else 1
    rows = min(max(1, budget // values), len(poses_BDI)) or 1
    several = max(1, budget // (values * rows))
    for row in range(0, len(poses_BDI), rows):
        for parent in range(0, parents, several):
            yield slice(row, row + rows), slice(parent, parent + several)


def _sum_votes(y_BJI: Tensor, u_BDI: Tensor, w_JEDI: Tensor, product_type: torch.dtype | None) -> Tensor:
    """dT/dx (B, J, E)."""
    found_BJE = u_BDI.new_empty(len(u_BDI), *w_JEDI.shape[:2])
    for b, j in _pieces(u_BDI, len(w_JEDI)):
        weighted = y_BJI[b, j].transpose(0, 1)[:, :, None] * u_BDI[b]  # (j, b, D, I)
        found_BJE[b, j] = _bmm(weighted.flatten(2), w_JEDI[j].flatten(2).mT, product_type).transpose(0, 1)
    return found_BJE


def _agree(x_BJE: Tensor, u_BDI: Tensor, w_JEDI: Tensor, product_type: torch.dtype | None) -> Tensor:
    """dT/dy (B, J, I)."""
    found_BJI = u_BDI.new_empty(len(u_BDI), len(w_JEDI), u_BDI.shape[2])
    for b, j in _pieces(u_BDI, len(w_JEDI)):
        back = _bmm(x_BJE[b, j].transpose(0, 1), w_JEDI[j].flatten(2), product_type).view(-1, *u_BDI[b].shape)
        found_BJI[b, j] = back.mul_(u_BDI[b]).sum(2).transpose(0, 1)
    return found_BJI


def _gradients(
    wanted: str, y_BJI: Tensor, x_BJE: Tensor, u_BDI: Tensor, w_JEDI: Tensor, product_type: torch.dtype | None
) -> dict[str, Tensor]:
    """The derivatives of T by the arguments named in ``wanted``, of y, x, u and w."""
    like = {"y": y_BJI, "x": x_BJE, "u": u_BDI, "w": w_JEDI}
    found = {name: torch.zeros_like(like[name], memory_format=torch.contiguous_format) for name in wanted}
    for b, j in _pieces(u_BDI, len(w_JEDI)):
        y, x, w = y_BJI[b, j].transpose(0, 1)[:, :, None], x_BJE[b, j].transpose(0, 1), w_JEDI[j].flatten(2)
        if "y" in wanted or "u" in wanted:
            back = _bmm(x, w, product_type).view(-1, *u_BDI[b].shape)  # (j, b, D, I)
            if "u" in wanted:
                for y_BI, back_BDI in zip(y, back, strict=True):
                    found["u"][b].addcmul_(y_BI, back_BDI)
            if "y" in wanted:
                found["y"][b, j] = back.mul_(u_BDI[b]).sum(2).transpose(0, 1)
        if "x" in wanted or "w" in wanted:
            weighted = (y * u_BDI[b]).flatten(2)
            if "x" in wanted:
                found["x"][b, j] = _bmm(weighted, w.mT, product_type).transpose(0, 1)
            if "w" in wanted:
                found["w"][j] += _bmm(x.mT, weighted, product_type).view_as(found["w"][j])
    return found


def materialised(u_BDI: Tensor, w_JEDI: Tensor, product_type: torch.dtype | None) -> Tensor:
    """(B, J, E, I) by one batched product over the children."""
    parents, components = w_JEDI.shape[:2]
    votes_IBF = _bmm(u_BDI.permute(2, 0, 1), w_JEDI.permute(3, 2, 0, 1).flatten(2), product_type)
    return votes_IBF.view(*votes_IBF.shape[:2], parents, components).permute(1, 2, 3, 0).contiguous()


def _bmm(left: Tensor, right: Tensor, product_type: torch.dtype | None) -> Tensor:
    """A batched product, its factors in ``product_type`` if there is one, the result in float32 or better."""
    if product_type is None:
        return torch.bmm(left, right)
    return at_least_single(torch.bmm(left.to(product_type), right.to(product_type)))
