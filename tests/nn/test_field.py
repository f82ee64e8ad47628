"""The share of a child over the parents of all windows that hold it, against loops over windows and places."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from capsexp.nn import Field
from capsexp.nn.field import Field as Same

grids = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1)).filter(
    lambda sizes: sizes[2] <= min(sizes[:2]) + 2 * sizes[4]
)


def test_it_is_exported() -> None:
    assert Field is Same


def slow_places(height: int, width: int, kernel: int, stride: int, padding: int) -> list[list[int]]:
    """The place at each position of each window, row by row; -1 in the padding."""
    found = []
    for top in range(-padding, height + padding - kernel + 1, stride):
        for left in range(-padding, width + padding - kernel + 1, stride):
            window = [(top + row, left + column) for row in range(kernel) for column in range(kernel)]
            inside = [0 <= row < height and 0 <= column < width for row, column in window]
            found.append([r * width + c if here else -1 for (r, c), here in zip(window, inside, strict=True)])
    return found


def slow_share(logits_BLJTP: Tensor, places: list[list[int]]) -> Tensor:
    """Child by child: the softmax over all (window, parent) pairs that hold it; zero in the padding."""
    found = torch.zeros_like(logits_BLJTP)
    for place in {number for window in places for number in window if number >= 0}:
        where = [(w, p) for w, window in enumerate(places) for p, number in enumerate(window) if number == place]
        windows, positions = zip(*where, strict=True)
        logits = torch.stack([logits_BLJTP[:, w, :, :, p] for w, p in where], 1)  # B, windows, J, T
        shares = logits.flatten(1, 2).softmax(1).view_as(logits)
        for number, (w, p) in enumerate(zip(windows, positions, strict=True)):
            found[:, w, :, :, p] = shares[:, number]
    return found


@settings(deadline=None)
@given(grids, st.integers(0, 9), st.sampled_from([1.0, 100.0]))
def test_shares_are_a_softmax_over_all_windows_that_hold_a_child(
    sizes: tuple[int, int, int, int, int], seed: int, scale: float
) -> None:
    images, parents, types = 2, 3, 2
    places = slow_places(*sizes)
    field = Field.of_grid(*sizes)
    assert [[number if number < field.places else -1 for number in row] for row in field.place_LP.tolist()] == places
    shape = images, len(places), parents, types, field.positions
    logits = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale
    found = field.share(logits.flatten(0, 1).flatten(2)).view(shape)
    inside = torch.tensor(places)[:, None, None, :] >= 0
    torch.testing.assert_close(found * inside, slow_share(logits, places), rtol=1e-12, atol=1e-14)
    assert found.isfinite().all()


@settings(deadline=None)
@given(grids)
def test_the_windows_of_a_child_are_counted(sizes: tuple[int, int, int, int, int]) -> None:
    field, places = Field.of_grid(*sizes), slow_places(*sizes)
    counts = field.windows_of_child(types=2).view(len(places), 2, -1)
    for window, row in enumerate(places):
        for position, place in enumerate(row):
            if place >= 0:
                expected = sum(other.count(place) for other in places)
                assert counts[window, :, position].tolist() == [expected, expected]


def test_logits_of_a_thousand_stay_finite_in_single_precision() -> None:
    field = Field.of_grid(3, 3, 2, 1, 1)
    logits = (torch.randn(field.windows, 2, 4) * 1e3).requires_grad_()
    shares = field.share(logits)
    shares.square().sum().backward()
    assert shares.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("padding", [0, 1])
def test_its_gradient_is_that_of_its_values(padding: int) -> None:
    field = Field.of_grid(3, 2, 2, 1, padding)
    logits = torch.randn(field.windows, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(field.share, (logits,))
