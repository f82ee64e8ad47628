"""Scores by lot: the control that every other criterion has to beat."""

import hashlib
from typing import ClassVar, Literal

import torch
from torch import Tensor

from capsexp.errors import require_int
from capsexp.pruning.base import Criterion, Layer


class Random(Criterion):
    """Score = uniform in [0, 1), drawn from (seed, layer name, number of channels) and from nothing else.

    The draw is the same on every machine and device, leaves torch's global generator alone, and does not depend on
    which layers were scored before.

    Example:
        >>> layer = Layer("conv1", torch.zeros(4, 1, 3, 3))
        >>> bool((Random(seed=1).scores(layer) == Random(seed=1).scores(layer)).all())
        True
    """

    needs: ClassVar[Literal["weights", "maps"]] = "weights"
    equivariant: ClassVar[bool] = False

    def __init__(self, seed: int = 0) -> None:
        """Fix the draw.

        Args:
            seed: a whole number >= 0.

        Raises:
            ConfigError: another value.
        """
        self.seed = require_int("seed", seed, minimum=0)

    def scores(self, layer: Layer) -> Tensor:
        """One number a channel: (O,), float64, on the CPU."""
        # Python's hash() of a string changes from process to process.
        digest = hashlib.sha256(f"{self.seed}/{layer.name}/{layer.channels}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return torch.rand(layer.channels, generator=generator, dtype=torch.float64)
