"""Backbones: the convolutions before the primary capsules, from images to maps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.errors import require, require_choice, require_int
from capsexp.nn.channels import ChannelLayer, Follower, Reader

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
}
NORM_TYPES = (nn.BatchNorm2d, nn.InstanceNorm2d)
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


class Backbone(nn.Module, ABC):
    """The base class of backbones.  Its config has ``_partial_``: the network calls it with the images' channels.

    Attributes:
        out_channels: channels of the maps that it gives.

    Example:
        >>> isinstance(Plain(1, channels=[8]), Backbone), Plain(1, channels=[8]).out_channels
        (True, 8)
    """

    out_channels: int

    @abstractmethod
    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Maps of ``out_channels`` channels."""

    def channel_layers(self, after: Sequence[Reader]) -> dict[str, ChannelLayer]:
        """The layers whose channels can be pruned, with names as seen from here; by default none.

        Args:
            after: the layers that read the backbone's maps, by their names in the whole network.
        """
        return {}

    def sized(self, widths: Mapping[str, int]) -> dict[str, Any]:
        """The arguments of a backbone like this one with other widths of :meth:`channel_layers`."""
        return {}


class Plain(Backbone):
    """Convolutions one after the other, each with an activation and, if one is wanted, a normalisation.

    The backbones of Sabour et al. (2017), of Efficient-CapsNet (Mazzia et al. 2021, normalisation after the activation)
    and of the simple networks of Tsai et al. (2020) are of this kind.

    Args:
        in_channels: channels of the images.
        channels: output channels of each convolution.
        kernels: kernel size of each, or one for all.
        strides: stride of each, or one for all.
        paddings: padding of each, or one for all.
        norm: ``none``, ``batch`` or ``instance``; with a norm before the activation convolutions have no bias.
        norm_last: True normalises after the activation.
        activation: ``relu`` or ``leaky_relu``.

    Example:
        >>> Plain(1, channels=[32, 64], kernels=[5, 3], norm="batch")(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 64, 22, 22])
    """

    def __init__(
        self,
        in_channels: int,
        *,
        channels: Sequence[int],
        kernels: int | Sequence[int] = 3,
        strides: int | Sequence[int] = 1,
        paddings: int | Sequence[int] = 0,
        norm: str = "none",
        norm_last: bool = False,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        listed = isinstance(channels, Sequence) and not isinstance(channels, str)
        require(listed and len(channels) > 0, "channels", "name the channels of at least one convolution", channels)
        count = len(channels)
        sizes = [_each("kernels", kernels, count, 1), _each("strides", strides, count, 1)]
        sizes.append(_each("paddings", paddings, count, 0))
        require_choice("norm", norm, ("none", *NORMS))
        require_choice("activation", activation, tuple(ACTIVATIONS))
        require(isinstance(norm_last, bool), "norm_last", "be true or false", norm_last)
        layers: list[nn.Module] = []
        for after, kernel, stride, padding in zip(channels, *sizes, strict=True):
            require_int("channels", after, 1)
            bias = norm == "none" or norm_last
            layers.append(nn.Conv2d(in_channels, after, kernel, stride=stride, padding=padding, bias=bias))
            more = [ACTIVATIONS[activation](), *([] if norm == "none" else [NORMS[norm](after)])]
            layers += more if norm_last else reversed(more)
            in_channels = after
        self.layers, self.out_channels = nn.Sequential(*layers), in_channels
        self._each = len(layers) // count

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Maps (B, C, H', W')."""
        maps: Tensor = self.layers(images_BCHW)
        return maps

    def channel_layers(self, after: Sequence[Reader]) -> dict[str, ChannelLayer]:
        """Every convolution, ``conv1`` to the last."""
        found = {}
        for index in range(0, len(self.layers), self._each):
            end = index + self._each
            norms = [each for each in range(index, end) if isinstance(self.layers[each], NORM_TYPES)]
            first = norms == [index + 1] and isinstance(self.layers[index + 1], nn.BatchNorm2d)
            found[f"conv{index // self._each + 1}"] = ChannelLayer(
                f"layers.{index}",
                f"layers.{end - 1}",
                tuple(after) if end == len(self.layers) else (Reader(f"layers.{end}"),),
                norm=f"layers.{index + 1}" if first else None,
                followers=() if first else tuple(Follower(f"layers.{each}") for each in norms),
            )
        return found

    def sized(self, widths: Mapping[str, int]) -> dict[str, Any]:
        """``channels``."""
        return {"channels": list(widths.values())}


class ResNet(Backbone):
    """Residual blocks of two 3x3 convolutions each, after a first convolution: He et al. (2016).

    With 16, 32 and 64 channels and three blocks each it is the ResNet-20 of Hahn et al. (2019), which makes 8x8 maps of
    32x32 images.

    Args:
        in_channels: channels of the images.
        channels: channels of each stage; every stage but the first halves the side of the maps.
        blocks: number of blocks of each stage.
        strides: stride of each stage's first block; None for 1, 2, 2, ...
        stem: channels of the first convolution; None for those of the first stage.
        inner: channels between the two convolutions of each block, or None for those of its stage (a pruned network has
            others).
        shortcut: where a block changes size: ``pad`` takes every second place and adds channels of zeros (no
            parameters, as in He et al.'s CIFAR networks); ``convolution`` is a 1x1 convolution with batch
            normalisation.

    Example:
        >>> ResNet(3, channels=[16, 32, 64], blocks=[3, 3, 3])(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 64, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        *,
        channels: Sequence[int] = (16, 32, 64),
        blocks: Sequence[int] = (3, 3, 3),
        strides: Sequence[int] | None = None,
        stem: int | None = None,
        inner: Sequence[int] | None = None,
        shortcut: str = "pad",
    ) -> None:
        super().__init__()
        listed = isinstance(channels, Sequence) and not isinstance(channels, str)
        require(listed and len(channels) > 0, "channels", "name the channels of at least one stage", channels)
        count = len(channels)
        for key, values in (("channels", channels), ("blocks", blocks)):
            _each(key, values, count, 1)
        steps = _each("strides", [1] + [2] * (count - 1) if strides is None else strides, count, 1)
        require_choice("shortcut", shortcut, ("pad", "convolution"))
        before = channels[0] if stem is None else require_int("stem", stem, 1)
        self.conv = nn.Conv2d(in_channels, before, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(before)
        ends = [after for after, number in zip(channels, blocks, strict=True) for _ in range(number)]
        middles = ends if inner is None else _each("inner", inner, len(ends), 1)
        first = {sum(blocks[:stage]): step for stage, step in enumerate(steps)}
        made: list[nn.Module] = []
        for index, (after, middle) in enumerate(zip(ends, middles, strict=True)):
            made.append(Block(before, after, first.get(index, 1), shortcut, inner=middle))
            before = after
        self.blocks, self.out_channels = nn.Sequential(*made), before

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Maps (B, C, H', W')."""
        maps: Tensor = self.blocks(self.norm(self.conv(images_BCHW)).relu())
        return maps

    def channel_layers(self, after: Sequence[Reader]) -> dict[str, ChannelLayer]:
        """The first convolution of every block; what blocks hand on is a sum, whose channels belong together."""
        return {
            f"block{number}": ChannelLayer(
                f"blocks.{index}.conv1",
                f"blocks.{index}.relu1",
                (Reader(f"blocks.{index}.conv2"),),
                norm=f"blocks.{index}.norm1",
            )
            for number, index in enumerate(range(len(self.blocks)), 1)
        }

    def sized(self, widths: Mapping[str, int]) -> dict[str, Any]:
        """``inner``."""
        return {"inner": list(widths.values())}


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and the input added before the last ReLU.

    Args:
        before: channels of the input.
        after: channels of the output.
        stride: stride of the first convolution.
        shortcut: see :class:`ResNet`.
        inner: channels between the two; None for ``after``.

    Example:
        >>> Block(4, 8, 2, "pad")(torch.rand(2, 4, 6, 6)).shape
        torch.Size([2, 8, 3, 3])
    """

    def __init__(self, before: int, after: int, stride: int, shortcut: str, *, inner: int | None = None) -> None:
        super().__init__()
        middle = after if inner is None else inner
        self.conv1 = nn.Conv2d(before, middle, 3, stride=stride, padding=1, bias=False)
        self.norm1, self.relu1 = nn.BatchNorm2d(middle), nn.ReLU()
        self.conv2 = nn.Conv2d(middle, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        same = stride == 1 and before == after
        self.stride, self.added = stride, max(0, after - before)
        self.shortcut: nn.Module | None = None
        if shortcut == "convolution" and not same:
            step = nn.Conv2d(before, after, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(step, nn.BatchNorm2d(after))
        else:
            require(after >= before, "channels", "not fall from stage to stage with shortcut=pad", [before, after])

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Maps (B, after, H / stride, W / stride)."""
        made = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(maps_BCHW)))))
        sum_: Tensor = made + self._kept(maps_BCHW)
        return sum_.relu()

    def _kept(self, maps_BCHW: Tensor) -> Tensor:
        if self.shortcut is not None:
            kept: Tensor = self.shortcut(maps_BCHW)
            return kept
        maps_BCHW = maps_BCHW[:, :, :: self.stride, :: self.stride]
        front = self.added // 2
        return F.pad(maps_BCHW, (0, 0, 0, 0, front, self.added - front)) if self.added else maps_BCHW


def _each(key: str, given: int | Sequence[int], count: int, least: int) -> list[int]:
    """One number per layer, from one for all or from a list of so many."""
    values = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given] * count
    require(len(values) == count, key, f"hold {count} numbers, one per layer, or be one number", values)
    return [require_int(key, value, least) for value in values]
