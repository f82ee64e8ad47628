"""The engine, with real processes and fake cells: what goes wrong in one cell costs only that one."""

import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pebble.pool.process
import pytest
from filelock import FileLock

from capsexp import records
from capsexp.cell import Cell
from capsexp.engine import local, scheduler
from capsexp.engine.options import Layout, Options, learned
from tests.engine import work
from tests.engine.sweeps import Heard, HeardBusy, at_once, cells_in, executions, run_sweep, status_of

ONE = Layout((None,), 1, 1, 1)
TWO = Layout((None,), 1, 2, 2)


def log_of(directory: Path) -> str:
    return (directory / records.LOG).read_text()


def say_the_word(heard: Heard, after: Cell, folder: Path) -> None:
    """Let the cells that wait go on once the engine knows that another has ended."""
    if after.id in heard.ended_:
        (folder / work.WORD).touch()


def tries(folder: Path, identifier: str) -> int:
    return sum(each.id == identifier for each in executions(folder))


KILLED = """
import os
from capsexp.engine.local import SPAWN, LocalBackend
from capsexp.engine.options import Options

backend = LocalBackend(Options(), 1, None)
left = SPAWN.Semaphore()
os.kill(os.getpid(), 9)
"""


def test_python_does_not_warn_of_what_a_killed_sweep_leaves() -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, "")


def test_four_of_sixteen_cells_fail_and_the_others_are_done(tmp_path: Path) -> None:
    """Whose process was killed or whose memory ran out is tried once more, alone; an error or a hang is not."""
    cells = cells_in(tmp_path, 16, seconds=0.05)
    raising, killed, hanging, hungry = cells[1], cells[3], cells[6], cells[9]
    raising.config["faults"] = ["raise"] * 3
    killed.config["faults"] = ["kill"] * 3
    hanging.config["faults"] = ["hang"] * 3
    hungry.config["faults"] = ["memory"] * 3
    options = Options(retries=1, cell_timeout=2.0)
    heard = Heard()
    summary = run_sweep(cells, Layout(("0", "1"), 1, 2, 4), heard, options)

    found = {cell.id: status_of(cell) for cell in cells}
    failed = {key: status.kind for key, status in found.items() if status.state == "failed"}
    assert failed == {raising.id: "exception", killed.id: "signal", hanging.id: "timeout", hungry.id: "out-of-memory"}
    assert sum(status.state == "done" for status in found.values()) == 12
    assert {key: ended.status.state for key, ended in summary.outcomes.items()} == {
        key: status.state for key, status in found.items()
    }
    assert not summary.left
    assert not summary.stopped

    why_killed = "its process was killed by SIGKILL (by hand, or by the system when memory ran out)"
    why_hungry = "RuntimeError: CUDA out of memory. Tried to allocate 2 GiB"
    assert (found[killed.id].cause, found[killed.id].retried) == (why_killed, (why_killed,))
    assert (found[hungry.id].cause, found[hungry.id].retried) == (why_hungry, (why_hungry,))
    assert (found[raising.id].cause, found[raising.id].retried) == ("RuntimeError: the numbers are wrong", ())
    why_hanging = "ran longer than hydra.launcher.cell_timeout=2 s and was ended"
    assert (found[hanging.id].cause, found[hanging.id].retried) == (why_hanging, ())
    assert f"pending: {why_killed}" in log_of(killed.directory)
    assert f"failed: {why_killed}" in log_of(killed.directory)
    assert f"failed: {why_hanging}" in log_of(hanging.directory)
    assert "Traceback" in log_of(raising.directory)

    assert {cell.id: tries(tmp_path, cell.id) for cell in cells} == {
        cell.id: 2 if cell in (killed, hungry) else 1 for cell in cells
    }
    assert sorted(key for key, _ in heard.put_back_) == [killed.id, hungry.id]
    assert all("it is tried again, alone on its device" in why for _, why in heard.put_back_)
    assert heard.most == {"GPU 0": 2, "GPU 1": 2, "all": 4}


def test_a_cell_that_ran_out_of_memory_has_its_device_alone_and_then_succeeds(tmp_path: Path) -> None:
    cells = cells_in(tmp_path, 8, seconds=0.15)
    hungry = cells[0]
    hungry.config["faults"] = ["memory"]
    heard = Heard()
    run_sweep(cells, Layout(("0", "1"), 1, 2, 4), heard)
    status = status_of(hungry)
    assert status.state == "done"
    assert status.retried == ("RuntimeError: CUDA out of memory. Tried to allocate 2 GiB",)
    found = executions(tmp_path)
    (again,) = (each for each in found if each.id == hungry.id and each.number == 1)
    beside = [each for each in found if each.cuda == again.cuda and each is not again]
    assert all(each.end <= again.begin or each.begin >= again.end for each in beside)
    # Only handed out together: whether they also overlap depends on how long the other worker took to start.
    assert heard.most == {"GPU 0": 2, "GPU 1": 2, "all": 4}


def test_without_retries_each_cell_is_tried_once(tmp_path: Path) -> None:
    cells = cells_in(tmp_path, 3)
    cells[0].config["faults"], cells[1].config["faults"] = ["kill"], ["memory"]
    heard = Heard()
    run_sweep(cells, ONE, heard, Options(retries=0))
    assert [status_of(cell).state for cell in cells] == ["failed", "failed", "done"]
    assert [tries(tmp_path, cell.id) for cell in cells] == [1, 1, 1]
    assert heard.put_back_ == []


@pytest.mark.parametrize("fault", ["raise", "timeout", "exit"])
def test_what_leaves_the_work_itself_costs_one_cell(tmp_path: Path, fault: str) -> None:
    cells = cells_in(tmp_path, 3)
    cells[0].config["faults"] = [fault]
    summary = run_sweep(cells, ONE, Heard(), does=work.bare)
    assert [summary.outcomes[cell.id].status.state for cell in cells[1:]] == ["done", "done"]
    assert summary.outcomes[cells[0].id].status.state in ("failed", "interrupted")
    assert "cell_timeout" not in str(summary.outcomes[cells[0].id].status.cause)


def test_a_process_that_ends_itself_in_the_middle_of_a_cell_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some libraries call exit(0); that is no way for a cell to end."""
    monkeypatch.setattr(scheduler, "LOST_S", 0.4, raising=False)
    cells = cells_in(tmp_path, 2)
    cells[0].config["faults"] = ["exit_0"] * 2
    run_sweep(cells, ONE, Heard(), Options(retries=0))
    assert [status_of(cell).state for cell in cells] == ["failed", "done"]


def test_a_process_that_ends_itself_behind_its_cell_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "LOST_S", 0.4)
    cells = cells_in(tmp_path, 2)
    cells[0].config["faults"] = ["result_then_exit_0"]
    summary = run_sweep(cells, ONE, Heard(), Options(retries=0))
    assert [summary.outcomes[cell.id].status.state for cell in cells] == ["done", "done"]


def test_a_signal_without_a_name_costs_one_cell(tmp_path: Path) -> None:
    cells = cells_in(tmp_path, 2)
    cells[0].config["faults"] = ["real_time_signal"]
    run_sweep(cells, ONE, Heard(), Options(retries=0))
    assert [status_of(cell).state for cell in cells] == ["failed", "done"]
    assert status_of(cells[0]).cause == f"its process was killed by signal {signal.SIGRTMIN + 6}"


def test_no_more_workers_than_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    made = local.LocalPool

    def note(device: str | None, size: int, *told: Any) -> Any:
        sizes.append(size)
        return made(device, size, *told)

    monkeypatch.setattr(local, "LocalPool", note)
    run_sweep(cells_in(tmp_path, 2), Layout((None,), 1, 16, 16), Heard())
    assert sizes == [2]


# -- devices -----------------------------------------------------------------------------------------------------------


def test_60_cells_on_four_gpus_two_on_each(tmp_path: Path) -> None:
    cells, gpus = cells_in(tmp_path, 60, seconds=0.04), [str(number) for number in range(4)]
    heard = Heard()
    run_sweep(cells, Layout(tuple(gpus), 5, 2, 8), heard, does=work.tiny)
    found = executions(tmp_path)
    assert sorted(each.id for each in found) == [cell.id for cell in cells]
    assert at_once(found) <= 8
    by_gpu = {gpu: [each for each in found if each.cuda == gpu] for gpu in gpus}
    assert sum(len(each) for each in by_gpu.values()) == 60
    assert all(1 <= at_once(each) <= 2 for each in by_gpu.values())
    pids = {gpu: {each.pid for each in by_gpu[gpu]} for gpu in gpus}
    assert all(1 <= len(each) <= 2 for each in pids.values())
    assert len(set().union(*pids.values())) == sum(len(each) for each in pids.values()), "a process saw two GPUs"
    assert all(each.at_import == {"cuda": each.cuda, "torch": False} for each in found)
    assert {each.omp for each in found} == {"5"}
    assert heard.most == {**{f"GPU {gpu}": 2 for gpu in gpus}, "all": 8}
    where = dict(heard.started_)
    assert all(where[each.id] == f"GPU {each.cuda}" for each in found)


def test_the_first_cell_says_how_many_fit_on_a_gpu(tmp_path: Path) -> None:
    """(1.4 + 0.6) GB a cell in nine tenths of 7 GB: three."""
    gpu = {"peak_bytes": 1_400_000_000, "total_bytes": 7_000_000_000}
    cells = cells_in(tmp_path, 12, seconds=0.1, gpu=gpu)
    heard = Heard()
    run_sweep(cells, Layout(("0", "1"), 1, None, 8), heard)
    assert heard.most == {"GPU 0": 3, "GPU 1": 3, "all": 6}
    found = executions(tmp_path)
    first_end = min(each.end for each in found)
    early = [each.cuda for each in found if each.begin < first_end]
    assert len(early) == len(set(early)), "one alone on each until it is known"
    assert heard.messages == ["3 cells at once on each GPU: the first needed 1.40 of 7.0 GB"]
    assert {cell.id: status_of(cell).state for cell in cells} == {cell.id: "done" for cell in cells}


def test_hidden_gpus_are_hidden_and_unbound_cells_see_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    for name, device in (("hidden", ""), ("unbound", None)):
        heard = Heard()
        run_sweep(cells_in(tmp_path / name, 1), Layout((device,), 1, 1, 1), heard, does=work.tiny)
        assert heard.started_ == [("0000000000", "")]
        assert [each.cuda for each in executions(tmp_path / name)] == ["4,5" if device is None else ""]


# -- cells that wait ---------------------------------------------------------------------------------------------------


def test_a_cell_that_waits_for_a_stage_lets_others_go_first(tmp_path: Path) -> None:
    cells = cells_in(tmp_path, 3, seconds=0.35)  # longer than the busy one's first pause
    cells[0].config["faults"] = ["stage_busy"] * 2
    heard = HeardBusy()
    run_sweep(cells, ONE, heard)
    assert [status_of(cell).state for cell in cells] == ["done"] * 3
    assert [key for key, _ in heard.started_[:3]] == [cell.id for cell in cells]
    assert [key for key, _ in heard.started_[3:]] == [cells[0].id] * 2
    assert heard.put_back_ == [(cells[0].id, "pending: waits for a stage: encoder is being trained")]
    assert status_of(cells[0]).retried == ()


def test_a_cell_that_another_process_runs_is_waited_for(tmp_path: Path) -> None:
    cells = cells_in(tmp_path, 3)
    cells[0].directory.mkdir()
    lock = FileLock(cells[0].directory / records.LOCK)
    lock.acquire()
    heard = HeardBusy(at_tick=lambda: lock.release() if len(heard.ended_) == 2 else None)
    run_sweep(cells, ONE, heard)
    assert list(heard.ended_) == [cells[1].id, cells[2].id, cells[0].id]
    assert [key for key, _ in heard.put_back_] == [cells[0].id]
    assert status_of(cells[0]).state == "done"


# -- giving up ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "fail_fast"), [("raise", True), ("disk", False)])
def test_after_a_failure_that_stops_the_sweep_running_cells_end_and_no_more_start(
    tmp_path: Path, fault: str, fail_fast: bool
) -> None:
    cells = cells_in(tmp_path, 6)
    cells[0].config["faults"] = [fault]
    cells[1].config["faults"] = ["wait_for_word"]
    heard = Heard(at_tick=lambda: say_the_word(heard, cells[0], tmp_path))
    summary = run_sweep(cells, TWO, heard, Options(fail_fast=fail_fast))
    assert [key for key, _ in heard.started_] == [cell.id for cell in cells[:2]]
    assert [status_of(cell).state for cell in cells[:2]] == ["failed", "done"]
    assert summary.left == cells[2:]
    assert not summary.stopped
    assert len(heard.messages) == 1
    assert "no further cell is started" in heard.messages[0]


@pytest.mark.parametrize("fault", ["memory", "stage_busy"])
def test_after_giving_up_no_cell_is_tried_again(tmp_path: Path, fault: str) -> None:
    cells = cells_in(tmp_path, 4)
    cells[0].config["faults"] = ["raise"]
    cells[1].config["faults"] = [f"late_{fault}"]
    heard = HeardBusy(at_tick=lambda: say_the_word(heard, cells[0], tmp_path))
    run_sweep(cells, TWO, heard, Options(fail_fast=True))
    assert [key for key, _ in heard.started_] == [cell.id for cell in cells[:2]]
    assert tries(tmp_path, cells[1].id) == 1


def test_a_failure_does_not_stop_the_sweep_otherwise(tmp_path: Path) -> None:
    cells = cells_in(tmp_path, 3)
    cells[0].config["faults"] = ["raise"]
    summary = run_sweep(cells, ONE, Heard())
    assert not summary.left
    assert [status_of(cell).state for cell in cells] == ["failed", "done", "done"]


# -- workers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "processes"), [(None, [5]), (2, [2, 2, 1]), (1, [1, 1, 1, 1, 1])])
def test_workers_are_kept_or_replaced(tmp_path: Path, limit: int | None, processes: list[int]) -> None:
    run_sweep(cells_in(tmp_path, 5), ONE, Heard(), Options(max_cells_per_worker=limit), work.tiny)
    pids = [each.pid for each in executions(tmp_path)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == processes
    assert pids == [pid for pid in dict.fromkeys(pids) for _ in range(pids.count(pid))]


def test_workers_that_replace_others_know_that_a_server_does_not_answer(tmp_path: Path) -> None:
    heard = Heard()
    try:
        run_sweep(cells_in(tmp_path, 5), ONE, heard, Options(max_cells_per_worker=1), work.without_a_server)
    finally:
        learned.clear()
    modes = (tmp_path / "modes").read_text().split()
    assert modes[0] == "online"
    assert modes[2:] == ["offline"] * 3, "the second may have begun before the first had reported"


@pytest.mark.parametrize("layout", [ONE, TWO])
def test_workers_that_die_between_cells_lose_none(tmp_path: Path, layout: Layout) -> None:
    cells = cells_in(tmp_path, 8, seconds=0.05)
    for cell in (cells[0], cells[4]):
        cell.config["faults"] = ["kill_later"]
    cells[7].config["faults"] = ["kill_later"]  # the last one: its process dies while nothing is left to do
    heard = Heard()
    run_sweep(cells, layout, heard, Options(retries=3))
    assert {status_of(cell).state for cell in cells} == {"done"}
    assert not any("given up" in line for line in heard.messages)


def test_workers_that_can_never_start_end_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.worker, "start", work.never_starts)
    cells, heard = cells_in(tmp_path, 12), Heard()
    summary = run_sweep(cells, TWO, heard, Options(retries=1))
    assert set(heard.messages) == {"worker processes die before they can begin; the sweep is given up"}
    assert executions(tmp_path) == []
    assert len(summary.left) >= 6, "the sweep is given up long before every cell has been tried"
    assert "done" not in {ended.status.state for ended in summary.outcomes.values()}


def test_a_cell_on_its_way_to_a_worker_that_dies_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pebble tells only the cells that have reached its list by then."""
    register = pebble.pool.process.TaskManager.register

    def slowly(self: object, task: object) -> None:
        time.sleep(0.5)
        register(self, task)

    monkeypatch.setattr(pebble.pool.process.TaskManager, "register", slowly)
    monkeypatch.setattr(local.worker, "start", work.one_dies_at_its_start)
    monkeypatch.setenv("FIRST_WORKER", str(tmp_path / "first"))
    cells = cells_in(tmp_path, 3)
    run_sweep(cells, ONE, Heard())
    assert {status_of(cell).state for cell in cells} == {"done"}


def test_one_worker_that_dies_at_its_start_does_not_end_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.worker, "start", work.one_dies_at_its_start)
    monkeypatch.setenv("FIRST_WORKER", str(tmp_path / "first"))
    cells, heard = cells_in(tmp_path, 8), Heard()
    summary = run_sweep(cells, Layout((None,), 1, 5, 5), heard)
    assert heard.messages == []
    assert summary.left == []
    assert {status_of(cell).state for cell in cells} == {"done"}


def test_a_cell_that_never_began_costs_no_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.worker, "start", work.one_dies_at_its_start)
    monkeypatch.setenv("FIRST_WORKER", str(tmp_path / "first"))
    cells = cells_in(tmp_path, 3)
    run_sweep(cells, ONE, Heard(), Options(retries=0))
    assert {status_of(cell).state for cell in cells} == {"done"}


def test_no_process_stays(tmp_path: Path) -> None:
    run_sweep(cells_in(tmp_path, 4), TWO, Heard(), does=work.tiny)
    assert multiprocessing.active_children() == []


def test_a_cell_is_settled_by_the_result_that_its_dead_process_left(tmp_path: Path) -> None:
    """Killed between the result and the status: it is done, and not tried again."""
    (cell,) = cells_in(tmp_path, 1)
    cell.config["faults"] = ["result_then_kill"]
    heard = Heard()
    summary = run_sweep([cell], ONE, heard)
    assert status_of(cell).state == "done"
    assert summary.outcomes[cell.id].status.state == "done"
    assert tries(tmp_path, cell.id) == 1
    assert status_of(cell).kind is None
