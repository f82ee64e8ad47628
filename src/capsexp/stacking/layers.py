"""Layers of all members of a stack at once: their maps lie side by side in the channels.

Shape letters beside those of :mod:`capsexp.types`: N members; S streams of images, each for the N / S members that lie
next to each other.  Folded maps are (B, N*C, H, W), the first member's channels first; C is the widest member's number,
and what others lack is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.models.autoencoder import SharedDeconvolution
from capsexp.stacking.convolutions import Geometry, apart, convolve, deconvolve

if TYPE_CHECKING:
    from capsexp.stacking.folding import Fold


class Folded(nn.Module):
    """A layer of all members: its parameters and buffers are theirs, stacked (N, ...) and as large as the largest.

    Args:
        members: their layers, of one type, which agree in all but widths and dropout.
        fold: what the layers of one folded model share.
    """

    def __init__(self, members: Sequence[nn.Module], fold: Fold) -> None:
        super().__init__()
        self.fold = fold
        self.train(members[0].training)
        for name, parameter in members[0]._parameters.items():
            stacked = None if parameter is None else nn.Parameter(_stacked(members, name), parameter.requires_grad)
            self.register_parameter(name, stacked)
        for name, buffer in members[0]._buffers.items():
            self.register_buffer(name, None if buffer is None else _stacked(members, name))


def _stacked(members: Sequence[nn.Module], name: str) -> Tensor:
    """Zeros, as large as the largest member's tensor."""
    tensors = [cast("Tensor", getattr(member, name)) for member in members]
    largest = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    return tensors[0].new_zeros((len(members), *largest))


def _geometry(layer: nn.Conv2d | nn.ConvTranspose2d) -> Geometry:
    numbers = (layer.stride, layer.padding, layer.dilation, layer.output_padding)
    return Geometry(*(cast("tuple[int, int]", pair) for pair in numbers))


class FoldedConv2d(Folded):
    """``Conv2d`` of all members.  Images may come one a stream: each is convolved with all filters of its members."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, members: Sequence[nn.Conv2d], fold: Fold) -> None:
        super().__init__(members, fold)
        self.geometry = _geometry(members[0])
        self.widths_N = [member.out_channels for member in members]

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Maps (B, N*O, H', W')."""
        made_BCHW = convolve(self.fold.impl, self.fold.laid_out(maps_BCHW), self.weight, self.bias, self.geometry)
        self.fold.widths_N = self.widths_N
        return made_BCHW


class FoldedConvTranspose2d(Folded):
    """``ConvTranspose2d`` of all members."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, members: Sequence[nn.ConvTranspose2d], fold: Fold) -> None:
        super().__init__(members, fold)
        self.geometry = _geometry(members[0])
        self.widths_N = [member.out_channels for member in members]

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Maps (B, N*O, H', W')."""
        made_BCHW = deconvolve(self.fold.impl, self.fold.laid_out(maps_BCHW), self.weight, self.bias, self.geometry)
        self.fold.widths_N = self.widths_N
        return made_BCHW


class FoldedSharedDeconvolution(Folded):
    """:class:`~capsexp.models.autoencoder.SharedDeconvolution` of all members."""

    bias: Tensor

    def __init__(self, members: Sequence[SharedDeconvolution], fold: Fold) -> None:
        super().__init__(members, fold)
        self.geometry = Geometry(padding=(members[0].padding, members[0].padding))
        self.widths_N = [len(member.bias) for member in members]

    def forward(self, maps_BCHW: Tensor, weight: Tensor) -> Tensor:
        """Maps of the same height and width, with the folded convolution's own weights (N, O, I, kH, kW)."""
        made_BCHW = deconvolve(self.fold.impl, self.fold.laid_out(maps_BCHW), weight, self.bias, self.geometry)
        self.fold.widths_N = self.widths_N
        return made_BCHW


class FoldedLinear(Folded):
    """``Linear`` of all members.  Inputs may come one a stream, as images do."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, members: Sequence[nn.Linear], fold: Fold) -> None:
        super().__init__(members, fold)
        self.widths_N = [member.out_features for member in members]

    def forward(self, values_BC: Tensor) -> Tensor:
        """Values (B, N*O)."""
        values_SBF = apart(values_BC, values_BC.shape[1] // self.weight.shape[2]).transpose(0, 1)
        weight_SFO = self.weight.reshape(len(values_SBF), -1, self.weight.shape[2]).transpose(1, 2)
        if self.bias is None:
            made_SBO = torch.bmm(values_SBF, weight_SFO)
        else:
            made_SBO = torch.baddbmm(self.bias.reshape(len(values_SBF), 1, -1), values_SBF, weight_SFO)
        self.fold.widths_N = self.widths_N
        return made_SBO.transpose(0, 1).flatten(1)


class FoldedBatchNorm2d(Folded):
    """``BatchNorm2d`` of all members: statistics are each channel's own anyway."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(self, members: Sequence[nn.BatchNorm2d], fold: Fold) -> None:
        super().__init__(members, fold)
        self.momentum, self.eps = cast("float", members[0].momentum), members[0].eps

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Maps of the same shape."""
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        tensors = (self.running_mean, self.running_var, self.weight, self.bias)
        mean, var, weight, bias = (None if tensor is None else tensor.view(-1) for tensor in tensors)
        own = self.training or mean is None
        return F.batch_norm(maps_BCHW, mean, var, weight, bias, own, self.momentum, self.eps)


class FoldedDropout(Folded):
    """``Dropout`` of all members, each with a share and a stream of noise of its own."""

    def __init__(self, members: Sequence[nn.Dropout], fold: Fold) -> None:
        super().__init__(members, fold)
        self._layers = tuple(members)  # in a tuple, so that they are no parts of this module

    @property
    def shares(self) -> list[float]:
        """What each member drops, as its own layer says now."""
        return [layer.p for layer in self._layers]

    def forward(self, maps_BC: Tensor) -> Tensor:
        """``maps_BC`` (B, N*C), or with further dimensions, some of it zero and the rest made larger."""
        shares_N = self.shares
        if not self.training or not any(shares_N):
            return maps_BC
        assert self.fold.generators is not None, "whoever trains says what noise is drawn from"
        noise_BC = torch.zeros_like(
            maps_BC, memory_format=self.fold.format if maps_BC.dim() == 4 else torch.contiguous_format
        )
        noise_BNC = apart(noise_BC, len(shares_N))
        for member, (share, generator) in enumerate(zip(shares_N, self.fold.generators, strict=True)):
            if share < 1:
                _draw(noise_BNC[:, member, : self.fold.own(member, noise_BNC.shape[2])], share, generator)
        return maps_BC * noise_BC


def _draw(noise_BC: Tensor, share: float, generator: torch.Generator) -> None:
    """What ``F.dropout`` draws and multiplies with, for one member."""
    if share == 0:
        noise_BC.fill_(1)
    else:
        noise_BC.bernoulli_(1 - share, generator=generator).div_(1 - share)
