"""The filter that keeps all images."""

import torch
from torch import Tensor

from capsexp.filters.base import Filter


class Everything(Filter):
    """A filter that keeps every image: Zhao et al. (2019), section 5.

    Example:
        >>> Everything().keep(torch.rand(2, 4), torch.tensor([0, 1]))
        tensor([True, True])
    """

    def keep(self, columns_BI: Tensor, labels_B: Tensor) -> Tensor:
        """True for every image, bool (B,)."""
        return torch.ones_like(labels_B, dtype=torch.bool)
