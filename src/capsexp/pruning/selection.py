"""How many channels of a layer go, and which ones stay: from scores to kept indices."""

import math
from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor

from capsexp.errors import require, require_choice, require_int, require_number
from capsexp.nn.channels import ChannelLayer


class Selection:
    """Takes the channels with the lowest scores out of every layer, a share of each.

    Sahu and Altahhan (2024), section 3.4: the share of a layer is rounded to a multiple of its step (in a capsule
    network the capsules' dimension D), upwards as the text has it; at least one step stays, and a layer with fewer
    channels than one step stays as it is.

    Args:
        ratio: share of the channels that go, at least 0 and below 1.
        granularity: ``channel`` cuts the primary capsules' channels one by one, and the survivors are grouped into
            capsules anew, in their order (the paper); ``capsule`` cuts whole capsules, those with the lowest sums.
        rounding: ``up``, or ``down`` as the authors' code has it.
        merge: whether a channel that goes is folded into the survivor most like it (Wang 2019, section 2.1; see
            ``merging``).  It changes nothing about which channels go.

    Example:
        >>> Selection(0.25).count(12, 4)  # the paper's own example: three would be a quarter
        4
        >>> Selection(0.25, rounding="down").count(12, 4)
        0
    """

    def __init__(
        self, ratio: float, granularity: str = "channel", rounding: str = "up", *, merge: bool = False
    ) -> None:
        self.ratio = require_number("ratio", ratio, 0, 1, open_ends=">")
        self.granularity = require_choice("granularity", granularity, ("channel", "capsule"))
        self.rounding = require_choice("rounding", rounding, ("up", "down"))
        require(isinstance(merge, bool), "merge", "be true or false", merge)
        self.merge = merge

    def count(self, channels: int, step: int) -> int:
        """How many of a layer's channels go, where they go in multiples of ``step``."""
        steps = Fraction(str(self.ratio)) * channels / step  # as it is written: .1 of 30 is 3, not 3 and a bit
        wanted = math.ceil(steps) if self.rounding == "up" else math.floor(steps)
        return max(0, min(wanted, channels // step - 1)) * step

    def widths(self, layers: Mapping[str, ChannelLayer], widths: Mapping[str, int]) -> dict[str, int]:
        """How many channels each layer keeps.

        Args:
            layers: of the model.
            widths: how many they have.
        """
        return {name: widths[name] - self.count(widths[name], layer.step) for name, layer in layers.items()}

    def keep(self, layer: ChannelLayer, scores: Tensor) -> Tensor:
        """Which channels stay.

        Args:
            layer: that they belong to.
            scores: (O,), higher = keep.  Of equal ones the later goes first.

        Returns:
            Their indices, int64 on the CPU, in order.

        Raises:
            ConfigError: a score is not finite.
        """
        require(bool(scores.isfinite().all()), "scores", "be finite", "NaN or infinity")
        cut = self.count(len(scores), layer.step)
        if self.granularity == "channel" or layer.dim == 1:
            return _best(scores, len(scores) - cut)
        capsules = _best(scores.view(-1, layer.dim).sum(1), (len(scores) - cut) // layer.dim)
        return (capsules[:, None] * layer.dim + torch.arange(layer.dim)).flatten()


class Fewer:
    """Takes the channels with the lowest scores out of a layer, so many of them.

    Args:
        channels: that go.
        merge: as in :class:`Selection`.
    """

    def __init__(self, channels: int, *, merge: bool = False) -> None:
        self.channels = require_int("channels", channels, 1)
        self.merge = merge

    def keep(self, layer: ChannelLayer, scores: Tensor) -> Tensor:
        """Which channels stay, as :meth:`Selection.keep` gives them."""
        require(bool(scores.isfinite().all()), "scores", "be finite", "NaN or infinity")
        return _best(scores, len(scores) - self.channels)


def _best(scores: Tensor, count: int) -> Tensor:
    """The indices of the ``count`` highest scores, in order."""
    order = scores.cpu().double().sort(descending=True, stable=True).indices
    return order[:count].sort().values
