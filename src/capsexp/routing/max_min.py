"""Max-min routing: a child's couplings are scaled, not shared out."""

import torch
from torch import Tensor

from capsexp.errors import require, require_number
from capsexp.routing.base import AgreementRouting


class MaxMin(AgreementRouting):
    """Zhao et al. (2019), *Fast Inference in Capsule Networks Using Accumulated Routing Coefficients*, equation (2).

    A child's logits are mapped onto [lower, upper] over its parents, so that it may belong to several at once.  Where
    they are all equal (a child that is zero) the coupling is ``upper``, as before the loop.

    Args:
        lower: p, the coupling with the parent that agrees least.
        upper: q, the coupling with the one that agrees most.
        **options: iterations, gradient, the four sizes and squash.
    """

    def __init__(self, *, lower: float = 0.0, upper: float = 1.0, **options: int | str) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.lower, self.upper = require_number("lower", lower), require_number("upper", upper)
        require(lower < upper, "lower", f"be less than upper ({upper})", lower)
        self.coupling_range = (min(self.lower, 1.0), max(self.upper, 1.0))

    @property
    def first_coupling(self) -> float:
        """1 whatever the range."""
        return 1.0

    @property
    def weight_std(self) -> float:
        """0.1 / J: couplings of 1 make the sums J times those of softmax, which would saturate (docs/decisions.md)."""
        return 0.1 / self.parent_count

    def couple(self, logits_BJI: Tensor) -> Tensor:
        """Over the parents, c = p + (b - min) / (max - min) * (q - p)."""
        least, most = logits_BJI.amin(1, keepdim=True), logits_BJI.amax(1, keepdim=True)
        spread = most - least
        equal = spread <= 0
        scaled = (logits_BJI - least) / spread.masked_fill(equal, 1.0)
        return torch.where(equal, self.upper, self.lower + scaled * (self.upper - self.lower))
