"""``python -m capsexp.status``: what is printed, how it ends, and that it only looks."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from status_fakes import RUN, fail, filled, finish, put, start, sweep

from capsexp import records
from capsexp.status.__main__ import main

HEAVY = ("numpy", "matplotlib", "torch", "lightning", "hydra", "omegaconf", "wandb", "yaml", "rich", "filelock")


def test_everything_is_said(mixed, shown):
    root, cells = mixed
    lines = shown(root).splitlines()
    assert lines[:2] == [f"fake  {root}", "python -m capsexp model.c2=2,4 model.c3=2,4,8 seed=0,1 -m"]
    assert lines[3] == f"[{'#' * 26}{'.' * 26}] 6 of 12 cells done (50 %)"
    assert lines[4] == "6 done, 1 running, 2 failed, 3 pending; 1 orphaned directory"
    assert re.fullmatch(r"elapsed: 3 min [2-5]\d s since \d{4}-\d\d-\d\d \d\d:\d\d", lines[5])
    assert lines[6] == "finished cells took 1 min 15 s together, 12 s on average"
    assert re.fullmatch(r"left: about (4[0-7]|[1-3]\d) s, with 1 cell at a time", lines[7])
    assert re.fullmatch(rf"  {cells[6].name}  ([3-9]\.\d|[1-3]\d) s", lines[lines.index("running:") + 1])
    assert lines[lines.index("slowest:") + 1] == f"  {cells[5].name}  15 s"
    failures = lines[lines.index("failures:") + 1 :]
    assert failures[:4] == [
        f"  {cells[7].name}  failed (retried once): RuntimeError: bad ?[2J luck",
        f"    {root / cells[7].name / records.LOG}",
        f"  {cells[8].name}  failed (retried 3 times): RuntimeError: no",
        f"    {root / cells[8].name / records.LOG}",
    ]
    assert {"2 00 50 99", "4  x  x  ."} < set(lines)


def test_only_what_occurs_is_said(tmp_path, shown):
    filled(tmp_path, ["done", "done"])
    out = shown(tmp_path)
    assert "\n2 done\n" in out
    assert not re.search("failure|running|left|orphan|pending", out)
    assert "#] 2 of 2 cells done (100 %)" in out


def test_an_end_is_foretold_only_while_something_runs(tmp_path, shown):
    cells = filled(tmp_path, ["missing"] * 4)
    assert "left: unknown until a cell has finished; nothing is running" in shown(tmp_path)
    finish(tmp_path, cells[0], seconds=240.0)
    assert "left: about 12 min 0 s of one cell at a time; nothing is running" in shown(tmp_path)
    start(tmp_path, cells[1], ago=0)
    start(tmp_path, cells[2], ago=120)
    assert re.search(r"left: about (5 min 0|4 min [2-5]\d) s, with 2 cells at a time", shown(tmp_path))
    finish(tmp_path, cells[3])
    for cell in cells[1:3]:
        start(tmp_path, cell, ago=4000)
    assert "left: any moment now, with 2 cells at a time" in shown(tmp_path)


def test_at_most_twenty_failures_are_listed(tmp_path, shown):
    filled(tmp_path, ["failed"] * 23)
    out = shown(tmp_path)
    assert out.count("RuntimeError: no") == 20
    assert "\n  and 3 more\n" in out
    assert len(json.loads(shown(tmp_path, "--json"))["failures"]) == 23


def test_json_has_the_same_facts(mixed, shown):
    root, cells = mixed
    out = shown(root, "--json")
    found = json.loads(out)
    assert out.count("\n") == 1
    assert found["counts"] == {"done": 6, "running": 1, "failed": 2, "pending": 3}
    assert (found["planned"], found["settled"], found["folder"]) == (12, False, str(root))
    assert found["eta_s"] == pytest.approx(3 * 12.5 + 9.5, abs=15)
    assert [each["name"] for each in found["running"]] == [cells[6].name]
    assert found["orphans"] == ["c2-99-0123456789"]


# -- errors -----------------------------------------------------------------------------------------------------------


def fails(capsys, path, *words):
    assert main([str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("capsexp.status: error: ")
    assert captured.err.count("\n") == 1
    assert all(word in captured.err for word in words)


def test_folders_that_are_no_sweep(tmp_path, capsys):
    fails(capsys, tmp_path / "none", "is not a folder")
    fails(capsys, tmp_path, "has no plan (sweep.json)")
    cell = filled(tmp_path, ["done"])[0]
    fails(capsys, tmp_path / cell.name, "a single cell", str(tmp_path))


@pytest.mark.parametrize("damage", [{"cells": [{"odd": 1}]}, {"axes": [1]}, {"axes": {"a": 1}}, {"overrides": None}])
def test_a_damaged_plan(tmp_path, capsys, damage):
    filled(tmp_path, ["done"])
    plan = json.loads((tmp_path / records.SWEEP).read_text())
    records.write_json(tmp_path / records.SWEEP, plan | damage)
    fails(capsys, tmp_path, "not a whole plan")
    (tmp_path / records.SWEEP).write_text('{"schema": 1, "cells": ')
    fails(capsys, tmp_path, "not a whole plan")


def test_a_folder_that_may_not_be_read(tmp_path, capsys, monkeypatch):
    filled(tmp_path, ["done"])

    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(os, "scandir", refuse)
    fails(capsys, tmp_path, "Permission denied")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_an_impossible_interval(tmp_path, capsys, seconds):
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path), "--watch", seconds])
    assert end.value.code == 2
    assert "--watch" in capsys.readouterr().err


def test_a_reader_that_stops_is_no_error(tmp_path):
    filled(tmp_path, ["missing"] * 300)
    piped = f'"{sys.executable}" -m capsexp.status "{tmp_path}" --watch 0.05 | head -c 20'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", piped], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_words_that_the_terminal_cannot_write(tmp_path):
    fail(tmp_path, sweep(tmp_path, {"data": ["ünïcode", "else"]})[0], "RuntimeError: \udcff→")
    done = subprocess.run(
        [*RUN, str(tmp_path)], capture_output=True, timeout=120, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stderr) == (0, b"")


# -- looking only, and quickly ----------------------------------------------------------------------------------------


def test_stale_cells_are_shown_with_the_cause(tmp_path, shown):
    filled(tmp_path, ["done", "stale", "stale"])
    assert "2 stale: its numbers come from older code (sweep.rerun=stale runs them again)" in shown(tmp_path)


def test_nothing_is_written(tmp_path, shown):
    filled(tmp_path, ["done", "running", "failed", "dead", "missing", "half", "stale", "empty", "pending"])

    def tree():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [tmp_path, *tmp_path.rglob("*")]}

    before = tree()
    shown(tmp_path)
    shown(tmp_path, "--json")
    assert tree() == before


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    root = tmp_path_factory.mktemp("thousand")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        cells = sweep(root, {"model.c2": list(range(25)), "model.c3": list(range(40))}, age=100)
        for i, cell in enumerate(cells):
            if i % 10 == 9:
                put(root, cell, ("failed", "missing", "stale", "interrupted")[i // 10 % 4])
            else:
                finish(root, cell, i / 1000, seconds=i / 100)
    yield root
    shutil.rmtree(root)  # pytest would keep it for three more runs


def test_a_thousand_cells_are_shown_quickly(thousand, shown):
    began = time.perf_counter()
    out = shown(thousand)
    assert time.perf_counter() - began < 30
    assert "900 done, 25 failed, 25 interrupted, 25 pending, 25 stale" in out
    assert "  and 5 more" in out
    assert all(len(line) <= 80 for line in out.splitlines()[2:] if str(thousand) not in line)


def test_a_thousand_cells_load_nothing_heavy(thousand):
    code = (
        "import sys; from capsexp.status.__main__ import main\n"
        f"assert main([{str(thousand)!r}]) == 0\n"
        f"heavy = set({HEAVY!r}) & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.returncode == 0


def test_help_is_light_and_names_what_there_is(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert not end.value.code
    out = capsys.readouterr().out
    assert all(word in out for word in ("DIR", "--watch [SECONDS]", "--json", "NO_COLOR"))


def test_a_cell_whose_folder_goes_while_it_is_read(tmp_path, shown, monkeypatch):
    cells = filled(tmp_path, ["done", "failed"])
    found = {cell.id: tmp_path / f"gone-{cell.id}" for cell in cells}
    monkeypatch.setattr(records, "cell_directories", lambda _: found)
    assert "2 pending" in shown(tmp_path)


def test_a_status_of_an_older_package(tmp_path, shown):
    cells = filled(tmp_path, ["missing"])
    old = dataclasses.asdict(records.Status("failed", cells[0].id, cause="RuntimeError: old"))
    kept = {key: old[key] for key in ("state", "id", "pid", "host", "boot", "started", "updated", "cause")}
    records.write_json(tmp_path / cells[0].name / records.STATUS, {"schema": records.SCHEMA, **kept})
    assert "failed: RuntimeError: old" in shown(tmp_path)


def test_without_a_folder_it_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "usage: python -m capsexp.status" in capsys.readouterr().err
