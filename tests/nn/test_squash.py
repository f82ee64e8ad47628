import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from capsexp.nn.functional import SQUASHES, at_least_single, lengths, squash, squash_exponential, squash_linear
from tests.references import squash as reference
from tests.references.votes import scalars, stacked

LENGTHS: dict[str, Callable[[float], float]] = {
    "classic": lambda n: n**2 / (1 + n**2),
    "linear": lambda n: n / (1 + n),
    "exponential": lambda n: 1 - math.exp(-n),
}


@pytest.fixture(params=SQUASHES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_names() -> None:
    assert dict(SQUASHES) == {"classic": squash, "linear": squash_linear, "exponential": squash_exponential}
    assert set(SQUASHES) == set(reference.SQUASHES) == set(LENGTHS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("classic", [3 / 5 * 25 / 26, 4 / 5 * 25 / 26]),
        ("linear", [3 / 6, 4 / 6]),
        ("exponential", [3 / 5 * (1 - math.exp(-5)), 4 / 5 * (1 - math.exp(-5))]),
    ],
)
def test_known_values(name: str, expected: list[float]) -> None:
    pose = torch.tensor([3.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(
        SQUASHES[name](pose, -1), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15
    )


def test_equals_the_formula_with_its_gradient(name: str) -> None:
    poses = normal(7, 3).requires_grad_()
    found = SQUASHES[name](poses, -1)
    expected = stacked([reference.SQUASHES[name](pose) for pose in scalars(poses)])
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    weights = normal(7, 3, seed=1)
    (grad,) = torch.autograd.grad((found * weights).sum(), poses)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), poses)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-12, atol=1e-12)


@given(st.floats(1e-6, 1e6), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_direction_stays_and_length_follows_the_formula(scale: float, dim: int, seed: int) -> None:
    pose = normal(dim, seed=seed)
    n = scale
    pose = pose / pose.norm() * n
    for name, formula in LENGTHS.items():
        found = SQUASHES[name](pose, -1)
        assert found.norm() < 1 + 1e-12
        assert found.norm().item() == pytest.approx(formula(n), rel=1e-9, abs=1e-12)
        torch.testing.assert_close(found / found.norm(), pose / pose.norm(), rtol=0, atol=1e-10)


def test_length_is_below_one(name: str) -> None:
    poses = normal(20, 4) * torch.logspace(-3, 1, 20, dtype=torch.float64)[:, None]
    assert (SQUASHES[name](poses, -1).norm(dim=1) < 1).all()


@pytest.mark.parametrize("dim", [0, 1, 2, -2])
def test_along_any_dimension(name: str, dim: int) -> None:
    poses = normal(3, 4, 5)
    expected = SQUASHES[name](poses.movedim(dim, -1), -1).movedim(-1, dim)
    torch.testing.assert_close(SQUASHES[name](poses, dim), expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(lengths(poses, dim), poses.norm(dim=dim), rtol=1e-14, atol=1e-14)
    assert lengths(poses, dim, keepdim=True).shape == poses.norm(dim=dim, keepdim=True).shape


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e18])
def test_is_finite_with_its_gradient_in_float32(name: str, size: float) -> None:
    poses = torch.tensor([[size, -size, 0.5 * size], [1.0, 2.0, 3.0]], requires_grad=True)
    found = SQUASHES[name](poses, -1)
    found.sum().backward()
    assert poses.grad is not None
    assert found.isfinite().all()
    assert poses.grad.isfinite().all()
    expected = LENGTHS[name](1.5 * size) if size < 1e3 else 1.0
    assert found[0].norm().item() == pytest.approx(expected, rel=1e-5, abs=1e-15)


def test_zero_stays_zero_and_length_has_no_gradient_there(name: str) -> None:
    poses = torch.zeros(2, 3, requires_grad=True)
    assert (SQUASHES[name](poses, -1) == 0).all()
    lengths(poses).sum().backward()
    assert poses.grad is not None
    assert (poses.grad == 0).all()


def test_gradient_at_zero(name: str) -> None:
    """Zero for the classic squash, the identity for the others, as the limits of their formulas."""
    zero = torch.zeros(3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda pose: SQUASHES[name](pose, -1), zero)
    expected = torch.zeros(3, 3).double() if name == "classic" else torch.eye(3).double()
    torch.testing.assert_close(jacobian, expected, rtol=0, atol=1e-100)
    h = 1e-7
    for column in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[column] = h
        slope = (SQUASHES[name](step, -1) - SQUASHES[name](-step, -1)) / (2 * h)
        torch.testing.assert_close(slope, expected[:, column], rtol=0, atol=2 * h)


def test_gradcheck(name: str) -> None:
    poses = normal(2, 3, 2).requires_grad_()
    for dim in (-1, 1):
        assert torch.autograd.gradcheck(lambda each, dim=dim: SQUASHES[name](each, dim), poses)
    assert torch.autograd.gradcheck(lengths, poses)


def test_at_least_single() -> None:
    for half in (torch.float16, torch.bfloat16):
        assert at_least_single(torch.ones(2, dtype=half)).dtype == torch.float32
    for whole in (torch.float32, torch.float64):
        values = torch.ones(2, dtype=whole)
        assert at_least_single(values) is values
