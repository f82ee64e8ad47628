from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from capsexp.nn.unpooling import max_pool, max_unpool
from tests.references import autoencoder as reference

LAYOUTS = [torch.contiguous_format, torch.channels_last]
SHAPES = [(2, 3, 8, 12), (1, 1, 2, 2), (3, 1, 4, 6), (2, 5, 2, 4)]


@pytest.fixture(autouse=True)
def _any_algorithm() -> Iterator[None]:
    """Torch's own unpooling warns where a cell of another test has asked for deterministic algorithms."""
    asked, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(asked, warn_only=warns)


def maps(shape: tuple[int, ...], layout: torch.memory_format, *, ties: bool = False) -> Tensor:
    """Random values, or whole numbers of which most windows hold several largest."""
    generator = torch.Generator().manual_seed(sum(shape))
    drawn = (
        torch.randint(-1, 2, shape, generator=generator).float() if ties else torch.randn(shape, generator=generator)
    )
    return drawn.contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ties", [False, True])
def test_both_match_the_nested_loops(layout: torch.memory_format, ties: bool) -> None:
    images = maps((2, 3, 4, 6), layout, ties=ties)
    pooled, places = max_pool(images)
    drawn = max_unpool(pooled + 5, places)
    for image, largest, place, back in zip(images, pooled, places, drawn, strict=True):
        expected, found = reference.max_pool(image.double().numpy())
        np.testing.assert_array_equal(largest, expected)
        assert {key: divmod(int(place[key]), 6) for key in found} == found
        np.testing.assert_array_equal(back, reference.max_unpool((largest + 5).double().numpy(), found))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ties", [False, True])
def test_values_and_gradients_are_those_of_torch(
    shape: tuple[int, ...], layout: torch.memory_format, ties: bool
) -> None:
    images = maps(shape, layout, ties=ties)
    weights = maps(shape, torch.contiguous_format) + 3
    found = []
    for ours in (True, False):
        leaf = images.clone().requires_grad_()
        pooled, places = max_pool(leaf) if ours else F.max_pool2d(leaf, 2, return_indices=True)
        scaled = pooled * 2
        scaled.retain_grad()
        drawn = max_unpool(scaled, places) if ours else F.max_unpool2d(scaled, places, 2)
        (drawn * weights).sum().backward()
        found.append((pooled, drawn, scaled.grad, leaf.grad))
    for mine, torchs in zip(*found, strict=True):
        assert torch.equal(mine, torchs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_by_differences(layout: torch.memory_format) -> None:
    pooled, places = max_pool(maps((2, 3, 4, 6), layout))
    assert torch.autograd.gradcheck(lambda values: max_unpool(values, places), pooled.double().requires_grad_())


def test_pooling_what_was_unpooled_gives_it_back() -> None:
    images = maps((2, 4, 6, 8), torch.channels_last).abs() + 0.1
    pooled, places = max_pool(images)
    again, same = max_pool(max_unpool(pooled, places))
    assert torch.equal(again, pooled)
    assert torch.equal(same, places)
    assert max_unpool(pooled, places).count_nonzero() == pooled.numel()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_of_a_pixel_stay_side_by_side(layout: torch.memory_format) -> None:
    drawn = max_unpool(*max_pool(maps((2, 3, 8, 12), layout)))
    assert drawn.is_contiguous(memory_format=torch.channels_last)


def test_runs_where_deterministic_algorithms_are_asked_for() -> None:
    pooled, places = max_pool(maps((2, 3, 4, 6), torch.channels_last))
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
            F.max_unpool2d(pooled, places, 2)  # why there is a function of our own
        max_unpool(pooled.requires_grad_(), places).square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert pooled.grad is not None


def test_half_precision_stays_half() -> None:
    pooled, places = max_pool(maps((2, 3, 4, 6), torch.channels_last).bfloat16())
    assert max_unpool(pooled, places).dtype == torch.bfloat16
