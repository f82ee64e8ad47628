import re

import pytest
from claims_fakes import LABELS, cells, changed, judge
from hypothesis import given, settings
from hypothesis import strategies as st

from capsexp.analysis.claims.evidence import LackingError
from capsexp.analysis.claims.rules import trend
from capsexp.analysis.claims.rules.base import all_of
from capsexp.analysis.claims.rules.robust_area import largest
from capsexp.analysis.validation import condition

GRID = {"a": list(range(1, 6)), "b": list(range(1, 6))}
FLAT = {"kind": "flat", "source": "cnn", "metric": "acc", "where": {"a": {"min": 3}, "b": {"min": 2}}}


def one(tmp_path, claim, rows, **more):
    return judge(tmp_path, claim, cnn=rows, **more)


def answer(tmp_path, claim, rows, **more):
    return one(tmp_path, claim, rows, **more).answer


# -- flat -------------------------------------------------------------------------------------------------------------


def test_flat(tmp_path):
    rows = cells(GRID, acc=lambda a, b: 0.95 if (a, b) == (1, 1) else 0.93 if a >= 3 and b >= 2 else 0.5)
    found = one(tmp_path, FLAT, rows)  # the best may lie outside the region; a drop of .02 is still near
    assert (found.answer, found.number) == ("holds", "drop 0.0200")
    assert found.lines[0].startswith("best 0.9500 at a = 1, b = 1 (`a-1_b-1-")
    assert "lowest in the region 0.9300 at a = 3, b = 2" in found.lines[1]
    assert "outside it drops by 0.4500, at a = 1, b = 2" in found.lines[2]
    assert answer(tmp_path, {**FLAT, "tolerance": 0.019}, rows) == "does not hold"


def test_flat_is_refuted_by_few_cells_and_not_proved_by_them(tmp_path):
    few = cells({"a": [3, 4], "b": [2, 3]}, acc=lambda a, b: a / 1000)
    found = one(tmp_path, FLAT, few)
    assert (found.answer, found.lacking) == ("undecided", ("cnn",))
    assert found.lines[-1] == "too few: 4 of at least 8 cells of cnn"
    assert answer(tmp_path, FLAT, cells({"a": [3, 4], "b": [2, 3]}, acc=lambda a, b: a / 10)) == "does not hold"
    with pytest.raises(LackingError, match="no finished cell of cnn there"):
        one(tmp_path, FLAT, cells({"a": [1], "b": [2, 3]}, acc=0.5))


def test_failed_cells_do_not_count(tmp_path):
    rows = cells(GRID, acc=lambda a, b: 0.1 if (a, b) == (4, 4) else 0.9)
    assert answer(tmp_path, FLAT, rows) == "does not hold"
    failed = [*rows[:18], *changed(rows[18:19], state="failed"), *rows[19:]]
    assert answer(tmp_path, FLAT, failed) == "holds"


# -- trend ------------------------------------------------------------------------------------------------------------


def correlate(sign, x="a", y="acc", **where):
    return {"kind": "trend", "source": "cnn", "pairs": [{"x": x, "y": y, "sign": sign, "where": where}]}


def test_trend(tmp_path):
    rows = cells(GRID, acc=lambda a, b: -a + b / 10)
    assert answer(tmp_path, correlate("fall"), rows) == "holds"
    assert answer(tmp_path, correlate("rise"), rows) == "does not hold"
    assert answer(tmp_path, correlate("none"), rows) == "does not hold"
    assert answer(tmp_path, correlate("rise", "b"), rows) == "undecided"
    assert answer(tmp_path, correlate("none", "b"), rows) == "undecided"
    assert answer(tmp_path, correlate("none", "b"), cells(GRID, acc=lambda a, b: -a)) == "holds"
    assert answer(tmp_path, correlate("rise", "b", a=3), rows) == "undecided"  # five places
    assert (
        answer(tmp_path, correlate("rise", "b", a=3), cells({"a": [3], "b": range(9)}, acc=lambda a, b: b)) == "holds"
    )
    assert answer(tmp_path, correlate("rise", "b"), cells(GRID, acc=0.5)) == "undecided"
    found = one(tmp_path, correlate("fall"), rows)
    assert found.number == "rho -0.98"
    assert re.fullmatch(r"a and acc: rho -0\.98 \[-0\.9\d, -0\.9\d\] over 25 places: holds", found.lines[0])


def test_of_several_pairs_all_must_hold(tmp_path):
    rows = cells(GRID, acc=lambda a, b: -a, loss=lambda a, b: a)
    pair, other = (correlate(sign)["pairs"][0] for sign in ("fall", "rise"))
    assert answer(tmp_path, {**correlate("fall"), "pairs": [pair, {**other, "y": "loss"}]}, rows) == "holds"
    assert answer(tmp_path, {**correlate("fall"), "pairs": [pair, other]}, rows) == "does not hold"
    assert answer(tmp_path, {**correlate("fall"), "pairs": [pair, {**pair, "x": "b"}]}, rows) == "undecided"


@pytest.mark.parametrize(
    ("sign", "low", "high", "expected"),
    [
        ("rise", 0.1, 0.3, "holds"),
        ("rise", 0.0, 0.3, "undecided"),
        ("rise", -0.3, -0.1, "does not hold"),
        ("fall", -0.3, -0.1, "holds"),
        ("fall", -0.3, 0.0, "undecided"),
        ("fall", 0.1, 0.3, "does not hold"),
        ("none", -0.4, 0.4, "holds"),
        ("none", 0.3, 0.6, "undecided"),
        ("none", -0.6, 0.1, "undecided"),
        ("none", 0.5, 0.6, "does not hold"),
        ("none", -0.7, -0.5, "does not hold"),
    ],
)
def test_the_whole_interval_decides(sign, low, high, expected):
    assert trend.decide(sign, low, high) == expected


def test_all_parts_of_a_claim_must_hold():
    assert all_of(["holds", "holds"]) == "holds"
    assert all_of(["holds", "undecided"]) == "undecided"
    assert all_of(["undecided", "does not hold", "holds"]) == "does not hold"
    assert all_of([]) == "undecided"


# -- robust area ------------------------------------------------------------------------------------------------------

ROBUST = {"kind": "robust_area", "source": "cnn", "metric": "acc", "axes": ["a", "b"], "claimed": "none"}


def test_robust_area(tmp_path):
    rows = cells(GRID, acc=lambda a, b: 0.9 if a >= 3 and b >= 2 else 0.95 if (a, b) == (1, 1) else 0.5)
    claim = {**ROBUST, "tolerance": 0.05}
    found = one(tmp_path, claim, rows)
    assert (found.answer, found.number) == ("does not hold", "3 x 4 of 5 x 5")
    assert "largest area 3 x 4 places: a >= 3, b >= 2" in found.lines
    assert answer(tmp_path, {**claim, "claimed": "some"}, rows) == "holds"
    steep = cells(GRID, acc=lambda a, b: a + (b == 5))  # no drop along b but one: at best a row
    assert answer(tmp_path, ROBUST, steep) == "holds"
    assert answer(tmp_path, {**ROBUST, "claimed": "some"}, steep) == "does not hold"
    peak = one(tmp_path, ROBUST, cells(GRID, acc=lambda a, b: -a - b))
    assert (peak.answer, peak.number) == ("holds", "0 x 0 of 5 x 5")


def test_a_row_is_no_area_but_hides_none(tmp_path):
    rows = cells(GRID, acc=lambda a, b: 0.9 if a == 5 or (a == 4 and b >= 4) else 0.5)
    found = one(tmp_path, ROBUST, rows)
    assert (found.answer, found.number) == ("does not hold", "2 x 2 of 5 x 5")


def test_a_hole_in_the_corner_leaves_it_open_and_one_elsewhere_does_not(tmp_path):
    rows = cells(GRID, acc=lambda a, b: 0.9 if a >= 3 and b >= 3 else 0.5)
    hole = {"state": "failed", "data": "", "select_on": ""}
    corner = one(tmp_path, ROBUST, [*rows[:24], *changed(rows[24:], **hole)])
    assert (corner.answer, corner.lacking) == ("undecided", ("cnn",))
    assert answer(tmp_path, ROBUST, [*rows[:20], *changed(rows[20:], **hole)]) == "undecided"
    assert answer(tmp_path, ROBUST, [*changed(rows[:1], **hole), *rows[1:]]) == "does not hold"


def test_what_is_no_grid(tmp_path):
    with pytest.raises(LackingError, match="a grid of 1 x 5 places has no corner"):
        one(tmp_path, ROBUST, cells({"a": [1], "b": range(5)}, acc=0.5))
    with pytest.raises(LackingError, match="more axes of cnn were swept than a and b"):
        one(tmp_path, ROBUST, cells({**GRID, "c": [1, 2]}, acc=0.5))
    assert answer(tmp_path, {**ROBUST, "where": {"c": 1}}, cells({**GRID, "c": [1, 2]}, acc=0.5)) == "does not hold"


def slow_largest(grid):
    """All rectangles one by one, place by place."""
    best, rows, columns = (0, 0), len(grid), len(grid[0])
    for a in range(1, rows + 1):
        for b in range(1, columns + 1):
            good = all(grid[i][j] for i in range(rows - a, rows) for j in range(columns - b, columns))
            if good and ((min(a, b) > 1, a * b) > (min(best) > 1, best[0] * best[1])):
                best = (a, b)
    return best


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda w: st.lists(st.lists(st.booleans(), min_size=w, max_size=w), min_size=1, max_size=5)
    )
)
def test_the_largest_rectangle(grid):
    a, b = largest(grid, False)
    c, d = slow_largest(grid)
    assert (a * b, min(a, b) > 1) == (c * d, min(c, d) > 1)
    assert all(place for row in grid[len(grid) - a :] for place in row[len(row) - b :])
    assert largest([[None if good else False for good in row] for row in grid], True) == (a, b)


def test_labels_of_conditions():
    where = {"a": {"min": 2}, "b": {"min": 1, "max": 3.5}, "mode": ["x", "y"], "c": 4}
    said = LABELS.where({axis: condition(rule) for axis, rule in where.items()})
    assert said == " where a >= 2 and b >= 1 and b <= 3.5 and mode = x or y and c = 4"
