"""A linear map of its own for every child: logits of a small classifier that looks at one pose."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from capsexp.nn.autocast import autocast_type, without_autocast
from capsexp.nn.functional import at_least_single
from capsexp.nn.vote_operators import bmm


def childwise(poses_BID: Tensor, weight_JDI: Tensor) -> Tensor:
    """The product of every child's pose with its own matrix (J, D): (B, J, I), in float32 or better.

    Forward and backward are batched products over the children, on operands that lie child by child: from other layouts
    torch copies every matrix for itself.

    Args:
        poses_BID: poses of the children.
        weight_JDI: the matrices.

    Example:
        >>> childwise(torch.rand(5, 36, 8), torch.rand(10, 8, 36)).shape
        torch.Size([5, 10, 36])
    """
    product_type = autocast_type(poses_BID.device.type)
    poses_BID, weight_JDI = at_least_single(poses_BID), at_least_single(weight_JDI)
    with without_autocast(poses_BID.device.type):
        if torch.compiler.is_compiling():
            return _product(_child_first(poses_BID.transpose(1, 2)), _child_first(weight_JDI), product_type)
        return cast("Tensor", _Childwise.apply(poses_BID, weight_JDI, product_type))  # type: ignore[no-untyped-call]


class _Childwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, poses_BID: Tensor, weight_JDI: Tensor, product_type: torch.dtype | None) -> Tensor:
        u_IBD, w_IJD = _child_first(poses_BID.transpose(1, 2)), _child_first(weight_JDI)
        ctx.save_for_backward(u_IBD, w_IJD)
        ctx.product_type = product_type
        return _product(u_IBD, w_IJD, product_type)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BJI: Tensor) -> tuple[Tensor | None, ...]:
        u_IBD, w_IJD = ctx.saved_tensors
        grad_IBJ = _child_first(grad_BJI)
        with without_autocast(grad_BJI.device.type):
            grad_u = bmm(grad_IBJ, w_IJD, ctx.product_type).transpose(0, 1) if ctx.needs_input_grad[0] else None
            grad_w = bmm(grad_IBJ.mT, u_IBD, ctx.product_type) if ctx.needs_input_grad[1] else None
        return grad_u, None if grad_w is None else _child_last(grad_w), None


def _product(u_IBD: Tensor, w_IJD: Tensor, product_type: torch.dtype | None) -> Tensor:
    return _child_last(bmm(u_IBD, w_IJD.mT, product_type))


def _child_first(values_XYI: Tensor) -> Tensor:
    """(I, X, Y); as a matrix, whose transposition is fastest."""
    return values_XYI.flatten(0, 1).T.contiguous().view(values_XYI.shape[2], *values_XYI.shape[:2])


def _child_last(values_IXY: Tensor) -> Tensor:
    """(X, Y, I); the inverse of :func:`_child_first`."""
    return values_IXY.flatten(1).T.contiguous().view(*values_IXY.shape[1:], values_IXY.shape[0])
