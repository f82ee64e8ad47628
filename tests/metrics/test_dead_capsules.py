"""Lengths and verdicts against a reference that keeps all poses."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.metrics.dead_capsules import Activity, DeadCapsules, Shares, shares
from tests.references import dead_capsules as reference

NAMES = Activity._fields


def poses(images: int = 23) -> Tensor:
    """Capsules of all kinds, by type: alive, sign varies, dead, seldom alive, faint but constant; (N, 5, 3, 2, 4)."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(1, 5, 3, 2, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(images, 5, 3, 2, 4, generator=generator, dtype=torch.float64)
    sizes = torch.tensor([0.2, 0.2, 1e-4, 1e-5, 0.005]).view(1, -1, 1, 1, 1)
    poses_NTDHW = (direction + 0.1 * noise) * sizes
    poses_NTDHW[: images // 2, 1] *= -1
    poses_NTDHW[0, 3] *= 5000
    return poses_NTDHW


def streamed(batches: list[Tensor], threshold: float = 0.01) -> Activity:
    metric = DeadCapsules(threshold)
    for batch in batches:
        metric.update(batch)
    found: Activity = metric.compute()
    return found


@pytest.mark.parametrize("sizes", [[23], [1] * 23, [10, 10, 3], [1, 22]])
@pytest.mark.parametrize("threshold", [0.01, 0.1])
def test_any_division_into_batches_is_the_reference(sizes: list[int], threshold: float) -> None:
    found = streamed(list(poses().split(sizes)), threshold)
    for name, expected in reference.activity(poses().numpy(), threshold).items():
        given = getattr(found, name)
        assert given.shape == ((5,) if name == "dead_types" else (5, 2, 4)), name
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-9 if name == "std_length" else 1e-12, err_msg=name)
    for name in ("length_of_mean", "mean_length"):
        torch.testing.assert_close(
            getattr(found, name), getattr(streamed([poses()], threshold), name), rtol=0, atol=1e-12
        )


def test_variances_are_the_references() -> None:
    expected = reference.activity(poses().numpy(), 0.01)["std_length"].astype(float) ** 2
    np.testing.assert_allclose(streamed(list(poses().split(4))).std_length ** 2, expected, rtol=0, atol=1e-12)


def test_the_two_rules_differ_where_the_sign_varies_and_where_a_capsule_is_seldom_alive() -> None:
    varied = streamed([poses(), -poses()])
    assert varied.dead.all()
    assert not varied.silent[:2].any()
    assert varied.silent[2].all()
    seldom = streamed([torch.tensor([0.0] * 99 + [0.5]).view(100, 1, 1)])  # mean .005, standard deviation .05
    assert (bool(seldom.dead), bool(seldom.silent)) == (True, False)


def test_bounds() -> None:
    """At the threshold a capsule is dead, but not silent."""
    length = torch.tensor([0.25, 0.2500001, 0.2499999, 0.0], dtype=torch.float64).view(1, 4, 1)
    found = streamed([length, length], threshold=0.25)
    assert found.dead.flatten().tolist() == [True, False, True, True]
    assert found.silent.flatten().tolist() == [False, False, True, True]
    lengths = torch.tensor([3.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).view(8, 1, 1)
    found = streamed([lengths], threshold=1)
    assert (float(found.mean_length), float(found.std_length), bool(found.silent)) == (0.5, 1.0, False)


def test_a_spread_above_the_threshold_alone_keeps_a_capsule_from_being_silent() -> None:
    lengths = torch.tensor([0.0] * 15 + [0.125]).view(16, 1, 1)  # mean 1/128, standard deviation .03
    found = streamed([lengths], threshold=1 / 64)
    assert float(found.mean_length) < 1 / 64 < float(found.std_length)
    assert not bool(found.silent)


def test_equal_lengths_have_no_spread() -> None:
    """The second moment less the square of the first is rounding here, of either sign."""
    pose = torch.rand(1, 400, 3, 1, 2, generator=torch.Generator().manual_seed(1))
    found = streamed([pose] * 7)
    assert found.std_length.isfinite().all()
    assert found.std_length.max() < 1e-7


def test_without_a_grid_it_is_one_of_one_place() -> None:
    poses_BJE = poses()[..., 0, 0]
    found, expected = streamed([poses_BJE]), streamed([poses()[..., :1, :1]])
    assert found.dead.shape == (5, 1, 1)
    assert all(torch.equal(getattr(found, name), getattr(expected, name)) for name in NAMES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_adds_up_in_float64_whatever_comes_in(dtype: torch.dtype) -> None:
    given = poses().to(dtype)
    metric = DeadCapsules()
    for _ in range(3):
        metric.update(given)
    found = metric.compute()
    expected = reference.activity(given.double().numpy(), 0.01)
    for name in ("length_of_mean", "mean_length"):
        assert getattr(found, name).dtype == torch.float64
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=0, atol=1e-12)


def test_poses_keep_no_graph() -> None:
    metric = DeadCapsules()
    metric.update(poses().requires_grad_())
    assert not any(getattr(metric, name).requires_grad for name in metric._defaults)


def test_only_sums_are_kept() -> None:
    metric = DeadCapsules()
    for batch in poses().split(1):
        metric.update(batch)
    sizes = {name: tuple(getattr(metric, name).shape) for name in metric._defaults}
    assert sizes == {"poses_TDHW": (5, 3, 2, 4), "lengths_THW": (5, 2, 4), "squares_THW": (5, 2, 4), "count": ()}


def test_two_devices_add_up() -> None:
    first, second = DeadCapsules(), DeadCapsules()
    first.update(poses()[:9])
    second.update(poses()[9:])
    first.merge_state(second)
    for found, expected in zip(first.compute(), streamed([poses()]), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_reset_forgets_sums_and_shape() -> None:
    metric = DeadCapsules()
    metric.update(poses())
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        empty = metric.compute()
    assert [float(value) for value in empty[:3]] == pytest.approx([np.nan] * 3, nan_ok=True)
    assert (bool(empty.dead), bool(empty.silent)) == (False, False)
    metric.update(torch.full((2, 3, 1), 0.5))
    assert metric.compute().length_of_mean.flatten().tolist() == [0.5] * 3


def test_what_is_not_finite_is_no_verdict() -> None:
    found = streamed([torch.tensor([[[np.nan], [np.inf], [0.0]]])])
    assert found.dead.flatten().tolist() == found.silent.flatten().tolist() == [False, False, True]


def test_shares_count_capsules_not_layers() -> None:
    zeros, ones = streamed([torch.zeros(2, 3, 2)]), streamed([torch.ones(2, 9, 2)])
    varied = streamed([torch.tensor([[[1.0]] * 4, [[-1.0]] * 4])])
    assert shares([zeros]) == Shares(1.0, 1.0, 1.0)
    assert shares([zeros, ones]) == Shares(0.25, 0.25, 0.25)
    assert shares(iter([zeros, ones, varied])) == Shares(7 / 16, 3 / 16, 7 / 16)


@pytest.mark.parametrize("threshold", [0, -0.1, True, "0.01", float("nan"), float("inf")])
def test_threshold_is_checked(threshold: Any) -> None:
    with pytest.raises(ConfigError, match=r"^threshold must be a number in \(0, inf\], got"):
        DeadCapsules(threshold)


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 2, 2), (1, 1, 1, 1, 1, 1)])
def test_poses_have_a_grid_or_none(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"^poses must be \(B, T, D, H, W\) or \(B, J, E\), got"):
        DeadCapsules().update(torch.zeros(shape))


def test_poses_of_another_layer_are_refused() -> None:
    metric = DeadCapsules()
    metric.update(torch.zeros(2, 4, 3))
    with pytest.raises(ConfigError, match=r"^poses must be of one layer, \(4, 3, 1, 1\) per image, got \(2, 1, 3\)"):
        metric.update(torch.zeros(2, 1, 3))  # would broadcast


def test_types_are_counted_as_the_authors_code_does() -> None:
    """The length of the mean over images and places, rounded to three decimals."""
    types = torch.zeros(3, 4, 2, 1, 2, dtype=torch.float64)
    types[:, 0, 0] = 0.0104  # rounds to the threshold
    types[:, 1, 0] = 0.0106
    types[:, 2, 0, 0] = torch.tensor([0.5, -0.5])  # alive at both places, in opposite directions
    types[:, 3, 0, 0] = torch.tensor([0.03, 0.0])
    found = streamed([types])
    assert found.dead_types.tolist() == [True, False, True, False]
    assert found.dead[2].tolist() == [[False, False]]
    assert found.dead[3].tolist() == [[False, True]]


def test_the_variation_is_the_share_of_a_pose_that_changes_at_any_scale() -> None:
    vary = poses()
    mean = vary.mean(0)
    expected = ((vary - mean).square().sum(2).mean(0) / vary.square().sum(2).mean(0)).sqrt()
    for scale in (1.0, 1e-9):
        torch.testing.assert_close(streamed([vary * scale]).variation, expected, rtol=0, atol=1e-7)
    assert not streamed([torch.zeros(3, 2, 4, 1, 2)]).variation.any()
