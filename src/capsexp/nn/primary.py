"""Primary capsules: from feature maps to capsules."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.errors import require, require_choice, require_int, require_number
from capsexp.nn.channels import ChannelLayer, Follower, Reader
from capsexp.nn.finish import squashed
from capsexp.nn.functional import SQUASHES, at_least_single
from capsexp.types import Capsules

NORMALISERS = ("squash", "batch_norm", "type_norm", "layer_norm", "none")
ACTIVATIONS = ("length", "logistic")


class PrimaryCapsules(nn.Module):
    """A convolution whose channels are read as capsules: Sabour et al. (2017), section 4.

    Capsule type t has ``dim`` neighbouring channels, t * dim to (t + 1) * dim - 1, and one capsule at every position.
    The components of a capsule come from one position of the image.

    Args:
        in_channels: channels of the input maps.
        channels: output channels of the convolution, a multiple of ``dim``.
        dim: D, components of a capsule.
        kernel: kernel size of the convolution.
        stride: stride of the convolution.
        padding: padding of the convolution.
        squash: squashing function of the poses, one of :data:`~capsexp.nn.functional.SQUASHES`.
        epsilon: of the squash, see :func:`~capsexp.nn.finish.squashed`.
        normaliser: what makes poses of the convolution's maps: ``squash``; ``batch_norm`` of each channel (Hahn et al.
            2019); ``type_norm``, batch normalisation of all components of a type together (Ribeiro et al. 2020);
            ``layer_norm`` of each capsule, with a gain and a shift of D numbers that all types share (Tsai et al.
            2020); ``none``.  With the norms the convolution has no bias.
        activation: ``length``: a capsule's activation is the length of its pose.  ``logistic``: a second convolution
            with one channel per type, and with batch normalisation where ``normaliser`` is ``batch_norm`` or
            ``type_norm``, gives it by the logistic function (Hinton et al. 2018; Hahn et al. 2019).
        depthwise: True convolves every channel by itself (Mazzia et al. 2021), so there are as many after as before.

    Example:
        >>> primary = PrimaryCapsules(16, 32, dim=8, kernel=3, stride=2)  # 4 types of capsules of 8 components
        >>> primary(torch.rand(2, 16, 9, 9)).poses.shape
        torch.Size([2, 4, 8, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        dim: int,
        *,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        squash: str = "classic",
        epsilon: float = 0.0,
        normaliser: str = "squash",
        activation: str = "length",
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.dim = require_int("dim", dim, 1)
        require(channels % dim == 0, "channels", f"be a multiple of the capsules' dimension, {dim}", channels)
        self.squash = require_choice("squash", squash, tuple(SQUASHES))
        self.epsilon = require_number("epsilon", epsilon, 0)
        self.normaliser = require_choice("normaliser", normaliser, NORMALISERS)
        logistic = require_choice("activation", activation, ACTIVATIONS) == "logistic"
        require(isinstance(depthwise, bool), "depthwise", "be true or false", depthwise)
        rule = f"be false where maps of {in_channels} channels become {channels}: it keeps their number"
        require(not depthwise or channels == in_channels, "depthwise", rule, depthwise)
        require(not (depthwise and logistic), "depthwise", "be false with activation=logistic", depthwise)
        self.depthwise = depthwise
        bias, groups = normaliser in ("squash", "none"), in_channels if depthwise else 1
        convolution = partial(nn.Conv2d, in_channels, kernel_size=kernel, stride=stride, padding=padding, bias=bias)
        self.conv = convolution(channels, groups=groups)
        self.norm = _norm(normaliser, channels, dim)
        self.activation_conv = convolution(channels // dim) if logistic else None
        normal = normaliser in ("batch_norm", "type_norm")
        self.activation_norm = nn.BatchNorm2d(channels // dim) if logistic and normal else None

    def forward(self, maps_BCHW: Tensor) -> Capsules:
        """Poses (B, T, D, H', W') of T = channels / dim types at every position, in float32 or better.

        Activations (B, T, H', W') come with them if they are logistic.
        """
        return Capsules(self._poses(self.conv(maps_BCHW)), self._activations(maps_BCHW))

    def readers(self, name: str) -> tuple[Reader, ...]:
        """The layers that read the channels before the primary capsules; ``name`` is theirs in the network."""
        activation = () if self.activation_conv is None else (Reader(f"{name}.activation_conv"),)
        return (Reader(f"{name}.conv"), *activation)

    def channel_layer(self, name: str, after: Sequence[Reader], *, step: int | None = None) -> ChannelLayer:
        """The capsule types as channels that can be pruned, in whole capsules.

        Args:
            name: that of the primary capsules in the network.
            after: the capsule layers that read them.
            step: see :class:`~capsexp.nn.channels.ChannelLayer`; None for D.
        """
        normal = self.normaliser == "batch_norm"
        parts: dict[str, nn.Module | None] = {
            "activation_conv": self.activation_conv,
            "activation_norm": self.activation_norm,
        }
        if self.normaliser == "type_norm":
            parts["norm"] = cast("nn.Module", self.norm)
        going = tuple(Follower(f"{name}.{key}", per_unit=True) for key, part in parts.items() if part is not None)
        return ChannelLayer(
            f"{name}.conv",
            f"{name}.norm" if normal else f"{name}.conv",
            tuple(after),
            norm=f"{name}.norm" if normal else None,
            step=self.dim if step is None else step,
            dim=self.dim,
            followers=going,
        )

    def made_of(self, before: ChannelLayer, name: str, after: Sequence[Reader]) -> ChannelLayer:
        """The layer before depthwise primary capsules: its channels are their channels, and go in whole capsules."""
        own = [f"{name}.conv", *([f"{name}.norm"] if self.normaliser == "batch_norm" else [])]
        types = [Follower(f"{name}.norm", per_unit=True)] if self.normaliser == "type_norm" else []
        going = (*before.followers, *map(Follower, own), *types)
        return replace(before, maps=own[-1], readers=tuple(after), step=self.dim, dim=self.dim, followers=going)

    def _poses(self, made_BCHW: Tensor) -> Tensor:
        made_BCHW = at_least_single(made_BCHW)
        if self.normaliser == "batch_norm":
            made_BCHW = cast("nn.BatchNorm2d", self.norm)(made_BCHW)
        batch, _, height, width = made_BCHW.shape
        poses_BTDHW = made_BCHW.reshape(batch, -1, self.dim, height, width)
        if self.normaliser == "squash":
            return squashed(self.squash, poses_BTDHW, 2, self.epsilon)
        if self.normaliser == "type_norm":
            return cast("nn.BatchNorm3d", self.norm)(poses_BTDHW)  # type: ignore[no-any-return]
        if self.normaliser == "layer_norm" and self.dim > 1:
            norm = cast("nn.LayerNorm", self.norm)
            return F.layer_norm(poses_BTDHW.movedim(2, -1), (self.dim,), norm.weight, norm.bias).movedim(-1, 2)
        return poses_BTDHW

    def _activations(self, maps_BCHW: Tensor) -> Tensor | None:
        if self.activation_conv is None:
            return None
        logits_BTHW = at_least_single(self.activation_conv(maps_BCHW))
        return (logits_BTHW if self.activation_norm is None else self.activation_norm(logits_BTHW)).sigmoid()


def _norm(normaliser: str, channels: int, dim: int) -> nn.Module | None:
    if normaliser == "batch_norm":
        return nn.BatchNorm2d(channels)
    if normaliser == "type_norm":
        return nn.BatchNorm3d(channels // dim)
    return nn.LayerNorm(dim) if normaliser == "layer_norm" and dim > 1 else None
