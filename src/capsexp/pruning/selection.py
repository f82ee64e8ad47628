"""The selection of the channels to keep: from scores to indices."""

import math
from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor

from capsexp.errors import require, require_choice, require_int, require_number
from capsexp.nn.channels import ChannelLayer

ROUNDINGS = ("up", "down", "released")


class Selection:
    """Removal of the same share of each layer's channels, those with the lowest scores.

    Sahu and Altahhan (2024), section 3.4: the share of a layer is rounded to a multiple of its step (in a capsule
    network the dimension D of the capsules), upwards according to the text.  At least one step stays, with ``released``
    at least one channel, and a layer with fewer channels than one step stays unchanged.

    Args:
        ratio: share of the channels to remove, at least 0 and below 1.
        granularity: ``channel`` removes single channels of the primary capsules, and the kept ones are grouped into new
            capsules, in their order (the paper); ``capsule`` removes whole capsules, those with the lowest sums.
        rounding: ``up``, the text; ``down``; or ``released``, the authors' code: down, but at least one step of a layer
            with more channels than one step, and with no regard to how many stay.  A ratio of 0 removes nothing there
            either, and a layer that their code would leave without a channel stays unchanged.
        merge: True merges a removed channel into the most similar kept one (Wang 2019, section 2.1; see ``merging``).
            It does not change the selection.

    Example:
        >>> Selection(0.25).count(12, 4)  # the example of the paper: three would be a quarter
        4
        >>> Selection(0.25, rounding="down").count(12, 4)
        0
        >>> Selection(0.25, rounding="released").count(12, 4)
        4
    """

    def __init__(
        self, ratio: float, granularity: str = "channel", rounding: str = "up", *, merge: bool = False
    ) -> None:
        self.ratio = require_number("ratio", ratio, 0, 1, open_ends=">")
        self.granularity = require_choice("granularity", granularity, ("channel", "capsule"))
        self.rounding = require_choice("rounding", rounding, ROUNDINGS)
        require(isinstance(merge, bool), "merge", "be true or false", merge)
        self.merge = merge

    def count(self, channels: int, step: int) -> int:
        """The number of channels of a layer to remove, a multiple of ``step``."""
        if self.rounding == "released":
            return self._released(channels, step)
        steps = Fraction(str(self.ratio)) * channels / step  # as a decimal fraction: .1 of 30 is exactly 3
        wanted = math.ceil(steps) if self.rounding == "up" else math.floor(steps)
        return max(0, min(wanted, channels // step - 1)) * step

    def _released(self, channels: int, step: int) -> int:
        """The number that the authors' code removes: its product is one of floats, and it knows no upper bound."""
        if not self.ratio or channels <= step:
            return 0
        cut = int(channels * self.ratio)
        return cut - cut % step if cut > step else step

    def widths(self, layers: Mapping[str, ChannelLayer], widths: Mapping[str, int]) -> dict[str, int]:
        """The number of channels that each layer keeps.

        Args:
            layers: the layers of the model.
            widths: their numbers of channels.
        """
        return {name: widths[name] - self.count(widths[name], layer.step) for name, layer in layers.items()}

    def keep(self, layer: ChannelLayer, scores: Tensor) -> Tensor:
        """The channels to keep.

        Args:
            layer: the layer of the channels.
            scores: (O,), higher = keep.  Of equal scores the later one is removed first.

        Returns:
            Their indices, int64 on the CPU, in order.

        Raises:
            ConfigError: a score is NaN or infinite.
        """
        require(bool(scores.isfinite().all()), "scores", "be finite", "NaN or infinity")
        cut = self.count(len(scores), layer.step)
        if self.granularity == "channel" or layer.dim == 1:
            return _best(scores, len(scores) - cut)
        capsules = _best(scores.view(-1, layer.dim).sum(1), (len(scores) - cut) // layer.dim)
        return (capsules[:, None] * layer.dim + torch.arange(layer.dim)).flatten()


class Fewer:
    """Removal of a fixed number of channels of a layer, those with the lowest scores.

    Args:
        channels: number of channels to remove.
        merge: as in :class:`Selection`.

    Example:
        >>> from capsexp.nn import ChannelLayer
        >>> Fewer(2).keep(ChannelLayer("conv1", "conv1", ()), torch.tensor([0.1, 0.4, 0.3, 0.2]))
        tensor([1, 2])
    """

    def __init__(self, channels: int, *, merge: bool = False) -> None:
        self.channels = require_int("channels", channels, 1)
        self.merge = merge

    def keep(self, layer: ChannelLayer, scores: Tensor) -> Tensor:
        """The channels to keep, see :meth:`Selection.keep`.

        Raises:
            ConfigError: a score is NaN or infinite, or no channel would stay.
        """
        require(bool(scores.isfinite().all()), "scores", "be finite", "NaN or infinity")
        require(self.channels < len(scores), "channels", f"leave one of the {len(scores)} channels", self.channels)
        return _best(scores, len(scores) - self.channels)


def _best(scores: Tensor, count: int) -> Tensor:
    """The indices of the ``count`` highest scores, in order."""
    order = scores.cpu().double().sort(descending=True, stable=True).indices
    return order[:count].sort().values
