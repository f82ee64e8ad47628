"""Stacks in real worker processes, around fake cells: what goes wrong in one of a group costs only that one."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from capsexp import records
from capsexp.cell import Cell
from capsexp.engine.local import LocalEngine
from capsexp.engine.options import Layout, Options
from capsexp.engine.progress import Progress
from tests.engine import work
from tests.engine.sweeps import Heard, HeardBusy, cells_in, executions, run_sweep, status_of, wait_until

ROOT = Path(__file__).parents[2]
ONE = Layout((None,), 1, 1, 1)
TWO = Layout((None,), 1, 2, 2)


def log_of(cell: Cell) -> str:
    return (cell.directory / records.LOG).read_text()


def tries(folder: Path, cells: list[Cell]) -> list[int]:
    ids = [each.id for each in executions(folder)]
    return [ids.count(cell.id) for cell in cells]


def test_who_kills_its_process_fails_alone(tmp_path: Path) -> None:
    cells, heard = cells_in(tmp_path, 4), Heard()
    cells[1].config["faults"] = ["kill"] * 9
    run_sweep(cells, TWO, heard, Options(retries=1), groups=[tuple(cells)])
    assert [status_of(cell).state for cell in cells] == ["done", "failed", "done", "done"]
    assert tries(tmp_path, cells) == [1, 4, 1, 1]
    killed = "its process was killed by SIGKILL (by hand, or by the system when memory ran out)"
    status = status_of(cells[1])
    assert (status.kind, status.cause, status.retried) == ("signal", killed, (killed,))
    ids = [cell.id for cell in cells]
    assert [halved for halved, _ in heard.split_] == [ids[1:], ids[1:3]]
    assert log_of(cells[1]).count("interrupted: signal: ") == 2
    assert heard.most == {"": 4, "all": 4}


def test_who_hangs_fails_alone(tmp_path: Path) -> None:
    cells, heard = cells_in(tmp_path, 2), Heard()
    cells[0].config["faults"] = ["hang"] * 2
    run_sweep(cells, TWO, heard, Options(cell_timeout=0.6), groups=[tuple(cells)])
    assert [status_of(cell).state for cell in cells] == ["failed", "done"]
    assert status_of(cells[0]).kind == "timeout"
    hung = [each for each in executions(tmp_path) if each.id == cells[0].id]
    assert hung[1].begin - hung[0].begin > 2 * 0.6, "together they had the time of two"


def test_what_goes_wrong_in_a_member_is_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One ends well, one fails, one is tried again since its memory ran out, one waits; all that is printed is kept."""
    cells, heard = cells_in(tmp_path, 5), HeardBusy()
    for cell, fault in zip(cells[1:], ("raise", "memory", "stage_busy", "noisy"), strict=True):
        cell.config["faults"] = [fault]
    run_sweep(cells, ONE, heard, groups=[tuple(cells)])
    assert [status_of(cell).state for cell in cells] == ["done", "failed", "done", "done", "done"]
    assert tries(tmp_path, cells) == [1, 1, 2, 2, 1]
    assert len({each.pid for each in executions(tmp_path)}) == 1, "nothing of that ends a worker"
    assert status_of(cells[2]).retried == ("RuntimeError: CUDA out of memory. Tried to allocate 2 GiB",)
    assert sorted(key for key, _ in heard.put_back_) == [cells[2].id, cells[3].id]
    assert heard.messages == ["the cache is\tslow"]
    assert "said by print\n" in log_of(cells[0])
    assert "INFO capsexp.data: of no interest" in log_of(cells[4])
    assert capfd.readouterr() == ("", "")


def test_a_broken_stack_is_said_and_its_cells_run_in_smaller_ones(tmp_path: Path) -> None:
    cells, heard = cells_in(tmp_path, 3, stack="broken"), Heard()
    run_sweep(cells, ONE, heard, groups=[tuple(cells)])
    assert {status_of(cell).state for cell in cells} == {"done"}
    assert tries(tmp_path, cells) == [1, 1, 1]
    assert [line.partition("; see")[0] for line in heard.messages] == ["a stack broke (MemoryError: too many"] * 2
    assert "Traceback" in log_of(cells[0])


def test_lines_appear_while_the_others_go_on_each_once(tmp_path: Path) -> None:
    cells, lines = cells_in(tmp_path, 3), io.StringIO()
    cells[1].config["faults"] = ["raise"]
    cells[2].config["faults"] = ["wait_for_word"]
    shown = Progress(3, 0, 3, lines)

    def tick() -> None:
        if shown.done + shown.failed == 2:
            (tmp_path / work.WORD).touch()

    shown.tick = tick  # type: ignore[method-assign]
    summary = LocalEngine(Options(), ONE, work.FakeWork()).run([tuple(cells)], shown)
    assert len(summary.outcomes) == 3
    told = [line.partition(" (see")[0] for line in lines.getvalue().splitlines()]
    devices = [line[:7] for line in told]
    assert devices == ["[1/3]  ", "[2/3]  ", "[3/3]  "]
    assert told[1].endswith("cell-0000000001  failed: RuntimeError: the numbers are wrong")
    assert shown.running == {}


def test_a_member_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    cells = cells_in(tmp_path, 3)
    cells[0].directory.mkdir()
    lock = FileLock(cells[0].directory / records.LOCK)
    lock.acquire()
    heard = HeardBusy(at_tick=lambda: lock.release() if len(heard.ended_) == 2 else None)
    run_sweep(cells, ONE, heard, groups=[tuple(cells)])
    assert list(heard.ended_) == [cells[1].id, cells[2].id, cells[0].id]
    assert [key for key, _ in heard.put_back_] == [cells[0].id]
    assert tries(tmp_path, cells) == [1, 1, 1]


def test_two_commands_run_each_cell_of_their_stacks_once(tmp_path: Path) -> None:
    """The other one is in the middle of the first cell of its stack when this one begins with all of them."""
    cells, heard = cells_in(tmp_path, 5), HeardBusy()
    line = [sys.executable, "-m", "tests.engine.driver", str(tmp_path), "5", "wait_for_word", "3"]
    other = subprocess.Popen(
        line, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}"}, stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: len(executions(tmp_path)) > 0, 60)
        heard.at_tick = lambda: (tmp_path / work.WORD).touch() if heard.put_back_ else None
        run_sweep(cells, ONE, heard, groups=[tuple(cells)])
        assert other.wait(60) == 0
    finally:
        other.kill()
        other.wait()
    assert tries(tmp_path, cells) == [1] * 5
    assert {status_of(cell).state for cell in cells} == {"done"}
