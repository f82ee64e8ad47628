"""The correlation of channels against numpy's, and its gradient where it is not smooth."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from capsexp.losses.ccm import channel_correlation
from tests.references import ccm as reference


def maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def gradient(maps_BCHW: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(channel_correlation(maps_BCHW.requires_grad_()), maps_BCHW)
    return found


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (1, 7, 2, 3), (9, 12, 3, 3), (2, 1, 4, 4), (3, 2, 1, 2)])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_is_numpys(shape: tuple[int, ...], offset: float) -> None:
    maps_BCHW = maps(*shape) + offset
    found = channel_correlation(maps_BCHW)
    assert (found.shape, found.dtype) == ((), torch.float64)
    assert found.item() == pytest.approx(reference.channel_correlation(maps_BCHW.numpy()), abs=1e-10)


def test_is_the_mean_of_numpys_whole_matrix() -> None:
    maps_BCHW = maps(6, 5, 4, 3).relu()
    expected = np.abs(np.corrcoef(maps_BCHW.mean(0).flatten(1).numpy())).mean()
    assert channel_correlation(maps_BCHW).item() == pytest.approx(expected, abs=1e-12)
    found = channel_correlation(maps_BCHW.float().to(memory_format=torch.channels_last))
    assert (found.item(), found.dtype) == (pytest.approx(expected, abs=1e-6), torch.float32)


def test_by_hand() -> None:
    # Three channels on two places: up, down by another amount, and constant.  |corr| = 1 for 2 x 2 of the 9 pairs.
    maps_BCHW = torch.tensor([[[[1.0, 3.0]], [[5.0, 4.0]], [[2.0, 2.0]]]])
    assert channel_correlation(maps_BCHW).item() == pytest.approx(4 / 9, abs=1e-6)


def test_images_are_averaged_before_channels_are_correlated() -> None:
    maps_BCHW = maps(2, 2, 3, 3)
    maps_BCHW[1, 0] = 1 - maps_BCHW[0, 0]  # each image's channel varies, their mean does not
    assert channel_correlation(maps_BCHW).item() == pytest.approx(1 / 4, abs=1e-12)
    apart = [channel_correlation(maps_BCHW[[image]]).item() for image in range(2)]
    assert min(apart) > 1 / 2


# -- gradient ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_gradient_is_that_of_finite_differences(offset: float) -> None:
    maps_BCHW = (maps(3, 4, 2, 3) + offset).requires_grad_()
    assert torch.autograd.gradcheck(channel_correlation, maps_BCHW)  # type: ignore[no-untyped-call]


def test_steps_along_the_gradient_raise_the_correlation() -> None:
    images, weight = maps(8, 3, 6, 6), maps(5, 3, 3, 3, seed=1).requires_grad_()
    found = []
    for _ in range(20):
        loss = channel_correlation(torch.nn.functional.conv2d(images, weight).relu())
        found.append(loss.item())
        (step,) = torch.autograd.grad(loss, weight)
        weight = (weight + step).detach().requires_grad_()
    assert all(after > before for before, after in itertools.pairwise(found))
    assert found[-1] > found[0] + 0.15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_gradient_is_finite_where_nothing_is_smooth(dtype: torch.dtype) -> None:
    maps_BCHW = maps(4, 6, 3, 3, dtype=dtype)
    maps_BCHW[:, 0] = 0  # dead
    maps_BCHW[:, 1] = 0.1  # constant
    maps_BCHW[:, 3] = maps_BCHW[:, 2]  # a pair of duplicates
    maps_BCHW[:, 4] = -2 * maps_BCHW[:, 2]  # and the opposite
    found = gradient(maps_BCHW)
    assert found.dtype == dtype
    assert found.isfinite().all()
    assert (found[:, :2] == 0).all()
    assert (found[:, 5] != 0).any()


@pytest.mark.parametrize(("shape", "expected"), [((3, 1, 4, 4), 1.0), ((3, 4, 1, 1), 0.0), ((1, 1, 1, 1), 0.0)])
def test_one_channel_and_one_place(shape: tuple[int, ...], expected: float) -> None:
    maps_BCHW = maps(*shape)
    assert channel_correlation(maps_BCHW).item() == pytest.approx(expected, abs=1e-12)
    assert gradient(maps_BCHW).abs().max() < 1e-12


# -- constant channels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_rounding_is_no_correlation(dtype: torch.dtype, size: float, layout: torch.memory_format) -> None:
    """Of 64 constant channels the mean is off by rounding; a channel beside them still has its diagonal."""
    values_C = torch.cat([torch.tensor([0.1, 0.3, 0.7]), torch.rand(61, generator=torch.Generator().manual_seed(0))])
    values_C[1::2] *= -1
    constant = (values_C.to(dtype) * size).view(1, -1, 1, 1).expand(37, -1, 7, 7)
    moving = maps(37, 1, 7, 7, dtype=dtype) * size
    assert channel_correlation(constant.contiguous(memory_format=layout)) == 0
    both = torch.cat([constant, moving], 1).contiguous(memory_format=layout)
    assert channel_correlation(both).item() == pytest.approx(1 / 65**2, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_that_cancel_leave_a_constant_channel(dtype: torch.dtype) -> None:
    """Large values cancel in the mean map, and leave rounding that is large beside what is left."""
    levels_B = maps(64, dtype=dtype) * 1e3
    levels_B -= levels_B.mean()
    maps_BCHW = torch.cat([levels_B.view(-1, 1, 1, 1).expand(-1, 4, 7, 7), maps(64, 1, 7, 7, dtype=dtype)], 1)
    noise = 1e3 * torch.finfo(dtype).eps * maps(64, 4, 7, 7, seed=1, dtype=dtype)
    maps_BCHW[:, :4] += noise
    assert channel_correlation(maps_BCHW).item() == pytest.approx(1 / 25, rel=1e-5)


@pytest.mark.parametrize(("dtype", "smallest"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_a_small_change_on_a_large_value_is_a_change(dtype: torch.dtype, smallest: float) -> None:
    pattern = maps(1, 2, 7, 7, dtype=dtype)
    found = channel_correlation(5 + 5 * smallest * pattern)
    assert found.item() == pytest.approx(channel_correlation(pattern).item(), abs=0.01)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e-18), (torch.float32, 1e37), (torch.float64, 1e300)])
def test_size_does_not_matter_where_squares_leave_the_range(dtype: torch.dtype, size: float) -> None:
    maps_BCHW = maps(4, 5, 3, 3, dtype=dtype)
    expected = channel_correlation(maps_BCHW).item()
    assert channel_correlation(maps_BCHW * size).item() == pytest.approx(expected, rel=1e-4)
    assert gradient(maps_BCHW * size).isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_visible(bad: float) -> None:
    maps_BCHW = maps(2, 3, 2, 2)
    maps_BCHW[1, 1, 0, 1] = bad
    assert channel_correlation(maps_BCHW).isnan()


# -- invariances ------------------------------------------------------------------------------------------------------


def test_scale_and_offset_of_a_channel_do_not_matter() -> None:
    maps_BCHW = maps(4, 5, 3, 3)
    scale, offset = maps(1, 5, 1, 1, seed=1).abs() + 0.1, maps(1, 5, 1, 1, seed=2)
    expected = channel_correlation(maps_BCHW).item()
    assert channel_correlation(maps_BCHW * scale + offset).item() == pytest.approx(expected, abs=1e-12)
    assert channel_correlation(-maps_BCHW * scale).item() == pytest.approx(expected, abs=1e-12)


def test_the_order_of_channels_images_and_places_does_not_matter() -> None:
    maps_BCHW = maps(4, 5, 3, 3)
    expected = channel_correlation(maps_BCHW).item()
    for other in (maps_BCHW[:, [3, 1, 4, 0, 2]], maps_BCHW.flip(0), maps_BCHW.transpose(2, 3), maps_BCHW.flip(3)):
        assert channel_correlation(other).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("channels", [1, 2, 5, 30])
def test_lies_between_that_of_orthogonal_and_of_equal_channels(channels: int) -> None:
    basis = torch.linalg.qr(torch.cat([torch.ones(64, 1, dtype=torch.float64), maps(64, channels)], 1)).Q
    orthogonal = basis[:, 1:].T.reshape(1, channels, 8, 8)
    assert channel_correlation(orthogonal).item() == pytest.approx(1 / channels, abs=1e-12)
    equal = maps(1, 1, 8, 8).expand(3, channels, 8, 8)
    assert channel_correlation(equal).item() == pytest.approx(1, abs=1e-12)
    assert 1 / channels - 1e-12 <= channel_correlation(maps(2, channels, 8, 8)).item() <= 1 + 1e-12


# -- half precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    maps_BCHW = maps(4, 8, 5, 5, dtype=dtype)
    found = channel_correlation(maps_BCHW)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(reference.channel_correlation(maps_BCHW.double().numpy()), abs=1e-6)


def test_autocast_does_not_reach_it() -> None:
    maps_BCHW = maps(4, 8, 5, 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = channel_correlation(maps_BCHW)
    assert torch.equal(found, channel_correlation(maps_BCHW))
