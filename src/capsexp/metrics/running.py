"""A running mean."""

import torch
from torch import Tensor
from torchmetrics import Metric


class RunningMean(Metric):
    r"""Mean over samples, from sums: :math:`\sum_b \mathrm{total}_b / \sum_b \mathrm{count}_b`.

    The sums are float64, so that the mean over a data set depends on its division into batches only through the sums
    of the batches.

    Example:
        >>> mean = RunningMean()
        >>> mean.update(torch.tensor(3.0), 2)
        >>> mean.update(torch.tensor(9.0), 2)
        >>> float(mean.compute())
        3.0
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: int) -> None:
        """Add a batch: ``total`` is the sum over its ``count`` samples."""
        self.total += total
        self.count += count

    def compute(self) -> Tensor:
        """The mean; NaN when nothing was added."""
        return self.total / self.count
