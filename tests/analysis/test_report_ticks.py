"""What stands along an axis of a picture."""

import pytest

from capsexp.analysis.figures import ticks


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["torch.optim.Adam", "torch.optim.AdamW"], ["Adam", "AdamW"]),
        (["torch.optim.Adam", "mine.Adam"], ["torch.optim.Adam", "mine.Adam"]),
        (["/my/a.npz", "/my/b.npz"], ["a.npz", "b.npz"]),
        (["v1.0", "v1.1"], ["v1.0", "v1.1"]),
        (["torch.optim.Adam"], ["torch.optim.Adam"]),
        ([True, None], ["true", "null"]),
        ([0.25, 1e-6, 0.12345678], ["0.25", "1e-06", "0.12345678"]),
        (["x" * 40], ["x" * 27 + "…"]),
    ],
)
def test_short_texts_of_values(values, expected):
    assert ticks.texts(values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2, 4, 8, 16, 32], "linear"),
        ([0, 0.1, 0.25, 0.5], "linear"),
        (list(range(100)), "linear"),
        ([1e-5, 1e-4, 5e-4, 1e-2], "log"),
        ([0, 1e-6, 1e-3], "even"),
        (["a", "b"], "even"),
        ([7], "linear"),
    ],
)
def test_numbers_that_crowd_are_spread(values, expected):
    assert ticks.scale(values) == expected


def test_texts_are_thinned_or_turned_before_they_touch():
    assert ticks.across(list(range(10)), 7.0).step == 1
    assert ticks.across(list(range(100)), 7.0).step > 2
    turned = ticks.across(["a_name_of_some_length", "another_name_of_length"], 2.0)
    assert turned.turn > 0
    assert turned.inches > 0.5
    assert ticks.upright(list(range(100)), 3.0).step > 2
