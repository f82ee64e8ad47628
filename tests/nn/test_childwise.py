"""A linear map of its own for every child."""

import pytest
import torch

from capsexp.nn.childwise import childwise

B, I, J, D = 3, 5, 4, 2  # noqa: E741 - the legend's letter for children


@pytest.mark.parametrize("transposed", [False, True])
def test_it_is_the_einsum_with_its_gradients(transposed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    poses = torch.randn(B, D, I, generator=generator, dtype=torch.float64).transpose(1, 2)
    poses = (poses if transposed else poses.contiguous()).requires_grad_()
    weight = torch.randn(J, D, I, generator=generator, dtype=torch.float64).requires_grad_()
    factors = torch.randn(B, J, I, generator=generator, dtype=torch.float64)
    found, expected = childwise(poses, weight), torch.einsum("bid,jdi->bji", poses, weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    grads = (torch.autograd.grad((each * factors).sum(), (poses, weight)) for each in (found, expected))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_under_autocast_the_products_are_in_bfloat16_and_the_result_is_float32() -> None:
    poses, weight = torch.rand(B, I, D), torch.rand(J, D, I)
    with torch.autocast("cpu", torch.bfloat16):
        found = childwise(poses, weight)
    assert found.dtype == torch.float32
    expected = torch.einsum("bid,jdi->bji", poses, weight)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    assert not torch.equal(found, expected)
