"""Runs kept on disk are uploaded once, and a bad one holds up no other."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from capsexp import records
from capsexp import sync as command
from capsexp.tracking import guard
from capsexp.tracking.sync import find_runs, sync

FAKE = """
import os, sys, tempfile, time
from pathlib import Path
(path,) = map(Path, sys.argv[1:])
with open(os.environ["SYNC_LOG"], "a") as log:
    log.write(f"begin {path.name}\\n")
(file,) = path.glob("*.wandb")
how = file.read_text()
if "hang" in how:
    tempfile.mkdtemp()
    time.sleep(600)
time.sleep(0.02)
print("wandb: Syncing 1 run(s):")
if "refused" in how:
    print("wandb: ERROR permission  denied")
    print("wandb: ERROR Find detailed error logs at: somewhere/debug-cli.root.log")
elif "mute" in how:
    sys.exit(3)
else:
    file.with_suffix(".wandb.synced").touch()
with open(os.environ["SYNC_LOG"], "a") as log:
    log.write(f"end {path.name}\\n")
"""

Make = Callable[..., Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command that stands for ``wandb sync`` and does what a run's file says."""
    for name in ("WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("SYNC_LOG", str(tmp_path / "log"))
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    return [sys.executable, "-I", "-S", str(script)]  # without what takes Python long to begin


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "multirun"


@pytest.fixture
def make(root: Path) -> Make:
    """Makes a run's directory: ``make("cell", "content")``."""

    def run(cell: str, content: str | None = "some data", name: str = "offline-run-1-x") -> Path:
        path = root / "sweep" / cell / "wandb" / name
        path.mkdir(parents=True)
        if content is not None:
            (path / "run-x.wandb").write_text(content)
        return path

    return run


def test_what_is_not_there_yet_is_uploaded_and_what_is_bad_is_named(
    make: Make, root: Path, fake: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, done, late = make("good"), make("bad", "it is refused"), make("done"), make("late")
    make("empty", "1234567")
    none, mute = make("none", None), make("mute", "it is mute")
    (done / "run-x.wandb.synced").touch()
    records.write_status(late.parent.parent, records.Status("running", "0123456789"))
    assert command.main([str(root)], command=fake) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert sorted(lines) == [
        f"failed: {bad}: permission denied",
        f"failed: {mute}: wandb sync ended with 3 and no mark of success; its last output: Syncing 1 run(s):",
        f"failed: {none}: there is no run-*.wandb file in it",
    ]
    assert last == (
        "1 uploaded, 3 failed, 1 already there, 1 empty (killed before anything was written), "
        "1 left for later (still running)"
    )
    assert [(path / "run-x.wandb.synced").exists() for path in (good, bad, done, late)] == [True, False, True, False]
    assert "begin" not in Path(os.environ["SYNC_LOG"]).read_text().replace("begin offline-run-1-x", "")


def test_a_second_time_everything_is_there(
    make: Make, root: Path, fake: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for cell in "abcdef":
        make(cell)
    assert command.main([str(root)], command=fake) == 0
    assert capsys.readouterr().out == "6 uploaded, 0 failed, 0 already there\n"
    assert command.main([str(root)], command=fake) == 0
    assert capsys.readouterr().out == "0 uploaded, 0 failed, 6 already there\n"


def test_a_cell_that_stopped_running_is_uploaded(make: Make, root: Path, fake: list[str]) -> None:
    cell = make("cell").parent.parent
    records.write_status(cell, records.Status("running", "0123456789", pid=2**22 + 7))
    assert sync([root], command=fake).counts == {"uploaded": 1}


def test_one_that_hangs_is_given_up_while_others_go_on(
    make: Make, root: Path, fake: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    hung = make("a", "it must hang")
    others = [make(cell) for cell in "bcde"]
    began = time.monotonic()
    summary = sync([root], command=fake, timeout_s=2.5)
    assert time.monotonic() - began < 100
    assert summary.failures == [(hung, "no end within 2.5 s")]
    assert list(temporary.iterdir()) == []
    assert all((path / "run-x.wandb.synced").exists() for path in others)


def test_the_runs_of_one_cell_go_one_after_the_other_oldest_first(make: Make, root: Path, fake: list[str]) -> None:
    for name in ("offline-run-20260103_000000-x", "offline-run-20260101_000000-x"):
        make("cell", name=name)
    (make("cell", name="run-20260102_000000-x") / guard.UNSENT).touch()
    make("cell", name="run-20260104_000000-x")  # was uploaded while it ran
    assert sync([root], command=fake, at_once=4).counts == {"uploaded": 3}
    lines = Path(os.environ["SYNC_LOG"]).read_text().split()
    days = [word.partition("run-")[2][:8] for word in lines if "run-" in word]
    assert days == ["20260101", "20260101", "20260102", "20260102", "20260103", "20260103"]


def test_the_run_of_a_killed_process_is_uploaded_unless_a_later_one_has_ended_well(make: Make, root: Path) -> None:
    for cell in ("killed", "again", "twice"):
        (make(cell, name="run-20260101_000000-x") / guard.UNSENT).write_text(guard.OPEN)
    make("again", name="run-20260102_000000-x")
    make("twice", name="run-20260102_000000-x")
    (make("twice", name="run-20260103_000000-x") / guard.UNSENT).write_text(guard.OPEN)
    found = {cell.name: [run.name[4:12] for run in runs] for cell, runs in find_runs([root]).items()}
    assert found == {"killed": ["20260101"], "twice": ["20260103"]}


def test_a_run_is_found_once_however_often_its_folder_is_named(make: Make, root: Path) -> None:
    path = make("cell")
    (make("cell", name="offline-run-2-x") / guard.UNSENT).touch()
    (path.parent / "latest-run").symlink_to(path)
    found = find_runs([root, root / "sweep", root / "sweep" / "cell"])
    assert found == {path.parent.parent: [path, path.parent / "offline-run-2-x"]}


def test_wandb_is_told_to_speak_and_asked_without_a_terminal(
    make: Make, root: Path, tmp_path: Path, fake: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stub on PATH sees what ``wandb`` would see."""
    path = make("cell")
    stub = tmp_path / "bin" / "wandb"
    stub.parent.mkdir()
    stub.write_text(f"#!/bin/sh\necho \"$WANDB_SILENT|$WANDB_MODE|$(cat)|$*\"\n: > '{path}/run-x.wandb.synced'\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert command.main([str(root)], command=["wandb", "sync"]) == 0
    (path / "run-x.wandb.synced").unlink()
    stub.write_text(stub.read_text().partition("\n:")[0] + "\n")
    ((_, reason),) = sync([root], command=["wandb", "sync"]).failures
    assert reason.endswith(f"and no mark of success; its last output: |||sync {path}")


def test_a_command_that_is_missing_is_a_failure_of_the_run(make: Make, root: Path) -> None:
    make("cell")
    ((_, reason),) = sync([root], command=["no-such-wandb"]).failures
    assert "no-such-wandb" in reason


def test_nothing_to_do_is_no_failure(root: Path, fake: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    root.mkdir()
    assert command.main([str(root)], command=fake) == 0
    assert capsys.readouterr().out == "0 uploaded, 0 failed, 0 already there\n"


def test_what_the_user_can_mend_is_one_line(
    root: Path, tmp_path: Path, fake: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main([]) == 2
    assert capsys.readouterr().err == "capsexp.sync: error: there is no folder multirun\n" or root.exists()
    root.mkdir()
    assert command.main([str(root), "--timeout", "0"]) == 2
    assert capsys.readouterr().err == "capsexp.sync: error: --timeout must be > 0, got 0\n"
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert command.main([str(root)]) == 2
    assert capsys.readouterr().err.startswith("capsexp.sync: error: there is no Weights & Biases login: run ")


def test_the_real_wandb_names_what_is_damaged_and_what_cannot_be_reached(
    make: Make, root: Path, tmp_path: Path, fake: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a real offline run, whole and damaged, against a port where nobody listens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(guard, "process", guard.Process())
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    assert guard.importable()
    whole = root / "sweep" / "whole-0123456789"
    whole.mkdir(parents=True)
    run = guard.GuardedRun(100)
    options = {"project": "p", "entity": None}
    run.open(guard.About({"sweep": {"name": "s"}}, whole, "0123456789", {}), options, "offline")
    run.do("log", lambda: run.run.log({"a": 1}))
    run.close(0)
    (path,) = whole.glob("wandb/offline-run-*")
    (file,) = path.glob("*.wandb")
    until = time.monotonic() + 60
    while file.stat().st_size < 100 and time.monotonic() < until:  # wandb-core writes it just after `finish`
        time.sleep(0.05)
    damaged = make("damaged", "no header of a run's file at all")
    with ThreadPoolExecutor(2) as both:  # the one ends when it has read the file, the other one never
        ends = both.submit(sync, [damaged.parent.parent], timeout_s=100)
        never = both.submit(sync, [whole], timeout_s=4)
        ((_, reason),) = ends.result().failures
        assert "Failed to read" in reason
        assert never.result().failures == [(path, "no end within 4 s")]
    assert not (tmp_path / "wandb").exists()
