"""The spread loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capsexp.losses.spread import spread_loss


def by_loops(rows: list[list[float]], labels: list[int], margin: float) -> float:
    total = 0.0
    for row, true in zip(rows, labels, strict=True):
        total += sum(max(0.0, margin - (row[true] - each)) ** 2 for k, each in enumerate(row) if k != true)
    return total / len(rows)


@given(
    rows=st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=5),
    seed=st.integers(0, 99),
    margin=st.floats(0, 1),
)
def test_it_is_the_sum_over_wrong_classes(rows: list[list[float]], seed: int, margin: float) -> None:
    labels_B = torch.randint(4, (len(rows),), generator=torch.Generator().manual_seed(seed))
    found = spread_loss(torch.tensor(rows, dtype=torch.float64), labels_B, margin=margin)
    assert found.item() == pytest.approx(by_loops(rows, labels_B.tolist(), margin), abs=1e-12)


def test_a_true_class_far_enough_above_all_others_costs_nothing_and_gives_no_gradient() -> None:
    activations_BK = torch.tensor([[0.9, 0.1, 0.2], [0.0, 0.1, 0.95]], requires_grad=True)
    loss = spread_loss(activations_BK, torch.tensor([0, 2]), margin=0.7)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert activations_BK.grad is not None
    assert not activations_BK.grad.any()


def test_equal_activations_cost_the_squared_margin_of_every_wrong_class() -> None:
    loss = spread_loss(torch.full((3, 5), 0.4), torch.tensor([0, 1, 4]), margin=0.2)
    assert loss.item() == pytest.approx(4 * 0.2**2)


def test_gradients_agree_with_finite_differences() -> None:
    activations_BK = torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    labels_B = torch.tensor([1, 3, 0])
    assert torch.autograd.gradcheck(lambda given: spread_loss(given, labels_B, margin=0.6), activations_BK)
