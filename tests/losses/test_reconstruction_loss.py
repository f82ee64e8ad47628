import pytest
import torch
import torch.nn.functional as F

from capsexp.losses.reconstruction import reconstruction_loss


def test_by_hand() -> None:
    drawn = torch.tensor([[[[0.0, 0.5], [1.0, 0.25]]], [[[1.0, 1.0], [1.0, 1.0]]]], dtype=torch.float64)
    target = torch.tensor([[[[0.0, 0.0], [0.0, 0.75]]], [[[1.0, 1.0], [1.0, 0.9]]]], dtype=torch.float64)
    # 0 + 0.25 + 1 + 0.25 in the first image and 0.01 in the second.
    assert reconstruction_loss(drawn, target).item() == pytest.approx((1.5 + 0.01) / 2, abs=1e-15)
    assert reconstruction_loss(drawn, target).shape == ()
    assert reconstruction_loss(drawn, drawn) == 0


def test_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn, target = (torch.rand(3, 2, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    reconstruction_loss(drawn.requires_grad_(), target).backward()
    assert drawn.grad is not None
    torch.testing.assert_close(drawn.grad, 2 * (drawn.detach() - target) / 3)


def test_its_share_in_terms_of_the_mean_squared_error() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn, target = (torch.rand(5, 1, 28, 28, generator=generator, dtype=torch.float64) for _ in range(2))
    found = 0.0005 * reconstruction_loss(drawn, target)
    torch.testing.assert_close(found, 0.392 * F.mse_loss(drawn, target), rtol=1e-12, atol=0)
