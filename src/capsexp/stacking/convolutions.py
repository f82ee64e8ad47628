"""The convolutions of all members of a stack, in several implementations with equal results up to rounding.

Shape letters in addition to those of :mod:`capsexp.types`: N members; S streams of maps, each for N / S adjacent
members.  Input maps are (B, S*I, H, W), output maps (B, N*O, H', W'), ordered by member.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from capsexp.nn.autocast import autocast_type

Impl = Literal["grouped", "vmap", "unfold", "loop"]
"""The implementation: one convolution with one group per stream; torch's vmap over streams; unfolded windows and one
batched matrix product; or one convolution per stream."""

Pair = tuple[int, int]


class Geometry(NamedTuple):
    """The geometry of a convolution; each value is a pair for height and width."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    output_padding: Pair = (0, 0)

    def reached(self, side: int, size: int, dim: int) -> int:
        """Number of positions of a kernel of ``size`` along a map's ``side``; ``dim`` is 0 for height, 1 for width."""
        return (side + 2 * self.padding[dim] - self.dilation[dim] * (size - 1) - 1) // self.stride[dim] + 1

    def spread(self, side: int, size: int, dim: int) -> int:
        """The side of the output map of a transposed convolution."""
        covered = (side - 1) * self.stride[dim] - 2 * self.padding[dim] + self.dilation[dim] * (size - 1)
        return covered + self.output_padding[dim] + 1


def convolve(impl: Impl, maps_BCHW: Tensor, weight: Tensor, bias_NO: Tensor | None, geometry: Geometry) -> Tensor:
    """Convolve all members' maps; returns (B, N*O, H', W').

    Args:
        impl: see :data:`Impl`.
        maps_BCHW: (B, S*I, H, W), N a multiple of S.
        weight: (N, O, I, kH, kW).
        bias_NO: (N, O), or None for no bias.
        geometry: of the convolution; ``output_padding`` is not used.
    """
    streams = maps_BCHW.shape[1] // weight.shape[2]
    # One convolution per stream has the filters of all members of the stream.
    weight_SOIHW = weight.reshape(streams, -1, *weight.shape[2:])
    bias_SO = None if bias_NO is None else bias_NO.reshape(streams, -1)
    if streams == 1:
        return _grouped(maps_BCHW, weight_SOIHW, bias_SO, geometry)
    return _FORMS[impl](maps_BCHW, weight_SOIHW, bias_SO, geometry)


def _grouped(maps_BCHW: Tensor, weight_SOIHW: Tensor, bias_SO: Tensor | None, how: Geometry) -> Tensor:
    weight_OIHW, bias_O = weight_SOIHW.flatten(0, 1), None if bias_SO is None else bias_SO.flatten()
    return F.conv2d(maps_BCHW, weight_OIHW, bias_O, how.stride, how.padding, how.dilation, len(weight_SOIHW))


def _by_vmap(maps_BCHW: Tensor, weight_SOIHW: Tensor, bias_SO: Tensor | None, how: Geometry) -> Tensor:
    def one(maps_BCHW: Tensor, weight_OIHW: Tensor) -> Tensor:
        return F.conv2d(maps_BCHW, weight_OIHW, None, how.stride, how.padding, how.dilation)

    maps_BSCHW = apart(maps_BCHW, len(weight_SOIHW))
    made_BSOHW: Tensor = torch.vmap(one, in_dims=(1, 0), out_dims=1)(*_cast(maps_BSCHW, weight_SOIHW))
    return _raised(made_BSOHW.flatten(1, 2), bias_SO)


def _unfolded(maps_BCHW: Tensor, weight_SOIHW: Tensor, bias_SO: Tensor | None, how: Geometry) -> Tensor:
    sizes = weight_SOIHW.shape[3:]
    windows_BFL = F.unfold(maps_BCHW, sizes, how.dilation, how.padding, how.stride)
    windows_BSFL = apart(windows_BFL, len(weight_SOIHW))
    made_BSOL = weight_SOIHW.flatten(2) @ windows_BSFL
    height, width = (how.reached(maps_BCHW.shape[2 + dim], sizes[dim], dim) for dim in (0, 1))
    return _raised(made_BSOL.reshape(len(maps_BCHW), -1, height, width), bias_SO)


def _one_by_one(maps_BCHW: Tensor, weight_SOIHW: Tensor, bias_SO: Tensor | None, how: Geometry) -> Tensor:
    streams = len(weight_SOIHW)
    biases = [None] * streams if bias_SO is None else bias_SO.unbind()
    each = zip(maps_BCHW.chunk(streams, 1), weight_SOIHW.unbind(), biases, strict=True)
    return torch.cat([F.conv2d(*one, how.stride, how.padding, how.dilation) for one in each], 1)


def deconvolve(impl: Impl, maps_BCHW: Tensor, weight: Tensor, bias_NO: Tensor | None, geometry: Geometry) -> Tensor:
    """Apply the transposed convolutions of all members; returns (B, N*O, H', W').

    Args:
        impl: see :data:`Impl`.
        maps_BCHW: (B, S*I, H, W), N a multiple of S.
        weight: (N, I, O, kH, kW).
        bias_NO: (N, O), or None for no bias.
        geometry: of the convolution.
    """
    members, channels = weight.shape[:2]
    streams = maps_BCHW.shape[1] // channels
    if streams != members:  # sharing has no advantage here: each member gets a copy of its stream's maps
        maps_BCHW = apart(maps_BCHW, streams).repeat_interleave(members // streams, 1).flatten(1, 2)
    return _TRANSPOSED[impl](maps_BCHW, weight, bias_NO, geometry)


def _transposed(maps_BCHW: Tensor, weight_IOHW: Tensor, bias_O: Tensor | None, how: Geometry, groups: int) -> Tensor:
    return F.conv_transpose2d(
        maps_BCHW, weight_IOHW, bias_O, how.stride, how.padding, how.output_padding, groups, how.dilation
    )


def _transposed_grouped(maps_BCHW: Tensor, weight_NIOHW: Tensor, bias_NO: Tensor | None, how: Geometry) -> Tensor:
    bias_O = None if bias_NO is None else bias_NO.flatten()
    return _transposed(maps_BCHW, weight_NIOHW.flatten(0, 1), bias_O, how, len(weight_NIOHW))


def _transposed_by_vmap(maps_BCHW: Tensor, weight_NIOHW: Tensor, bias_NO: Tensor | None, how: Geometry) -> Tensor:
    def one(maps_BCHW: Tensor, weight_IOHW: Tensor) -> Tensor:
        return _transposed(maps_BCHW, weight_IOHW, None, how, 1)

    maps_BNCHW = apart(maps_BCHW, len(weight_NIOHW))
    made_BNOHW: Tensor = torch.vmap(one, in_dims=(1, 0), out_dims=1)(*_cast(maps_BNCHW, weight_NIOHW))
    return _raised(made_BNOHW.flatten(1, 2), bias_NO)


def _transposed_unfolded(maps_BCHW: Tensor, weight_NIOHW: Tensor, bias_NO: Tensor | None, how: Geometry) -> Tensor:
    sizes = weight_NIOHW.shape[3:]
    height, width = (how.spread(maps_BCHW.shape[2 + dim], sizes[dim], dim) for dim in (0, 1))
    maps_BNIL = apart(maps_BCHW.flatten(2), len(weight_NIOHW))
    windows_BNFL = weight_NIOHW.flatten(2).transpose(1, 2) @ maps_BNIL
    made_BCHW = F.fold(windows_BNFL.flatten(1, 2), (height, width), sizes, how.dilation, how.padding, how.stride)
    return _raised(made_BCHW, bias_NO)


def _transposed_one_by_one(maps_BCHW: Tensor, weight_NIOHW: Tensor, bias_NO: Tensor | None, how: Geometry) -> Tensor:
    members = len(weight_NIOHW)
    biases = [None] * members if bias_NO is None else bias_NO.unbind()
    each = zip(maps_BCHW.chunk(members, 1), weight_NIOHW.unbind(), biases, strict=True)
    return torch.cat([_transposed(*one, how, 1) for one in each], 1)


def _cast(*tensors: Tensor) -> Iterator[Tensor]:
    """Cast tensors as autocast does for a convolution; autocast has no effect inside vmap."""
    cast = autocast_type(tensors[0].device.type)
    for tensor in tensors:
        yield tensor if cast is None or tensor.dtype == torch.float64 else tensor.to(cast)


def _raised(maps_BCHW: Tensor, bias: Tensor | None) -> Tensor:
    """Add the bias of each channel to the maps, in the maps' precision."""
    return maps_BCHW if bias is None else maps_BCHW + bias.flatten()[:, None, None].to(maps_BCHW.dtype)


def apart(maps_BC: Tensor, parts: int) -> Tensor:
    """Divide the channels, in the second dimension, into equal parts: (B, parts, C / parts, ...)."""
    divided: Tensor = maps_BC.unflatten(1, (parts, -1))  # type: ignore[no-untyped-call]
    return divided


Convolution = Callable[[Tensor, Tensor, Tensor | None, Geometry], Tensor]

_FORMS: Mapping[Impl, Convolution] = MappingProxyType(
    {"grouped": _grouped, "vmap": _by_vmap, "unfold": _unfolded, "loop": _one_by_one}
)

_TRANSPOSED: Mapping[Impl, Convolution] = MappingProxyType(
    {
        "grouped": _transposed_grouped,
        "vmap": _transposed_by_vmap,
        "unfold": _transposed_unfolded,
        "loop": _transposed_one_by_one,
    }
)
