"""The finishes of weighted sums: squash with a bias and an epsilon, and layer normalisation."""

import pytest
import torch
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.nn.finish import LayerNorm, Squash, squashed
from capsexp.nn.functional import SQUASHES
from tests.references import squash as reference

B, J, E = 2, 3, 4


def sums(scale: float = 1.0) -> Tensor:
    return scale * torch.randn(B, J, E, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kind", SQUASHES)
def test_a_bias_is_added_before_the_squash(kind: str) -> None:
    finish = Squash(J, E, kind, bias=True).double()
    assert not finish.bias_JE.any()  # type: ignore[union-attr]
    with torch.no_grad():
        finish.bias_JE.copy_(torch.linspace(-1, 1, J * E).view(J, E))  # type: ignore[union-attr]
    sums_BJE = sums() + finish.bias_JE
    squash = reference.SQUASHES[kind]
    expected = torch.stack([torch.stack([torch.stack(squash(list(pose))) for pose in image]) for image in sums_BJE])
    torch.testing.assert_close(finish(sums()), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", SQUASHES)
@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_an_epsilon_stands_under_the_root_that_divides(kind: str, epsilon: float) -> None:
    sums_BJE = sums(0.01)
    n_BJ1 = sums_BJE.square().sum(2, keepdim=True).sqrt()
    length = {"classic": n_BJ1**2 / (1 + n_BJ1**2), "linear": n_BJ1 / (1 + n_BJ1), "exponential": 1 - (-n_BJ1).exp()}
    expected = length[kind] * sums_BJE / (n_BJ1**2 + epsilon).sqrt()
    torch.testing.assert_close(Squash(J, E, kind, epsilon=epsilon)(sums_BJE), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1e-3, 1e-2, 1.0, 30.0])
def test_the_squash_of_the_released_code(scale: float) -> None:
    """Sahu and Altahhan's: the square times the pose, over (1 + square) and the root of square + 1e-6."""
    sums_BJE = sums(scale)
    square_BJ1 = torch.sum(sums_BJE**2, dim=-1, keepdim=True)
    theirs = (square_BJ1 * sums_BJE) / ((1 + square_BJ1) * torch.sqrt(square_BJ1 + 1e-6))
    torch.testing.assert_close(Squash(J, E, epsilon=1e-6)(sums_BJE), theirs, rtol=1e-13, atol=0)
    single = Squash(J, E, epsilon=1e-6)(sums_BJE.float())
    torch.testing.assert_close(single, theirs.float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", SQUASHES)
def test_with_an_epsilon_the_gradient_at_zero_is_zero(kind: str) -> None:
    jacobian = torch.autograd.functional.jacobian(lambda pose: squashed(kind, pose, -1, 1e-6), torch.zeros(3).double())
    torch.testing.assert_close(jacobian, torch.zeros(3, 3).double(), rtol=0, atol=1e-100)


def test_without_an_epsilon_nothing_is_computed_again() -> None:
    assert torch.equal(squashed("classic", sums(), 2, 0.0), SQUASHES["classic"](sums(), 2))
    assert list(Squash(J, E).state_dict()) == []


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_zero_sums_give_zero_and_finite_gradients(epsilon: float) -> None:
    zero = torch.zeros(B, J, E, requires_grad=True)
    poses = Squash(J, E, epsilon=epsilon)(zero)
    poses.sum().backward()
    assert not poses.any()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


def test_layer_normalisation_is_that_of_each_parent() -> None:
    finish = LayerNorm(J, E).double()
    poses_BJE = finish(sums())
    torch.testing.assert_close(poses_BJE.mean(2), torch.zeros(B, J).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(poses_BJE.square().mean(2), torch.ones(B, J).double(), rtol=0, atol=1e-3)
    assert [tuple(value.shape) for value in finish.parameters()] == [(E,), (E,)]


def test_layer_normalisation_leaves_a_single_component() -> None:
    one = sums()[..., :1]
    assert torch.equal(LayerNorm(J, 1)(one), one)
    assert list(LayerNorm(J, 1).parameters()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "x"}, r"^squash must be one of classic, linear, exponential, got 'x'$"),
        ({"bias": 1}, r"^bias must be true or false, got 1$"),
        ({"epsilon": -1}, r"^epsilon must be a number in \[0, inf\], got -1$"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Squash(J, E, **options)  # type: ignore[arg-type]
