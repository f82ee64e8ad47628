"""The negative log-likelihood of activations."""

import math

import pytest
import torch

from capsexp.losses.nll import LEAST, nll_loss


def test_it_is_the_mean_over_images_of_the_true_class_share() -> None:
    activations_BK = torch.tensor([[0.2, 0.3, 0.5], [1.0, 2.0, 1.0]], dtype=torch.float64)
    found = nll_loss(activations_BK, torch.tensor([2, 0]))
    assert found.item() == pytest.approx(-(math.log(0.5) + math.log(0.25)) / 2, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_activations_give_a_finite_loss_and_gradient(dtype: torch.dtype) -> None:
    activations_BK = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=dtype, requires_grad=True)
    loss = nll_loss(activations_BK, torch.tensor([0, 0]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(-math.log(LEAST), rel=1e-6)
    assert activations_BK.grad is not None
    assert activations_BK.grad.isfinite().all()
