"""Norm of a filter.

Reference: Li, Kadav, Durdanovic, Samet & Graf 2017, *Pruning Filters for Efficient ConvNets* (ICLR), section 3.1:
filters with a small sum of absolute weights are pruned first.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from capsexp.errors import require_int
from capsexp.pruning.base import Criterion, Layer


class Magnitude(Criterion):
    """Score = the L1 (or L2) norm of the weights of the filter; biases do not count.

    Example:
        >>> weight = torch.tensor([[3.0, -4.0], [6.0, 0.0]])[:, :, None, None]
        >>> Magnitude().scores(Layer("conv1", weight))
        tensor([7., 6.], dtype=torch.float64)
        >>> Magnitude(norm=2).scores(Layer("conv1", weight))
        tensor([5., 6.], dtype=torch.float64)
    """

    needs: ClassVar[Literal["weights", "maps"]] = "weights"

    def __init__(self, norm: int = 1) -> None:
        """Choose the norm.

        Args:
            norm: 1 (the paper's choice) or 2.

        Raises:
            ConfigError: another value.
        """
        self.norm = require_int("norm", norm, minimum=1, maximum=2)

    def scores(self, layer: Layer) -> Tensor:
        """The norm of each filter: (O,), float64, on the CPU, in the unit of the weights."""
        norms_O: Tensor = torch.linalg.vector_norm(layer.filters.cpu(), ord=self.norm, dim=1)
        return norms_O
