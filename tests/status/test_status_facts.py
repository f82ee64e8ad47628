"""Counts, times and lists, as ``--json`` prints them."""

import dataclasses
import json
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from status_fakes import SHOWN_AS, body, fail, filled, finish, put, start, sweep

from capsexp import records
from capsexp.analysis import results
from capsexp.status.__main__ import main
from capsexp.status.facts import facts
from capsexp.status.read import read

FOUR = {"model.c2": [1, 2, 3, 4]}


@pytest.fixture
def said(capsys):
    """What ``--json`` prints of a folder."""

    def run(root):
        assert main([str(root), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize("what", SHOWN_AS)
def test_each_state_has_its_name(tmp_path, said, what):
    filled(tmp_path, ["done", what, what])
    assert said(tmp_path)["counts"] == Counter({"done": 1}) + Counter({SHOWN_AS[what]: 2})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(sorted(SHOWN_AS)), max_size=8))
def test_counts_add_up_to_the_planned_cells(contents):
    with tempfile.TemporaryDirectory() as folder:
        filled(Path(folder), contents)
        counts = facts(read(Path(folder))).counts
    assert sum(counts.values()) == len(contents)
    assert counts == Counter(SHOWN_AS[what] for what in contents)


def test_states_mean_the_same_as_in_the_report(tmp_path, said):
    filled(tmp_path, list(SHOWN_AS))
    report = Counter(results.read(tmp_path).counts)
    report["pending"] += report.pop("missing")
    assert said(tmp_path)["counts"] == report


def test_a_cell_that_cannot_be_read_says_so_and_hides_no_other(tmp_path, said):
    cells = filled(tmp_path, ["done", "unreadable", "odd", "running"])
    unreadable, odd = said(tmp_path)["failures"]
    assert unreadable["name"] == cells[1].name
    assert unreadable["cause"] == "status.json is a folder"
    assert "unknown state" in odd["cause"]


def test_a_plan_that_changed_leaves_orphans(tmp_path, said):
    old = sweep(tmp_path, {"model.c2": [1, 2]})
    for cell in old:
        finish(tmp_path, cell)
    sweep(tmp_path, {"model.c2": [2, 3]})
    (tmp_path / "report").mkdir()
    found = said(tmp_path)
    assert found["counts"] == {"done": 1, "pending": 1}
    assert found["orphans"] == [old[0].name]


def test_the_end_is_foretold_from_the_finished_cells_and_those_that_run(tmp_path, said):
    cells = sweep(tmp_path, {"model.c2": list(range(9))})
    for cell, seconds in zip(cells[:2], (5.0, 15.0), strict=True):
        finish(tmp_path, cell, seconds=seconds)
    for cell in cells[2:4]:
        start(tmp_path, cell, ago=4)
    put(tmp_path, cells[4], "failed")
    put(tmp_path, cells[5], "stale")  # of a second kind of code, its seconds do not count
    found = said(tmp_path)
    assert (found["cell_s"], found["cells_s"]) == (10, 20)
    assert found["left_s"] == pytest.approx(3 * 10 + 2 * 6, abs=5)  # three are pending
    assert found["eta_s"] == pytest.approx(found["left_s"] / 2)
    assert [each["seconds"] for each in found["running"]] == pytest.approx([4, 4], abs=5)


def test_members_of_a_stack_share_its_time(tmp_path, said):
    """Two run together for 60 s, which is 30 s for each; a cell costs 50 s."""
    cells = sweep(tmp_path, FOUR)
    for cell in cells[:2]:
        finish(tmp_path, cell, seconds=240.0)
        found = records.read_result(tmp_path / cell.name)
        found["clocks"]["share_s"] = 50.0
        records.write_result(tmp_path / cell.name, found)
    for cell in cells[2:]:
        start(tmp_path, cell, ago=60)
    found = said(tmp_path)
    assert (found["cell_s"], found["cells_s"]) == (50, 100)
    assert found["left_s"] == pytest.approx(2 * 20, abs=5)
    assert found["eta_s"] == pytest.approx(found["left_s"]), "one process trains both"


def test_the_last_cell_is_not_shared_by_idle_processes(tmp_path, said):
    cells = sweep(tmp_path, FOUR)
    finish(tmp_path, cells[0], seconds=100.0)
    for cell, ago in zip(cells[1:], (0, 99, 500), strict=True):
        start(tmp_path, cell, ago=ago)
    assert said(tmp_path)["eta_s"] == pytest.approx(100, abs=5)


def test_nothing_is_foretold_while_nothing_runs_or_has_finished(tmp_path, said):
    cells = sweep(tmp_path, FOUR)
    assert (said(tmp_path)["left_s"], said(tmp_path)["elapsed_s"]) == (None, None)
    finish(tmp_path, cells[0])
    put(tmp_path, cells[1], "interrupted")
    assert (said(tmp_path)["left_s"], said(tmp_path)["eta_s"]) == (30, None)
    for cell in cells[1:]:
        finish(tmp_path, cell)
    assert (said(tmp_path)["left_s"], said(tmp_path)["eta_s"]) == (0, None)


def test_elapsed_runs_on_while_a_cell_runs_and_stops_with_the_last(tmp_path, said):
    cells = sweep(tmp_path, FOUR, age=1000)
    start(tmp_path, cells[0], ago=900)
    assert said(tmp_path)["elapsed_s"] == pytest.approx(1000, abs=5)
    status = records.Status("done", cells[0].id)
    records.write_result(tmp_path / cells[0].name, body(cells[0]))
    records.write_status(tmp_path / cells[0].name, dataclasses.replace(status, updated=status.updated - 300))
    assert said(tmp_path)["elapsed_s"] == pytest.approx(700, abs=5)
    sweep(tmp_path, FOUR, age=10)  # launched again, nothing has run since
    assert said(tmp_path)["elapsed_s"] is None


def test_the_five_slowest_cells(tmp_path, said):
    cells = sweep(tmp_path, {"model.c2": list(range(8))})
    for cell, seconds in zip(cells, (3, 9, 1, 7, 8, 2, 6, None), strict=True):
        finish(tmp_path, cell, seconds=seconds)
    assert [each["seconds"] for each in said(tmp_path)["slowest"]] == [9, 8, 7, 6, 3]


def test_failures_have_cause_tries_and_log(tmp_path, said):
    cells = sweep(tmp_path, FOUR)
    fail(tmp_path, cells[2], "RuntimeError: out of\nmemory", tries=2)
    put(tmp_path, cells[3], "corrupt")
    failed, corrupt = said(tmp_path)["failures"]
    assert failed == {
        "name": cells[2].name,
        "state": "failed",
        "cause": "RuntimeError: out of memory",
        "retried": 2,
        "log": str(tmp_path / cells[2].name / records.LOG),
    }
    assert (corrupt["state"], corrupt["retried"], corrupt["log"]) == ("corrupt", 0, None)


def test_odd_times_are_unknown_times(tmp_path, said):
    cells = sweep(tmp_path, FOUR)
    running = dataclasses.asdict(records.Status("running", cells[0].id))
    odd = {"started": "yesterday", "updated": None}
    records.write_json(tmp_path / cells[0].name / records.STATUS, {"schema": records.SCHEMA, **running, **odd})
    records.write_result(tmp_path / cells[1].name, body(cells[1], clocks={"total_s": 10**400}))
    records.write_result(tmp_path / cells[2].name, body(cells[2], value=10**400, clocks=None))
    found = said(tmp_path)
    assert found["counts"] == {"done": 2, "running": 1, "pending": 1}
    assert (found["running"][0]["seconds"], found["slowest"], found["left_s"]) == (None, [], None)
