import pytest
import torch
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.losses.margin import margin_loss


def lengths() -> Tensor:
    return torch.tensor([[0.95, 0.5, 0.05], [0.95, 0.5, 0.05]], dtype=torch.float64)


LABELS = torch.tensor([0, 2])


def test_by_hand() -> None:
    # First image: .95 is present and long enough, .05 absent and short enough; left is 0.5 * (0.5 - 0.1)^2.
    first = 0.5 * 0.4**2
    # Second: (0.9 - 0.05)^2 for the one that is there, 0.5 * (0.95 - 0.1)^2 and 0.5 * 0.4^2 for the others.
    second = 0.85**2 + 0.5 * 0.85**2 + 0.5 * 0.4**2
    assert (first, second) == pytest.approx((0.08, 1.16375))
    assert margin_loss(lengths()[:1], LABELS[:1]).item() == pytest.approx(first, abs=1e-15)
    assert margin_loss(lengths()[1:], LABELS[1:]).item() == pytest.approx(second, abs=1e-15)
    assert margin_loss(lengths(), LABELS).item() == pytest.approx(0.621875, abs=1e-15)
    assert margin_loss(lengths(), LABELS).shape == ()


def test_margins_and_weight_are_options() -> None:
    found = margin_loss(lengths(), LABELS, present=1.0, absent=0.2, down_weight=0.25)
    first = 0.05**2 + 0.25 * 0.3**2
    second = 0.95**2 + 0.25 * (0.75**2 + 0.3**2)
    assert found.item() == pytest.approx((first + second) / 2, abs=1e-15)


def test_is_squared() -> None:
    # The distance to either margin doubles, and the loss is four times as large.
    for label, near, far in ((0, 0.7, 0.5), (1, 0.3, 0.5)):
        loss = [
            margin_loss(torch.tensor([[n, 0.0 if label == 0 else 0.9]]), torch.tensor([label])) for n in (near, far)
        ]
        assert (loss[1] / loss[0]).item() == pytest.approx(4, rel=1e-5)


def test_gradient_by_hand_and_zero_at_satisfied_margins() -> None:
    lengths_BK = lengths().requires_grad_()
    margin_loss(lengths_BK, LABELS).backward()
    expected = torch.tensor([[0, 0.4 / 2, 0], [0.85 / 2, 0.4 / 2, -2 * 0.85 / 2]], dtype=torch.float64)
    assert lengths_BK.grad is not None
    torch.testing.assert_close(lengths_BK.grad, expected, rtol=0, atol=1e-15)


def test_satisfied_margins_cost_nothing() -> None:
    lengths_BK = torch.tensor([[0.9, 0.1, 0.0], [0.02, 0.99, 0.1]], dtype=torch.float64)
    assert margin_loss(lengths_BK, torch.tensor([0, 1])) == 0
    assert margin_loss(lengths_BK, torch.tensor([1, 0])) > 0


def test_half_mean_is_the_loss_of_the_code_that_zhao_adapted() -> None:
    """Its steps: .5 is taken from the lengths, both margins are .4, costs are halved and averaged over all classes."""
    generator = torch.Generator().manual_seed(3)
    lengths_BK = torch.rand(50, 10, generator=generator, dtype=torch.float64)
    labels_B = torch.randint(10, (50,), generator=generator)
    total = 0.0
    for row, label in zip(lengths_BK.tolist(), labels_B.tolist(), strict=True):
        for k, length in enumerate(row):
            centred = length - 0.5
            if k == label:
                total += 0.5 * (centred < 0.4) * (centred - 0.4) ** 2
            else:
                total += 0.5 * 0.5 * (centred > -0.4) * (centred + 0.4) ** 2
    found = margin_loss(lengths_BK, labels_B, reduction="half_mean")
    assert found.item() == pytest.approx(total / 500, rel=1e-13)
    assert (margin_loss(lengths_BK, labels_B) / found).item() == pytest.approx(20, rel=1e-13)


def test_another_reduction_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^reduction must be one of sum, half_mean, got 'mean'$"):
        margin_loss(lengths(), LABELS, reduction="mean")
