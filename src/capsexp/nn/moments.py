r"""Scatter of votes around their parent's mean, and distances from it: the second moments of routing by Gaussians.

Both are derivatives of one form,

.. math:: Q = \sum_{bjei} y_{bji}\, x_{bje}\, (v_{bjei} - \mu_{bje})^2,

the scatter :math:`\partial Q / \partial x` at y = weights and the distances :math:`\partial Q / \partial y` at x =
precisions.  So the gradients of both are the other derivatives of Q, and nothing of the size of the votes is kept for
them.  The squares are of centred votes: the difference of two means of squares would lose all digits in float32.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from capsexp.nn.vote_operators import agree_built, sum_built

Record = Callable[[Tensor, Tensor, Tensor], None]
"""Takes y (B, J, I), x (B, J, E) and mu (B, J, E), for the gradient 2 y x (v - mu) of the votes."""


class Squares:
    """The squared differences of votes (B, J, E, I) from a mean (B, J, E), in memory that is used again.

    Example:
        >>> Squares().of(torch.tensor([[[[1.0, 4.0]]]]), torch.tensor([[[3.0]]]))
        tensor([[[[4., 1.]]]])
    """

    def __init__(self) -> None:
        self._room: Tensor | None = None
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def of(self, votes_BJEI: Tensor, mean_BJE: Tensor) -> Tensor:
        """The squares, computed unless the last ones were of the same tensors; valid until the next call.

        A change of a tensor in place is noticed, except in inference mode.
        """
        if self._last is not None and _same(self._last[0], votes_BJEI) and _same(self._last[1], mean_BJE):
            return self._last[2]
        squares_BJEI = self.room(votes_BJEI)
        # The fused kernel of this loss subtracts and squares in one pass.
        torch.ops.aten.mse_loss.out(votes_BJEI.detach(), mean_BJE.detach()[..., None], 0, out=squares_BJEI)
        self._last = votes_BJEI.detach(), mean_BJE.detach(), squares_BJEI
        return squares_BJEI

    def room(self, like_BJEI: Tensor) -> Tensor:
        """Memory of the shape of the votes; what was in it is lost."""
        self._last, size = None, like_BJEI.numel()
        if self._room is None or len(self._room) < size:
            self._room = like_BJEI.new_empty(size)
        return self._room[:size].view(like_BJEI.shape)

    def forget(self) -> None:
        """Compute the next squares whatever they are of: the memory of the votes holds others now."""
        self._last = None


def scatter(
    weights_BJI: Tensor,
    mean_BJE: Tensor,
    votes_BJEI: Tensor,
    squares: Squares | None = None,
    record: Record | None = None,
) -> Tensor:
    """The weighted sum of squared differences of the votes from their mean: (B, J, E).

    Args:
        weights_BJI: a weight for each child of each parent.
        mean_BJE: the weighted sum of the votes with these weights, without which the gradient would be wrong.
        votes_BJEI: the votes.
        squares: where the squares are kept; None for memory of this call's own.
        record: takes the gradient of the votes in place of autograd.

    Example:
        >>> scatter(torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[3.0]]]), torch.tensor([[[[1.0, 5.0]]]]))
        tensor([[[4.]]])
    """
    if torch.compiler.is_compiling():
        return sum_built(weights_BJI, (votes_BJEI - mean_BJE[..., None]).square())
    arguments = weights_BJI, mean_BJE, votes_BJEI, squares or Squares(), record
    return cast("Tensor", _Scatter.apply(*arguments))  # type: ignore[no-untyped-call]


def distances(
    mean_BJE: Tensor,
    precision_BJE: Tensor,
    votes_BJEI: Tensor,
    squares: Squares | None = None,
    record: Record | None = None,
) -> Tensor:
    """The squared distance of each vote from its parent's mean, in units of the parent's precisions: (B, J, I).

    Args:
        mean_BJE: the parents' means.
        precision_BJE: a factor for the square of each component.
        votes_BJEI: the votes.
        squares: see :func:`scatter`.
        record: see :func:`scatter`.

    Example:
        >>> distances(torch.tensor([[[3.0]]]), torch.tensor([[[0.5]]]), torch.tensor([[[[1.0, 4.0]]]]))
        tensor([[[2.0000, 0.5000]]])
    """
    if torch.compiler.is_compiling():
        return agree_built(precision_BJE, (votes_BJEI - mean_BJE[..., None]).square())
    arguments = mean_BJE, precision_BJE, votes_BJEI, squares or Squares(), record
    return cast("Tensor", _Distances.apply(*arguments))  # type: ignore[no-untyped-call]


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weights_BJI: Tensor, mean_BJE: Tensor, votes_BJEI: Tensor, squares: Squares, record: Record | None
    ) -> Tensor:
        ctx.save_for_backward(weights_BJI, mean_BJE, votes_BJEI)
        ctx.squares, ctx.record = squares, record
        return sum_built(weights_BJI, squares.of(votes_BJEI, mean_BJE))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BJE: Tensor) -> tuple[Tensor | None, ...]:
        weights_BJI, mean_BJE, votes_BJEI = ctx.saved_tensors
        grad_weights = grad_mean = None
        if ctx.needs_input_grad[0]:
            grad_weights = agree_built(grad_BJE, ctx.squares.of(votes_BJEI, mean_BJE))
        if ctx.needs_input_grad[1]:  # sum_i w (v - mu), where mu = sum_i w v
            grad_mean = -2 * grad_BJE * mean_BJE * (1 - weights_BJI.sum(2, keepdim=True))
        grad_votes = _of_votes(ctx, weights_BJI, grad_BJE, mean_BJE, votes_BJEI)
        return grad_weights, grad_mean, grad_votes, None, None


class _Distances(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mean_BJE: Tensor, precision_BJE: Tensor, votes_BJEI: Tensor, squares: Squares, record: Record | None
    ) -> Tensor:
        ctx.save_for_backward(mean_BJE, precision_BJE, votes_BJEI)
        ctx.squares, ctx.record = squares, record
        return agree_built(precision_BJE, squares.of(votes_BJEI, mean_BJE))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BJI: Tensor) -> tuple[Tensor | None, ...]:
        mean_BJE, precision_BJE, votes_BJEI = ctx.saved_tensors
        grad_mean = grad_precision = None
        if ctx.needs_input_grad[1]:
            grad_precision = sum_built(grad_BJI, ctx.squares.of(votes_BJEI, mean_BJE))
        if ctx.needs_input_grad[0]:
            centred_BJE = sum_built(grad_BJI, votes_BJEI) - mean_BJE * grad_BJI.sum(2, keepdim=True)
            grad_mean = -2 * precision_BJE * centred_BJE
        grad_votes = _of_votes(ctx, grad_BJI, precision_BJE, mean_BJE, votes_BJEI)
        return grad_mean, grad_precision, grad_votes, None, None


def _of_votes(ctx: Any, y_BJI: Tensor, x_BJE: Tensor, mean_BJE: Tensor, votes_BJEI: Tensor) -> Tensor | None:
    """The gradient 2 y x (v - mu) of the votes; None if it is recorded, or not wanted."""
    if ctx.record is not None:
        ctx.record(y_BJI.detach(), x_BJE.detach(), mean_BJE.detach())
        return None
    if not ctx.needs_input_grad[2]:
        return None
    return (votes_BJEI - mean_BJE[..., None]).mul_(2 * x_BJE[..., None]).mul_(y_BJI[:, :, None])


def _same(one: Tensor, other: Tensor) -> bool:
    """True if both are the same numbers in the same memory, which this holds, so that nothing else gets it."""
    if one.shape != other.shape or one.stride() != other.stride() or _place(one) != _place(other):
        return False
    return one.is_inference() or other.is_inference() or one._version == other._version


def _place(tensor: Tensor) -> tuple[int, int]:
    """The storage of a tensor and its place there, which tensors without memory have too."""
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset())
