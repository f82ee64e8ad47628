"""Shares of cells and their intervals, against scipy's."""

import pytest
from scipy import stats

from capsexp.analysis.cells import Stat
from capsexp.analysis.measures import interval
from capsexp.analysis.tables import stat_text


@pytest.mark.parametrize("n", [1, 2, 8, 40])
def test_the_interval_is_wilsons(n: int) -> None:
    for hits in range(n + 1):
        expected = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
        assert interval([1.0] * hits + [0.0] * (n - hits)) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_share_is_shown_with_its_interval_in_its_own_unit() -> None:
    values = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    share, per_cent = (Stat({seed: scale * value for seed, value in enumerate(values)}) for scale in (1, 100))
    assert stat_text(share, 2, binary=True) == "0.25 [0.07, 0.59]"
    assert stat_text(per_cent, 0, binary=True, scale=100) == "25 [7, 59]"
    assert stat_text(share, 2) == "0.25 ± 0.46"
    assert stat_text(Stat({}), 2, binary=True) == stat_text(Stat({}), 2)
