import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsexp.metrics.running import RunningMean

batches = st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9), min_size=1, max_size=6)


@given(batches)
@settings(deadline=None, max_examples=40)
def test_uneven_batches_give_the_mean_over_samples(values: list[list[float]]) -> None:
    mean = RunningMean()
    for batch in values:
        mean.update(torch.tensor(batch, dtype=torch.float64).sum(), len(batch))
    expected = np.mean([value for batch in values for value in batch])
    assert float(mean.compute()) == pytest.approx(expected, rel=1e-12, abs=1e-9)


def test_it_is_no_mean_of_means() -> None:
    mean = RunningMean()
    mean.update(torch.tensor(10.0), 1)
    mean.update(torch.tensor(0.0), 9)
    assert float(mean.compute()) == 1.0


def test_adds_up_in_float64_whatever_comes_in() -> None:
    mean = RunningMean()
    mean.update(torch.tensor(2.0**24), 1)
    for _ in range(100):
        mean.update(torch.tensor(1.0), 1)  # in float32, 2^24 + 1 = 2^24
    assert mean.compute().dtype == torch.float64
    assert float(mean.total) == 2**24 + 100


def test_hits_are_whole_numbers() -> None:
    mean = RunningMean()
    mean.update((torch.tensor([1, 2, 3]) == torch.tensor([1, 2, 0])).sum(), 3)
    assert float(mean.compute()) == pytest.approx(2 / 3, abs=1e-15)


def test_reset_forgets_and_an_empty_mean_is_nan() -> None:
    mean = RunningMean()
    mean.update(torch.tensor(4.0), 2)
    mean.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert mean.compute().isnan()
    mean.update(torch.tensor(6.0), 2)
    assert float(mean.compute()) == 3.0


def test_two_devices_add_up() -> None:
    first, second = RunningMean(), RunningMean()
    first.update(torch.tensor(10.0), 1)
    second.update(torch.tensor(2.0), 5)
    first.merge_state(second)
    assert float(first.compute()) == 2.0
