"""Folded layers, which compute a layer of all members of a stack; the members' maps are concatenated in the channels.

Shape letters in addition to those of :mod:`capsexp.types`: N members; S streams of images, each for N / S adjacent
members.  Folded maps are (B, N*C, H, W), the first member's channels first.  C is the number of channels of the widest
member; the missing channels of the others are zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.models.autoencoder import SharedDeconvolution
from capsexp.stacking.convolutions import Geometry, Impl, apart, convolve, deconvolve


@dataclass
class Fold:
    """The shared state of the layers of one folded model.

    Attributes:
        members: N, the number of models.
        impl: the implementation of the convolutions.
        format: the memory format of maps (B, C, H, W) in a member alone; noise is drawn in it.
        layout: the memory format of the stack's maps.  On a CPU, channels-last makes poolings and grouped convolutions
            about twice as fast, since the members together have many channels.
        widths_N: number of channels of each member in the present maps; the last layer sets it.
        generators: the random generator of each member's dropout noise, set before training.
    """

    members: int
    impl: Impl
    format: torch.memory_format = torch.contiguous_format
    layout: torch.memory_format = torch.channels_last
    widths_N: list[int] = field(default_factory=list)
    generators: list[torch.Generator] | None = None

    def own(self, member: int, channels: int) -> int:
        """Number of the member's own values among ``channels`` consecutive values; the rest is padding.

        Args:
            member: index of the member.
            channels: number of values of the widest member: channels, or positions in the channels after a flattening.
        """
        return channels // max(self.widths_N) * self.widths_N[member]

    def laid_out(self, maps_BCHW: Tensor) -> Tensor:
        """Convert maps to the stack's memory format."""
        return maps_BCHW.to(memory_format=self.layout)


class FoldedLayer(nn.Module):
    """A layer of all members, with their parameters and buffers stacked (N, ...) in the size of the largest.

    Args:
        members: the layers of the members, of one type; they may differ in widths and dropout only.
        fold: the shared state of the folded model's layers.
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
    """Zeros (N, ...) in the size of the largest member's tensor."""
    tensors = [cast("Tensor", getattr(member, name)) for member in members]
    largest = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    return tensors[0].new_zeros((len(members), *largest))


def _geometry(layer: nn.Conv2d | nn.ConvTranspose2d) -> Geometry:
    numbers = (layer.stride, layer.padding, layer.dilation, layer.output_padding)
    return Geometry(*(cast("tuple[int, int]", pair) for pair in numbers))


class FoldedConv2d(FoldedLayer):
    """``Conv2d`` of all members.  Each image of a stream is convolved with the filters of all its members."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, members: Sequence[nn.Conv2d], fold: Fold) -> None:
        super().__init__(members, fold)
        self.geometry = _geometry(members[0])
        self.widths_N = [member.out_channels for member in members]

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Compute maps (B, N*O, H', W')."""
        made_BCHW = convolve(self.fold.impl, self.fold.laid_out(maps_BCHW), self.weight, self.bias, self.geometry)
        self.fold.widths_N = self.widths_N
        return made_BCHW


class FoldedConvTranspose2d(FoldedLayer):
    """``ConvTranspose2d`` of all members."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, members: Sequence[nn.ConvTranspose2d], fold: Fold) -> None:
        super().__init__(members, fold)
        self.geometry = _geometry(members[0])
        self.widths_N = [member.out_channels for member in members]

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Compute maps (B, N*O, H', W')."""
        made_BCHW = deconvolve(self.fold.impl, self.fold.laid_out(maps_BCHW), self.weight, self.bias, self.geometry)
        self.fold.widths_N = self.widths_N
        return made_BCHW


class FoldedSharedDeconvolution(FoldedLayer):
    """:class:`~capsexp.models.autoencoder.SharedDeconvolution` of all members."""

    bias: Tensor

    def __init__(self, members: Sequence[SharedDeconvolution], fold: Fold) -> None:
        super().__init__(members, fold)
        self.geometry = Geometry(padding=(members[0].padding, members[0].padding))
        self.widths_N = [len(member.bias) for member in members]

    def forward(self, maps_BCHW: Tensor, weight: Tensor) -> Tensor:
        """Compute maps of the same height and width, with the folded convolution's own weights (N, O, I, kH, kW)."""
        made_BCHW = deconvolve(self.fold.impl, self.fold.laid_out(maps_BCHW), weight, self.bias, self.geometry)
        self.fold.widths_N = self.widths_N
        return made_BCHW


class FoldedLinear(FoldedLayer):
    """``Linear`` of all members.  The input has one part per stream, as images do."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, members: Sequence[nn.Linear], fold: Fold) -> None:
        super().__init__(members, fold)
        self.widths_N = [member.out_features for member in members]

    def forward(self, values_BC: Tensor) -> Tensor:
        """Compute values (B, N*O)."""
        values_SBF = apart(values_BC, values_BC.shape[1] // self.weight.shape[2]).transpose(0, 1)
        weight_SFO = self.weight.reshape(len(values_SBF), -1, self.weight.shape[2]).transpose(1, 2)
        if self.bias is None:
            made_SBO = torch.bmm(values_SBF, weight_SFO)
        else:
            made_SBO = torch.baddbmm(self.bias.reshape(len(values_SBF), 1, -1), values_SBF, weight_SFO)
        self.fold.widths_N = self.widths_N
        return made_SBO.transpose(0, 1).flatten(1)


class FoldedBatchNorm2d(FoldedLayer):
    """``BatchNorm2d`` of all members, whose statistics are per channel."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(self, members: Sequence[nn.BatchNorm2d], fold: Fold) -> None:
        super().__init__(members, fold)
        self.momentum, self.eps = cast("float", members[0].momentum), members[0].eps

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Normalise maps; the shape stays the same."""
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        tensors = (self.running_mean, self.running_var, self.weight, self.bias)
        mean, var, weight, bias = (None if tensor is None else tensor.view(-1) for tensor in tensors)
        own = self.training or mean is None
        return F.batch_norm(maps_BCHW, mean, var, weight, bias, own, self.momentum, self.eps)


class FoldedDropout(FoldedLayer):
    """``Dropout`` of all members, each with its own probability and random generator."""

    def __init__(self, members: Sequence[nn.Dropout], fold: Fold) -> None:
        super().__init__(members, fold)
        self._layers = tuple(members)  # in a tuple, so that they are not registered as submodules

    @property
    def shares(self) -> list[float]:
        """The present dropout probability of each member's own layer."""
        return [layer.p for layer in self._layers]

    def forward(self, maps_BC: Tensor) -> Tensor:
        """Apply dropout to ``maps_BC`` (B, N*C, ...): some values become zero, the others are scaled up."""
        shares_N = self.shares
        if not self.training or not any(shares_N):
            return maps_BC
        assert self.fold.generators is not None, "the generators are set before training"
        noise_BC = torch.zeros_like(
            maps_BC, memory_format=self.fold.format if maps_BC.dim() == 4 else torch.contiguous_format
        )
        noise_BNC = apart(noise_BC, len(shares_N))
        for member, (share, generator) in enumerate(zip(shares_N, self.fold.generators, strict=True)):
            if share < 1:
                _draw(noise_BNC[:, member, : self.fold.own(member, noise_BNC.shape[2])], share, generator)
        return maps_BC * noise_BC


def _draw(noise_BC: Tensor, share: float, generator: torch.Generator) -> None:
    """Draw the noise of ``F.dropout`` for one member, in place."""
    if share == 0:
        noise_BC.fill_(1)
    else:
        noise_BC.bernoulli_(1 - share, generator=generator).div_(1 - share)
