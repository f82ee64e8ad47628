"""Max-min routing: the couplings of a child are scaled to a range and need not add up to 1."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from capsexp.errors import require, require_number
from capsexp.routing.base import AgreementRouting


class MaxMin(AgreementRouting):
    """Zhao et al. (2019), *Fast Inference in Capsule Networks Using Accumulated Routing Coefficients*, equation (2).

    The logits of a child are mapped onto [lower, upper] over its parents, so that it may belong to several at once.
    If they are all equal (a child that is zero), the coupling is ``upper``.

    Args:
        lower: p, the coupling with the parent of least agreement.
        upper: q, the coupling with the parent of largest agreement.
        **options: iterations, gradient, the four sizes and squash.

    Example:
        >>> from capsexp.nn import GivenVotes
        >>> votes = GivenVotes(torch.tensor([[[[3.0, 2.0]], [[1.0, -1.0]]]]))  # of 2 children for 2 parents
        >>> MaxMin(children=2, parents=2, dim_in=1, dim_out=1, iterations=2)(votes).coupling_BJI
        tensor([[[1., 1.],
                 [0., 0.]]])
    """

    def __init__(self, *, lower: float = 0.0, upper: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.lower, self.upper = require_number("lower", lower), require_number("upper", upper)
        require(lower < upper, "lower", f"be less than upper ({upper})", lower)
        self.coupling_range = (min(self.lower, 1.0), max(self.upper, 1.0))

    @property
    def first_coupling(self) -> float:
        """1, for any range."""
        return 1.0

    @property
    def weight_std(self) -> float:
        """0.1 / J: couplings of 1 make the sums J times those of softmax, which would saturate (docs/decisions.md)."""
        return 0.1 / self.parent_count

    def couple(self, logits_BJI: Tensor) -> Tensor:
        """The coupling c = p + (b - min) / (max - min) * (q - p), with min and max over the parents."""
        return cast("Tensor", _Scale.apply(logits_BJI, self.lower, self.upper))  # type: ignore[no-untyped-call]


class _Scale(torch.autograd.Function):
    """The formula as one operator: its backward pass needs mainly the coupling, which the weighted sum keeps anyway."""

    @staticmethod
    def forward(ctx: Any, logits_BJI: Tensor, lower: float, upper: float) -> Tensor:
        least_B1I = logits_BJI.amin(1, keepdim=True)
        spread_B1I = logits_BJI.amax(1, keepdim=True) - least_B1I
        numbers = torch.finfo(spread_B1I.dtype)
        equal_B1I = spread_B1I < numbers.tiny / numbers.eps  # below this, its reciprocal overflows
        spread_B1I = spread_B1I.masked_fill_(equal_B1I, torch.inf)  # so that the gradient is zero there
        coupling_BJI = (logits_BJI - least_B1I).div_(spread_B1I).mul_(upper - lower).add_(lower)
        coupling_BJI.masked_fill_(equal_B1I, upper)
        ctx.save_for_backward(coupling_BJI, spread_B1I)
        ctx.lower, ctx.upper = lower, upper
        return coupling_BJI

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BJI: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of each logit, minus the parts of the largest and the smallest; ties share these, as in amax."""
        coupling_BJI, spread_B1I = ctx.saved_tensors
        slope_BJI = grad_BJI * ((ctx.upper - ctx.lower) / spread_B1I)
        scaled_BJI = (coupling_BJI - ctx.lower) / (ctx.upper - ctx.lower)
        to_most_B1I = (slope_BJI * scaled_BJI).sum(1, keepdim=True)
        to_least_B1I = slope_BJI.sum(1, keepdim=True) - to_most_B1I
        for end, taken_B1I in ((torch.amin, to_least_B1I), (torch.amax, to_most_B1I)):
            there_BJI = coupling_BJI == end(coupling_BJI, 1, keepdim=True)
            slope_BJI -= there_BJI * (taken_B1I / there_BJI.sum(1, keepdim=True))
        return slope_BJI, None, None
