"""Random scores: the control for all other criteria."""

import hashlib
from typing import ClassVar, Literal

import torch
from torch import Tensor

from capsexp.errors import require_int
from capsexp.pruning.base import Criterion, Layer


class Random(Criterion):
    """Score = uniform in [0, 1), a function of only seed, layer name and number of channels.

    The scores are the same on every machine and device.  They do not use torch's global generator, and do not depend on
    the layers that were scored before.

    Example:
        >>> layer = Layer("conv1", torch.zeros(4, 1, 3, 3))
        >>> bool((Random(seed=1).scores(layer) == Random(seed=1).scores(layer)).all())
        True
    """

    needs: ClassVar[Literal["weights", "maps"]] = "weights"
    equivariant: ClassVar[bool] = False

    def __init__(self, seed: int = 0) -> None:
        """Set the seed.

        Args:
            seed: an integer >= 0.

        Raises:
            ConfigError: another value.
        """
        self.seed = require_int("seed", seed, minimum=0)

    def scores(self, layer: Layer) -> Tensor:
        """One random number per channel: (O,), float64, on the CPU."""
        # Python's hash() of a string differs between processes.
        digest = hashlib.sha256(f"{self.seed}/{layer.name}/{layer.channels}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return torch.rand(layer.channels, generator=generator, dtype=torch.float64)
