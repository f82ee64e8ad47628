"""JSON that is not what was written: shown as damaged with its cause, while everything else goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from capsexp import records, report
from capsexp.status.__main__ import main as status
from tests.analysis.report_fakes import finish
from tests.status.status_fakes import filled, sweep

Damage = Callable[[Path], object]


def edited(**changes: Any) -> Damage:
    """A change of some keys of a JSON file."""
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


NO_JSON: dict[str, Damage] = {
    "deep": lambda path: path.write_text("[" * 100_000),
    "a list": lambda path: path.write_text("[1]"),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "folder": folder,
    "loop": loop,
}
ODD_STATUS: dict[str, tuple[Damage, str]] = {
    **{name: (damage, "status.json is ") for name, damage in NO_JSON.items()},
    "another state": (edited(state="dnne"), "status.json has the unknown state 'dnne'"),
    "no state": (edited(state=None), "status.json has the unknown state None"),
    "another kind": (edited(kind="bad luck"), "status.json is not what was written"),
    "a cause that is no text": (edited(cause=["?"]), "status.json is not what was written"),
    "a process that is no number": (edited(pid="7", state="running"), "status.json is not what was written"),
    "another key": (edited(more=1), "status.json is not what was written"),
}
ODD_PLAN: dict[str, Damage] = {
    **NO_JSON,
    "axes as a list": edited(axes=[1]),
    "an axis without a list": edited(axes={"a": 1}),
    "overrides that are numbers": edited(overrides=[3]),
    "a report that is a list": edited(report=[]),
    "a cell without a name": edited(cells=[{"id": "0123456789", "name": None, "axes": {}}]),
    "a cell with odd axes": edited(cells=[{"id": "0123456789", "name": "a", "axes": [1]}]),
    "a name that is a number": edited(name=3),
}


@pytest.mark.parametrize("kind", ODD_STATUS)
def test_an_odd_status_is_shown_with_its_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    damage, cause = ODD_STATUS[kind]
    cells = filled(tmp_path, ["failed", "done", "done"])
    damage(tmp_path / cells[0].name / records.STATUS)
    assert records.read_status(tmp_path / cells[0].name) is None
    assert report.main([str(tmp_path)]) == 0
    assert "2 of 3 cells done (1 corrupt)" in capsys.readouterr().out
    assert cause.partition("'")[0] in (tmp_path / "report" / "index.html").read_text()
    assert status([str(tmp_path), "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["failures"]
    assert (shown["name"], shown["state"]) == (cells[0].name, "corrupt")
    assert shown["cause"].startswith(cause)


@pytest.mark.parametrize("kind", NO_JSON)
def test_an_odd_result_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    cells = filled(tmp_path, ["done", "done"])
    NO_JSON[kind](tmp_path / cells[0].name / records.RESULT)
    assert report.main([str(tmp_path)]) == 0
    assert "1 of 2 cells done (1 corrupt)" in capsys.readouterr().out
    assert status([str(tmp_path), "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["failures"]
    assert shown["cause"] == "result.json is missing or not whole"


@pytest.mark.parametrize("kind", ODD_PLAN)
def test_an_odd_plan_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    filled(tmp_path, ["done", "done"])
    ODD_PLAN[kind](tmp_path / records.SWEEP)
    assert records.read_sweep(tmp_path) is None
    for command in (report.main, status):
        assert command([str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert records.SWEEP in error
        assert error.count("\n") == 1


def other_value(path: Path) -> None:
    """Let the plan put its first cell at another place, as a single flipped bit can."""
    plan = json.loads(path.read_text())
    plan["cells"][0]["axes"] = {key: value + 2 for key, value in plan["cells"][0]["axes"].items()}
    records.write_json(path, plan)


@pytest.mark.parametrize("older", [False, True])
def test_no_number_is_shown_at_a_place_that_a_damaged_plan_gives_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], older: bool
) -> None:
    cells = filled(tmp_path, ["done", "done"])
    if older:  # without a checksum: the results know where they belong
        plan = json.loads((tmp_path / records.SWEEP).read_text())
        records.write_json(tmp_path / records.SWEEP, {key: plan[key] for key in plan if key != "checksum"})
    other_value(tmp_path / records.SWEEP)
    for command in (report.main, status):
        assert command([str(tmp_path)]) == (0 if older else 2)
    said = capsys.readouterr()
    if older:
        assert "1 of 2 cells done (1 corrupt)" in said.out
        assert status([str(tmp_path), "--json"]) == 0
        (shown,) = json.loads(capsys.readouterr().out)["failures"]
        assert shown["name"] == cells[0].name
        assert shown["cause"].endswith("sweep.json is damaged")
    else:
        assert said.err.count("\n") == 2
        assert "sweep.json is not a whole plan; launch the sweep again" in said.err


def test_configs_with_another_value_are_none(tmp_path: Path) -> None:
    frozen = {"0123456789": records.FrozenCell({"model": {"c2": 4}}, ["model.c2=4"])}
    records.write_configs(tmp_path, frozen)
    assert records.read_configs(tmp_path) == frozen
    text = (tmp_path / records.CONFIGS).read_text()
    (tmp_path / records.CONFIGS).write_text(text.replace('"c2": 4', '"c2": 5'))
    assert records.read_configs(tmp_path) == {}


def test_configs_of_another_shape_are_none(tmp_path: Path) -> None:
    for cells in ([1], {"a": 1}, {"a": {"config": [], "overrides": []}}, {"a": {"config": {}, "overrides": 3}}):
        records.write_json(tmp_path / records.CONFIGS, {"schema": records.SCHEMA, "cells": cells})
        assert records.read_configs(tmp_path) == {}


def test_a_folder_whose_name_cannot_be_printed_is_no_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cell,) = sweep(tmp_path, {"model.c2": [1]})
    finish(tmp_path, cell, 0.5)
    (tmp_path / "\udcfcber-0123456789").mkdir()
    assert [path.name for path in records.cell_directories(tmp_path).values()] == [cell.name]
    assert report.main([str(tmp_path)]) == 0
    assert status([str(tmp_path)]) == 0
