import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from capsexp.analysis.claims.rules.paired import t_interval
from capsexp.analysis.claims.rules.trend import bootstrap, spearman

VALUES = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=12)


def mean_ranks(values):
    """The rank of each value; equal ones have the mean of the places that they take together."""
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]


def slow(x, y):
    """Pearson's correlation of the ranks, 0 where one does not vary."""
    a, b = mean_ranks(x), mean_ranks(y)
    a, b = [v - sum(a) / len(a) for v in a], [v - sum(b) / len(b) for v in b]
    norms = (sum(v * v for v in a) * sum(v * v for v in b)) ** 0.5
    return sum(v * w for v, w in zip(a, b, strict=True)) / norms if norms else 0.0


@settings(max_examples=40, deadline=None)
@given(VALUES)
def test_it_is_scipys_with_ties_too(pairs):
    x, y = zip(*pairs, strict=True)
    assume(len(set(x)) > 1 and len(set(y)) > 1)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert spearman(x, y) == pytest.approx(slow(x, y), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(VALUES)
def test_only_the_order_counts(pairs):
    x, y = zip(*pairs, strict=True)
    rho = spearman(x, y)
    assert spearman([v**3 for v in x], y) == pytest.approx(rho, abs=1e-12)
    assert spearman([-v for v in x], y) == pytest.approx(-rho, abs=1e-12)
    assert spearman(y, x) == pytest.approx(rho, abs=1e-12)
    assert -1 <= rho <= 1


def test_known_values():
    assert spearman([1, 2, 3], [10, 20, 30]) == 1
    assert spearman([1, 2, 3], [3, 2, 1]) == -1
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486832980505138)  # ranks 1, 2.5, 2.5, 4
    assert spearman([5, 5, 5], [1, 2, 3]) == 0


def test_the_bootstrap_ranks_every_resample_again():
    random = np.random.default_rng(5)
    x, y = random.integers(0, 5, 12).astype(float), random.normal(size=12)
    drawn = np.random.default_rng(7).integers(0, 12, (50, 12))
    found = sorted(slow(list(x[picks]), list(y[picks])) for picks in drawn)
    expected = np.quantile(found, [0.025, 0.975])
    assert bootstrap(x, y, resamples=50, seed=7) == pytest.approx(tuple(expected), abs=1e-12)


def test_the_interval_is_the_same_every_time_and_holds_its_value():
    random = np.random.default_rng(0)
    x = random.normal(size=100)
    y = x + random.normal(size=100)
    low, high = bootstrap(x, y)
    assert bootstrap(x, y) == (low, high)
    assert low < spearman(x, y) < high
    # Fisher's approximation of the interval, for normal values
    z = 1.96 * 1.06 / np.sqrt(97)
    expected = np.tanh(np.arctanh(spearman(x, y)) + np.array([-z, z]))
    assert (low, high) == pytest.approx(tuple(expected), abs=0.04)


def test_a_resample_without_variation_counts_as_nothing():
    assert bootstrap([1, 1, 1, 1], [1, 2, 3, 4]) == (0, 0)


def test_the_t_interval():
    low, high = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (low + high) / 2 == pytest.approx(3)
    assert (high - low) / 2 == pytest.approx(2.7764451051977987 * (2.5 / 5) ** 0.5)  # t(4), tables
    assert t_interval([0.5, 0.5]) == pytest.approx((0.5, 0.5))
    assert t_interval([1.0]) is None
    assert t_interval([]) is None
