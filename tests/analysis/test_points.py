"""Points over seeds: one grouping and one statistic for reports, claims and the public table."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_fakes import finish, finished, report, rows, sweep

import capsexp
from capsexp.analysis.cells import Cell, grouped, in_order, points_of
from capsexp.errors import ConfigError


def cell(number: int, **axes: object) -> Cell:
    """A cell that is done."""
    return Cell(f"{number}", f"cell-{number}", axes, "done", None, None, {"metrics": {"acc": float(number)}})


def test_truth_values_numbers_texts_and_lists_are_different_values() -> None:
    values = [True, 1, 1.0, "true", "1", None, [1, 2], (1, 2), "[1, 2]", {"b": 1, "a": 2}, {"a": 2, "b": 1}, False, 0]
    groups = grouped([cell(place, a=value) for place, value in enumerate(values)], ["a"])
    # Equal numbers are one value, and so are lists and mappings of equal content.
    assert [[int(each.id) for each in group] for group in groups.values()] == [
        *([0], [1, 2], [3], [4], [5], [6, 7], [8], [9, 10], [11], [12])
    ]


def test_numbers_come_by_size_before_everything_else_by_its_text() -> None:
    values = ["b", 10, True, 2.5, "10", -1, None, [3]]
    found = [each.axes["a"] for each in in_order([cell(place, a=value) for place, value in enumerate(values)], ["a"])]
    assert found == [-1, 2.5, 10, "10", None, True, [3], "b"]
    assert found[5] is True
    for values in ([True, "True"], ["True", True]):
        cells = in_order([cell(place, a=value) for place, value in enumerate(values)], ["a"])
        assert [each.axes["a"] for each in cells] == [True, "True"]


def test_a_swept_truth_value_is_not_averaged_with_the_number_one() -> None:
    cells = [cell(place, merge=merge, seed=seed) for place, (merge, seed) in enumerate([(True, 0), (1, 0), (True, 1)])]
    assert [(point.axes["merge"], point.stat("acc").mean) for point in points_of(cells, ["merge"])] == [
        (True, 1),
        (1, 1),
    ]
    assert [point.stat("acc").n for point in points_of(cells, ["merge"])] == [2, 1]


# -- the public table -------------------------------------------------------------------------------------------------

PLACES = st.tuples(
    st.sampled_from(["one", "two"]), st.sampled_from([1, 2, 0.5, True, "a", "True", None]), st.integers(0, 3)
)
ENDS = st.tuples(
    st.sampled_from(["done", "done", "failed", "missing"]),
    st.sampled_from(["digits", "mnist"]),
    st.sampled_from(["val", "test"]),
    st.one_of(st.none(), st.integers(-3, 3), st.floats(-1e3, 1e3), st.just(math.inf)),
)
SWEEPS = st.dictionaries(PLACES, ENDS, min_size=1, max_size=20)


def table_of(cells: Mapping[Any, Any]) -> pd.DataFrame:
    """The table of these cells: (sweep, value, seed) and (state, data, select_on, accuracy)."""
    rows = []
    for (name, value, seed), (state, data, select_on, accuracy) in cells.items():
        facts = {"data.name": data, "data.generated": False, "training.select_on": select_on, "test/acc": accuracy}
        about = {"sweep": name, "state": state, "axes.a": value, "axes.seed": seed}
        rows.append(about | (facts if state == "done" else {}))
    return pd.DataFrame(rows, columns=[*about, *facts], dtype=object)


def slow(cells: Mapping[Any, Any]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """The points by plain loops: every cell is compared with every other."""
    found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for name, value, _ in cells:
        same = [end for (n, v, _), end in cells.items() if n == name and repr(v) == repr(value)]
        done, others = ([end for end in same if (end[0] == "done") == which] for which in (True, False))
        protocols = {(end[1], end[2]) for end in done}
        for protocol in protocols:
            mine = [end for end in done if (end[1], end[2]) == protocol]
            found[name, repr(value), *protocol] = (len(mine) + len(others) * (len(protocols) == 1), *sums(mine))
        if others and len(protocols) != 1:
            found[name, repr(value), None, None] = (len(others), *sums([]))
    return found


def sums(done: Sequence[Any]) -> tuple[Any, ...]:
    """Number of finished cells, mean, deviation, number of finite values, number of others."""
    values = [Fraction(end[3]) for end in done if end[3] is not None and math.isfinite(end[3])]
    n = len(values)
    mean = sum(values) / n if n else None
    std = None if mean is None or n < 2 else math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    return len(done), None if mean is None else float(mean), std, n, len(done) - n


def plain(points: pd.DataFrame) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """The rows of a table of points, None where a value is missing."""
    columns = ["sweep", "axes.a", "data.name", "training.select_on", "planned", "done"]
    columns += ["test/acc", "test/acc:std", "test/acc:n", "test/acc:lost"]
    rows = zip(*(points[name].tolist() for name in columns), strict=True)
    found = [[None if isinstance(each, float) and math.isnan(each) else each for each in row] for row in rows]
    assert len({tuple(map(repr, row[:4])) for row in found}) == len(found)
    return {(row[0], _written(row[1]), *row[2:4]): tuple(row[4:]) for row in found}


def _written(value: Any) -> str:
    """A whole number is 1 however pandas keeps it."""
    return repr(int(value) if isinstance(value, float) and value == int(value) else value)


@settings(max_examples=150, deadline=None)
@given(SWEEPS)
def test_the_points_are_those_of_plain_loops(cells: Mapping[Any, Any]) -> None:
    found, expected = plain(capsexp.average_seeds(table_of(cells), "test/acc")), slow(cells)
    assert found.keys() == expected.keys()
    for place, (planned, done, mean, std, n, lost) in expected.items():
        assert found[place][:2] + found[place][4:] == (planned, done, n, lost)
        assert found[place][2] == (None if mean is None else pytest.approx(mean, rel=1e-15))
        assert found[place][3] == (None if std is None else pytest.approx(std, rel=1e-12, abs=1e-12))


@settings(max_examples=50, deadline=None)
@given(SWEEPS.flatmap(lambda cells: st.tuples(st.just(cells), st.permutations(list(cells)))))
def test_the_order_of_rows_does_not_matter(given: tuple[Mapping[Any, Any], Sequence[Any]]) -> None:
    cells, other = given
    pd.testing.assert_frame_equal(
        capsexp.average_seeds(table_of({place: cells[place] for place in other}), "test/acc"),
        capsexp.average_seeds(table_of(cells), "test/acc"),
    )


@settings(max_examples=50, deadline=None)
@given(SWEEPS, st.data())
def test_a_cell_that_is_not_done_raises_no_n_and_loses_no_point(cells: Mapping[Any, Any], data: st.DataObject) -> None:
    lost = data.draw(st.sampled_from(sorted(cells, key=repr)))
    fewer = {**cells, lost: ("missing", *cells[lost][1:])}
    before, after = (capsexp.average_seeds(table_of(each), "test/acc") for each in (cells, fewer))
    assert after["planned"].sum() == before["planned"].sum() == len(cells)
    assert (after["test/acc:n"] + after["test/acc:lost"] == after["done"]).all()
    assert after["test/acc:n"].sum() <= before["test/acc:n"].sum()
    known = plain(before)
    assert all(row[4] <= known[place][4] for place, row in plain(after).items() if place in known)
    assert {place[:2] for place in plain(after)} == {place[:2] for place in known}


GRID = {"model.c3": [3, 2], "seed": [0, 1, 2]}


def test_the_points_of_a_sweep_on_disk(tmp_path: Path) -> None:
    cells = sweep(tmp_path, GRID)
    for cell, value in zip(cells, [0.5, 0.25, None], strict=False):
        finish(tmp_path, cell, value)
    found = capsexp.average_seeds(capsexp.load_sweep(tmp_path), "test/acc", "params")
    assert list(found.columns) == [
        *("sweep", "data.name", "data.sha256", "data.test_split", "data.generated", "training.select_on"),
        *("axes.model.c3", "planned", "done", "test/acc", "test/acc:std", "test/acc:n", "test/acc:lost"),
        *("params", "params:std", "params:n", "params:lost"),
    ]
    assert found["axes.model.c3"].tolist() == [2, 3]
    assert found["data.name"].fillna("").tolist() == ["", "digits"]
    none, some = (found.loc[place] for place in (0, 1))
    assert (none["planned"], none["done"], none["test/acc:n"]) == (3, 0, 0)
    assert none[["test/acc", "test/acc:std", "params"]].isna().all()
    assert (some["planned"], some["done"], some["test/acc:n"], some["test/acc:lost"]) == (3, 3, 2, 1)
    assert (some["test/acc"], some["test/acc:std"]) == (0.375, math.sqrt(2) / 8)
    assert (some["params"], some["params:std"], some["params:n"]) == (12345, 0, 3)


def test_the_numbers_are_those_of_the_report(tmp_path: Path) -> None:
    found = capsexp.average_seeds(capsexp.load_sweep(finished(tmp_path, GRID)), "test/acc")
    for row, point in zip(rows(report(tmp_path), "results"), found.to_dict("records"), strict=True):
        assert int(row["model.c3"]) == point["axes.model.c3"]
        assert [float(row[f"test/acc{end}"]) for end in ("", ":std", ":n")] == [
            point[f"test/acc{end}"] for end in ("", ":std", ":n")
        ]


def test_sweeps_and_protocols_stand_apart(tmp_path: Path) -> None:
    one, other = finished(tmp_path / "one", GRID), finished(tmp_path / "other", {"model.c2": [5], "seed": [0]})
    for cell in sweep(one, GRID)[:2]:
        finish(one, cell, 0.5, select_on="test")
    table = capsexp.load_sweep(one, other).assign(sweep=lambda cells: ["one"] * 6 + ["other"])
    found = capsexp.average_seeds(table, "test/acc")
    assert found[["sweep", "axes.model.c3", "training.select_on", "planned"]].fillna(0).values.tolist() == [
        *(["one", 2, "val", 3], ["one", 3, "test", 2], ["one", 3, "val", 1], ["other", 0, "val", 1])
    ]


def test_a_table_without_a_row_has_no_points(tmp_path: Path) -> None:
    table = capsexp.load_sweep(finished(tmp_path, GRID))
    assert capsexp.average_seeds(table[:0], "test/acc").empty


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    table = capsexp.load_sweep(finished(tmp_path, GRID))
    for wrong, metric, said in [
        (table, "test/speed", "a column of the table must be there, got 'test/speed'"),
        (table.drop(columns="state"), "test/acc", "a column of the table must be there, got 'state'"),
        (table, "data.name", "data.name must be a column of numbers, got 'digits'"),
        (pd.concat([table, table]), "test/acc", "the finished cells of a point must have a seed each, got {'sweep': "),
        (table.drop(columns="axes.model.c3"), "test/acc", "the finished cells of a point must have a seed each"),
    ]:
        with pytest.raises(ConfigError) as error:
            capsexp.average_seeds(wrong, metric)
        assert str(error.value).startswith(said)
        assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match="at least one metric"):
        capsexp.average_seeds(table)
