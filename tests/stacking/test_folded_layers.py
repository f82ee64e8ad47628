"""Folded layers against torch's own of each member: every impl, geometry and layout, and the very noise of dropout."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.stacking.convolutions import Geometry, Impl, apart, convolve, deconvolve
from capsexp.stacking.layers import Fold, FoldedBatchNorm2d, FoldedDropout, FoldedLinear
from tests.stacking.test_folding import IMPLS

LAYOUTS = [torch.contiguous_format, torch.channels_last]
GEOMETRIES = [
    Geometry(),
    Geometry(padding=(1, 2)),
    Geometry(stride=(2, 3), padding=(1, 0)),
    Geometry(stride=(2, 1), padding=(2, 2), dilation=(1, 2)),
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def agree(together: Tensor, alone: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
    """Values (B, N*...), and the gradients of ``leaves`` through a function of them, are the members'."""
    expected = torch.stack(list(alone), 1).flatten(1, 2)
    torch.testing.assert_close(together, expected, rtol=1e-12, atol=1e-12)
    pairs = zip(*(torch.autograd.grad(made.sin().sum(), leaves) for made in (together, expected)), strict=True)
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("streams", [1, 2, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_convolutions(impl: Impl, streams: int, layout: torch.memory_format) -> None:
    for how in GEOMETRIES:
        maps, weight, bias = random(2, streams * 3, 7, 8), random(4, 2, 3, 3, 2), random(4, 2)
        each = zip(maps.chunk(streams, 1), weight.split(4 // streams), bias.split(4 // streams), strict=True)
        shown = [(part, *one) for part, *stacked in each for one in zip(*stacked, strict=True)]
        alone = [F.conv2d(*one, how.stride, how.padding, how.dilation) for one in shown]
        together = convolve(impl, maps.contiguous(memory_format=layout), weight, bias, how)
        agree(together, alone, (maps, weight, bias))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("streams", [1, 2, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_transposed_convolutions(impl: Impl, streams: int, layout: torch.memory_format) -> None:
    for how in GEOMETRIES:
        how = how._replace(output_padding=(how.stride[0] - 1, how.stride[1] - 1))
        maps, weight, bias = random(2, streams * 3, 4, 5), random(4, 3, 2, 3, 2), random(4, 2)
        options: dict[str, Any] = {**how._asdict(), "groups": 1}
        shown = [maps.chunk(streams, 1)[member * streams // 4] for member in range(4)]
        alone = [F.conv_transpose2d(*one, **options) for one in zip(shown, weight, bias, strict=True)]
        together = deconvolve(impl, maps.contiguous(memory_format=layout), weight, bias, how)
        agree(together, alone, (maps, weight, bias))


@pytest.mark.parametrize("impl", IMPLS)
def test_without_bias(impl: Impl) -> None:
    maps, weight = random(2, 4 * 3, 5, 5), random(4, 3, 3, 3, 3)
    parts = list(zip(maps.chunk(4, 1), weight, strict=True))
    agree(convolve(impl, maps, weight, None, Geometry()), [F.conv2d(*one) for one in parts], (maps, weight))
    alone = [F.conv_transpose2d(*one) for one in parts]
    agree(deconvolve(impl, maps, weight, None, Geometry()), alone, (maps, weight))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("dtype", "made_in"), [(torch.float32, torch.bfloat16), (torch.float64, torch.float64)])
def test_under_autocast_single_precision_becomes_half(impl: Impl, dtype: torch.dtype, made_in: torch.dtype) -> None:
    shapes = [(2, 4 * 3, 6, 6), (4, 3, 3, 3, 3), (4, 3)]
    maps, weight, bias = (torch.randn(shape, dtype=dtype) for shape in shapes)
    for together, alone in ((convolve, F.conv2d), (deconvolve, F.conv_transpose2d)):
        with torch.autocast("cpu", torch.bfloat16):
            made = together(impl, maps, weight, bias, Geometry())
            expected = [alone(*one) for one in zip(maps.chunk(4, 1), weight, bias, strict=True)]
        assert made.dtype == made_in
        torch.testing.assert_close(made, torch.cat(expected, 1), rtol=0.03, atol=0.1)


@pytest.mark.parametrize("streams", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_layers_of_streams(streams: int, bias: bool) -> None:
    members = [nn.Linear(5, 3, bias=bias).double() for _ in range(4)]
    layer = FoldedLinear(members, Fold(4, "grouped"))
    for name, parameter in layer.named_parameters():
        parameter.data.copy_(torch.stack([member.get_parameter(name) for member in members]))
    values = random(6, streams * 5)
    alone = [member(values.chunk(streams, 1)[m * streams // 4]) for m, member in enumerate(members)]
    agree(layer(values), alone, [values])


def test_batch_normalisation_without_statistics_uses_the_batch_always() -> None:
    members = [nn.BatchNorm2d(2, track_running_stats=False, affine=False, eps=0.1).eval() for _ in range(2)]
    layer = FoldedBatchNorm2d(members, Fold(2, "grouped"))
    maps = random(3, 4, 2, 2)
    agree(layer(maps), [member(part) for member, part in zip(members, maps.chunk(2, 1), strict=True)], [maps])


# -- dropout ----------------------------------------------------------------------------------------------------------

WIDTHS = (3, 1, 4, 2, 2)
SHARES = (0.5, 0.3, 0.0, 1.0, 0.25)


def dropout(shares: Sequence[float], widths: Sequence[int], layout: torch.memory_format) -> FoldedDropout:
    shared = Fold(len(shares), "grouped", layout, widths_N=list(widths))
    return FoldedDropout([nn.Dropout(share) for share in shares], shared)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("places", [(), (1, 1), (5, 3)])
def test_each_member_hears_its_own_noise(layout: torch.memory_format, dtype: torch.dtype, places: Any) -> None:
    layer = dropout(SHARES, WIDTHS, layout)
    layer.fold.generators = [torch.Generator().manual_seed(member) for member in range(5)]
    width, folded, alone = max(WIDTHS), [], []
    for own in WIDTHS:
        maps = torch.randn(6, own, *places, dtype=dtype)
        alone.append(maps.contiguous(memory_format=layout) if places else maps)
        folded.append(torch.cat([maps, maps.new_zeros(6, width - own, *places)], 1))
    for stacked_layout in LAYOUTS:  # however the stack lays its maps out
        maps_BC = torch.cat(folded, 1)
        made = layer(maps_BC.contiguous(memory_format=stacked_layout) if places else maps_BC)
        for member, (own, share, maps) in enumerate(zip(WIDTHS, SHARES, alone, strict=True)):
            torch.manual_seed(member)
            if stacked_layout is LAYOUTS[1]:
                F.dropout(maps, share)  # the first draw, so that streams are seen to go on
            found = apart(made, 5)[:, member]
            assert found[:, :own].equal(F.dropout(maps, share))
            assert not found[:, own:].any()
    for member in (2, 3):  # as torch draws nothing where all or nothing is dropped
        assert layer.fold.generators[member].get_state().equal(torch.Generator().manual_seed(member).get_state())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_noise_behind_a_flattening(layout: torch.memory_format) -> None:
    layer = dropout((0.5, 0.5), (2, 3), layout)
    layer.fold.generators = [torch.Generator().manual_seed(member) for member in range(2)]
    made = apart(layer(torch.ones(4, 2 * 3 * 9)), 2)
    for member, own in enumerate((2 * 9, 3 * 9)):
        torch.manual_seed(member)
        assert made[:, member, :own].equal(F.dropout(torch.ones(4, own)))


def test_gradients_go_through_what_is_kept() -> None:
    layer = dropout((0.5, 0.25), (1, 1), torch.contiguous_format)
    layer.fold.generators = [torch.Generator().manual_seed(member) for member in range(2)]
    maps = torch.ones(50, 2, requires_grad=True)
    made = layer(maps)
    made.sum().backward()
    assert maps.grad is not None
    assert made.equal(maps.grad)


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    maps, noise = torch.randn(3, 4), torch.Generator().manual_seed(1)
    before = noise.get_state()
    for layer in (dropout((0.0, 0.0), (2, 2), LAYOUTS[0]), dropout((0.5, 0.5), (2, 2), LAYOUTS[0]).eval()):
        layer.fold.generators = [noise, noise]
        assert layer(maps) is maps
    assert noise.get_state().equal(before)
