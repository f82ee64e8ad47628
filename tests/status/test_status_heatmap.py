"""The map of the swept axes."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from status_fakes import finish, plan, put, sweep

from capsexp import records
from capsexp.analysis.cells import Cell
from capsexp.status.heatmap import first_metric, heat_map
from capsexp.status.read import STATES, Snapshot, read

GRID = {"model.c2": [4, 2], "model.c3": [8, 16, 32], "seed": [0, 1]}


def drawn(tmp_path, width=80):
    """The map's lines."""
    return heat_map(read(tmp_path), width)


def test_rows_and_columns_are_the_first_two_axes_and_the_rest_is_averaged(tmp_path):
    for cell in sweep(tmp_path, GRID):
        finish(tmp_path, cell, cell.axes["model.c2"] / 10 + cell.axes["model.c3"] / 100 + cell.axes["seed"] / 50)
    lines = drawn(tmp_path)
    assert lines[0] == "test accuracy (test/acc): model.c2 down, model.c3 across; averaged over seed"
    assert lines[1:4] == ["   8 16 32", "2 29 37 53", "4 49 57 73"]
    assert "min 0.29, max 0.73" in lines[4]
    assert len(lines) == 5


def test_an_axis_of_one_value_is_no_axis(tmp_path):
    for cell in sweep(tmp_path, {"data": ["digits"], "model.c2": [1, 2], "model.c3": [3], "seed": [0]}):
        finish(tmp_path, cell, cell.axes["model.c2"] / 10)
    lines = drawn(tmp_path)
    assert lines[:3] == ["test accuracy (test/acc): model.c2 across", "  1  2", " 10 20"]
    sweep(tmp_path, {"data": ["digits"]})
    assert heat_map(read(tmp_path), 80) == []


def test_the_seed_is_an_axis_only_where_nothing_else_is_swept(tmp_path):
    sweep(tmp_path, {"seed": [0, 1]})
    assert drawn(tmp_path)[0].endswith("seed across")
    sweep(tmp_path, {"seed": [0, 1], "model.c2": [1, 2]})
    assert drawn(tmp_path)[0].endswith("model.c2 across; averaged over seed")


def test_holes_have_marks_and_the_legend_says_which(tmp_path):
    marks = {"failed": "x", "running": ">", "missing": ".", "interrupted": "!", "stale": "~", "corrupt": "?"}
    cells = sweep(tmp_path, {"model.c2": list(range(8))})
    for cell, what in zip(cells, marks, strict=False):
        put(tmp_path, cell, what)
    finish(tmp_path, cells[6], None)
    finish(tmp_path, cells[7], 0.5)
    lines = drawn(tmp_path)
    assert lines[2].split() == [*marks.values(), "-", "50"]
    legend = "x failed, ? corrupt, ! interrupted, ~ stale, - no number, > running, . pending"
    assert legend in lines
    put(tmp_path, cells[0], "done")
    assert "failed" not in "\n".join(drawn(tmp_path))


def test_a_mean_with_a_hole_is_marked(tmp_path):
    cells = sweep(tmp_path, {"model.c2": [1, 2], "seed": [0, 1, 2]})
    for cell in cells[:2]:
        finish(tmp_path, cell, 0.25)
    put(tmp_path, cells[2], "failed")
    put(tmp_path, cells[4], "running")
    lines = drawn(tmp_path)
    assert lines[2] == " 25x >"
    assert lines[-1] == "x failed, > running; after a number: some of its cells"


def digits(tmp_path, values):
    for cell, value in zip(sweep(tmp_path, {"model.c2": list(range(len(values)))}), values, strict=True):
        finish(tmp_path, cell, value)
    lines = drawn(tmp_path)
    return lines[2].split(), lines[3]


def test_shares_show_their_digits_and_other_numbers_their_place(tmp_path):
    assert digits(tmp_path, [0.0, 0.29, 0.999, 1.0])[0] == ["00", "29", "99", "99"]
    shown, legend = digits(tmp_path, [10.0, 15.0, 20.0])
    assert shown == ["00", "50", "99"]
    assert legend == "digits: from 00, the min 10, to 99, the max 20"
    assert digits(tmp_path, [0.98, 0.981, 0.99])[0] == ["00", "10", "99"]  # else all would be 98 and 99
    assert digits(tmp_path, [7.0, 7.0]) == (["==", "=="], "== is 7, the same everywhere")
    assert digits(tmp_path, [0.97, 0.97])[0] == ["97", "97"]


def test_the_metric_is_the_first_of_the_report_block(tmp_path):
    assert first_metric({}) == "test/acc"
    assert first_metric({"columns": ["params", "test/acc"], "metrics": {"val/acc": {}}}) == "params"
    assert first_metric({"metrics": {"val/acc": {}}, "columns": None}) == "val/acc"
    for odd in (None, 3, {"columns": 5, "metrics": "x"}, {"columns": [1, {}]}):
        assert first_metric(odd) == "test/acc"
    for cell in sweep(tmp_path, {"model.c2": [1, 2]}, {"columns": ["test/loss"]}):
        finish(tmp_path, cell)
    assert drawn(tmp_path)[0].startswith("test loss (test/loss)")
    assert "== is 2.5" in drawn(tmp_path)[3]


def test_what_is_too_wide_goes_on_below_and_what_is_cut_is_said(tmp_path):
    sweep(tmp_path, {"model.c2": list(range(30))})
    narrow = drawn(tmp_path, 31)
    assert [line.split() for line in narrow[2:8:2]] == [[str(i) for i in range(a, a + 10)] for a in (0, 10, 20)]
    assert not any("cut" in line for line in narrow)
    sweep(tmp_path, {"model.c2": list(range(50)), "model.c3": list(range(40))})
    lines = drawn(tmp_path, 80)
    assert lines[-2:] == ["cut: the first 40 of 50 values of model.c2", "cut: the first 25 of 40 values of model.c3"]
    assert sum(bool(re.fullmatch(r"[ \d]\d( {2}\.){25}", line)) for line in lines) == 40


def test_long_values_are_shortened(tmp_path):
    sweep(tmp_path, {"data": ["fashion_mnist" * 3, "a\x1b[2J"], "augment": [["shift", 2], "another_long_one"]})
    lines = drawn(tmp_path, 60)
    assert lines[1].split() == ["['shift…", "another…"]
    assert lines[2].startswith("fashion_mnistfashio… ")
    assert not any("\x1b" in line for line in lines)


def test_a_place_that_the_plan_leaves_out_is_blank(tmp_path):
    axes = {"model.c2": [1, 2], "model.c3": [1, 2]}
    cells = [cell for cell in plan(axes) if cell.axes != {"model.c2": 1, "model.c3": 2}]
    records.write_sweep(tmp_path, records.Sweep("odd", axes, cells, [], {}))
    assert drawn(tmp_path)[2:4] == ["1  .", "2  .  ."]


VALUES = st.one_of(st.integers(-9, 999), st.floats(), st.text(max_size=12), st.booleans(), st.none())


@settings(max_examples=150, deadline=None)
@given(
    axes=st.dictionaries(
        st.one_of(st.sampled_from(["seed", "model.c2"]), st.text(max_size=20)),
        st.lists(VALUES, min_size=1, max_size=6, unique_by=repr),
        max_size=3,
    ),
    states=st.lists(st.sampled_from(STATES), min_size=1, max_size=9),
    numbers=st.lists(st.one_of(st.floats(), st.integers()), min_size=1, max_size=5),
    width=st.integers(1, 120),
)
def test_no_line_is_wider_than_the_terminal(tmp_path_factory, axes, states, numbers, width):
    cells = []
    for i, planned in enumerate(plan(axes)):
        result = {"metrics": {"test/acc": numbers[i % len(numbers)]}}
        cells.append(Cell(planned.id, planned.name, planned.axes, states[i % len(states)], None, None, result))
    sweep = records.Sweep("fake", axes, [], [], {})
    snapshot = Snapshot(tmp_path_factory.getbasetemp(), sweep, cells, {}, [], 0.0)
    lines = heat_map(snapshot, width)
    assert all(len(line) <= width for line in lines)
    painted = heat_map(snapshot, width, colour=True)
    assert [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in painted] == [line.rstrip() for line in lines]
