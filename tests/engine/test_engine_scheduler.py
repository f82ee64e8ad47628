"""The loop over groups, with workers that answer as the test says: what becomes of each cell of a stack."""

import os
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from pebble import ProcessExpired

from capsexp import records
from capsexp.cell import Cell, CellOutcome
from capsexp.engine import queue, scheduler
from capsexp.engine.base import Group, Report
from capsexp.engine.options import Options
from tests.engine.backend import Answer, Backend, busy, done, failed, report, run_groups
from tests.engine.sweeps import Heard, HeardBusy, cells_in, status_of

KILLED = "its process was killed by SIGKILL (by hand, or by the system when memory ran out)"


@pytest.fixture(autouse=True)
def _a_quick_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "LOOK_S", 0.0)
    monkeypatch.setattr(scheduler, "TICK_S", 0.01)


def kill() -> Exception:
    return ProcessExpired("", code=-signal.SIGKILL)  # type: ignore[no-untyped-call, no-any-return]


def finish(cell: Cell, state: records.State = "done", kind: records.Kind | None = None, **who: Any) -> None:
    """What a cell leaves that has ended in a worker."""
    if state == "done":
        records.write_result(cell.directory, {"metrics": {"test/acc": 0.25}, "clocks": {"total_s": 3.0}})
    records.write_status(cell.directory, records.Status(state, cell.id, kind=kind, cause=kind, **who))


# -- a stack that breaks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "killer", "sizes"), [(2, 1, [2]), (5, 0, [5, 3, 2]), (5, 4, [5, 2]), (8, 3, [8, 4, 2])]
)
def test_who_kills_a_stack_is_found_by_halving(tmp_path: Path, count: int, killer: int, sizes: list[int]) -> None:
    cells, heard = cells_in(tmp_path, count), Heard()
    backend = Backend(lambda group: kill() if cells[killer] in group else report(group))
    summary = run_groups([tuple(cells)], backend, heard, Options(retries=1))
    states = {cell.id: summary.outcomes[cell.id].status.state for cell in cells}
    assert states == {cell.id: "failed" if cell is cells[killer] else "done" for cell in cells}
    assert [len(ids) for ids, _ in heard.split_] == sizes
    assert all(why == f"signal: {KILLED}; it is halved" for _, why in heard.split_)
    tries = Counter(identifier for ids, _ in backend.given for identifier in ids)
    assert tries[cells[killer].id] == len(sizes) + 2, "alone it is tried twice"
    assert [ids for ids, _ in backend.given].count([cells[killer].id]) == 2
    status = status_of(cells[killer])
    assert (status.state, status.kind, status.cause, status.retried) == ("failed", "signal", KILLED, (KILLED,))


def test_halves_wait_behind_what_is_in_the_queue(tmp_path: Path) -> None:
    cells = cells_in(tmp_path, 5)
    backend = Backend(lambda group: kill() if len(group) == 4 else report(group))
    run_groups([tuple(cells[:4]), (cells[4],)], backend, Heard())
    ids = [cell.id for cell in cells]
    assert [given for given, _ in backend.given] == [ids[:4], ids[4:], ids[:2], ids[2:4]]


def test_cells_of_a_broken_stack_say_why_on_the_disk(tmp_path: Path) -> None:
    """Nobody reads them as running, on no host, while they wait."""
    cells = cells_in(tmp_path, 2)
    found: list[records.Status] = []

    def does(group: Group) -> Answer:
        if len(group) == 2:
            finish(cells[0], "running", host="elsewhere")
            return kill()
        found.append(status_of(cells[0]))
        return report(group)

    run_groups([tuple(cells)], Backend(does), Heard())
    assert [(each.state, each.cause, each.retried) for each in found] == [("interrupted", f"signal: {KILLED}", ())] * 2


def test_a_stack_has_the_time_of_all_its_cells(tmp_path: Path) -> None:
    cells, heard = cells_in(tmp_path, 4), Heard()
    slow = TimeoutError("Task timeout", 2.5)
    backend = Backend(lambda group: slow if cells[0] in group else report(group))
    summary = run_groups([tuple(cells)], backend, heard, Options(cell_timeout=2.5))
    assert [(len(ids), limit) for ids, limit in backend.given] == [(4, 10.0), (2, 5.0), (2, 5.0), (1, 2.5), (1, 2.5)]
    each_s = "ran longer than hydra.launcher.cell_timeout=2.5 s and was ended"
    assert heard.split_[0][1] == f"timeout: {each_s} (4 cells have so many times that); it is halved"
    assert summary.outcomes[cells[0].id].words == f"failed (timeout): {each_s}"
    assert heard.put_back_ == [], "a timeout would come again"


def test_a_stack_that_came_to_no_end_is_halved(tmp_path: Path) -> None:
    """As when the device's memory is too small for all at once: it is not when they are fewer."""
    cells, heard = cells_in(tmp_path, 4), Heard()

    def does(group: Group) -> Answer:
        return report(group[:1]) if len(group) > 2 else report(group)

    backend = Backend(does)
    summary = run_groups([tuple(cells)], backend, heard)
    assert {ended.status.state for ended in summary.outcomes.values()} == {"done"}
    assert heard.split_ == [([cell.id for cell in cells[1:]], "its stack broke; it is halved")]
    assert [len(ids) for ids, _ in backend.given] == [4, 2, 1]


def test_a_result_that_a_broken_stack_left_counts(tmp_path: Path) -> None:
    """Its process was killed between the result and the status."""
    cells, heard = cells_in(tmp_path, 3), Heard()

    def does(group: Group) -> Answer:
        if len(group) < 3:
            return report(group)
        records.write_result(cells[0].directory, {"metrics": {}, "clocks": {}})
        return kill()

    summary = run_groups([tuple(cells)], Backend(does), heard)
    assert summary.outcomes[cells[0].id].words == "done"
    assert [ids for ids, _ in heard.split_] == [[cells[1].id, cells[2].id]]


def test_a_stack_that_never_began_goes_first_again(tmp_path: Path) -> None:
    cells, heard = cells_in(tmp_path, 3), Heard()
    answers = [BrokenProcessPool(), None, None]
    backend = Backend(lambda group: answers.pop(0) or report(group))
    run_groups([tuple(cells[:2]), (cells[2],)], backend, heard, Options(retries=0))
    ids = [cell.id for cell in cells]
    assert [given for given, _ in backend.given] == [ids[:2], ids[:2], ids[2:]]
    assert heard.split_ == [(ids[:2], "its process died before it began")]


def test_workers_that_always_die_leave_all_cells(tmp_path: Path) -> None:
    cells, heard = cells_in(tmp_path, 5), Heard()
    backend = Backend(lambda _: BrokenProcessPool())

    def worse() -> None:
        for pool in backend.pools:
            pool.failed_starts += 1

    heard.at_tick = worse
    summary = run_groups([tuple(cells[:3]), tuple(cells[3:])], backend, heard)
    assert [cell.id for cell in summary.left] == [cell.id for cell in cells]
    assert heard.messages == ["worker processes die before they can begin; the sweep is given up"]


# -- single cells of a stack -------------------------------------------------------------------------------------------


def test_a_member_that_fails_costs_itself_alone(tmp_path: Path) -> None:
    cells, heard = cells_in(tmp_path, 3), Heard()
    backend = Backend(lambda group: report(group, **{cells[1].id: failed(cells[1])}))
    summary = run_groups([tuple(cells)], backend, heard)
    assert [summary.outcomes[cell.id].status.state for cell in cells] == ["done", "failed", "done"]
    assert len(backend.given) == 1


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_member_whose_memory_ran_out_is_tried_again_alone(tmp_path: Path, retries: int) -> None:
    cells, heard = cells_in(tmp_path, 4), Heard()
    hungry = {cells[1].id: failed(cells[1], "out-of-memory")}
    backend = Backend(lambda group: report(group, **hungry) if cells[1] in group else report(group))
    summary = run_groups([tuple(cells[:3]), (cells[3],)], backend, heard, Options(retries=retries), at_once=2)
    assert summary.outcomes[cells[1].id].status.kind == "out-of-memory"
    ids = [cell.id for cell in cells]
    assert [given for given, _ in backend.given] == [ids[:3], ids[3:], *[[ids[1]]] * retries]
    assert len(status_of(cells[1]).retried if retries else ()) == retries


def test_busy_members_come_back_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "BUSY_S", (0.02, 0.04))
    cells, heard = cells_in(tmp_path, 5), HeardBusy()
    tries: Counter[str] = Counter()

    def how(cell: Cell) -> Any:
        tries[cell.id] += 1
        waiting = cell in (cells[1], cells[3]) and tries[cell.id] < 3
        return busy(cell) if waiting else done(cell)

    backend = Backend(lambda group: report(group, how))
    summary = run_groups([tuple(cells[:4]), (cells[4],)], backend, heard)
    assert {ended.status.state for ended in summary.outcomes.values()} == {"done"}
    ids = [cell.id for cell in cells]
    pair = [ids[1], ids[3]]
    assert [given for given, _ in backend.given] == [ids[:4], ids[4:], pair, pair]
    assert heard.put_back_ == [(ids[1], "waits for a stage")], "said once"


def test_after_giving_up_nothing_of_a_stack_is_put_back(tmp_path: Path) -> None:
    cells, heard = cells_in(tmp_path, 6), HeardBusy()

    def does(group: Group) -> Report:
        return Report({cells[0].id: failed(cells[0]), cells[1].id: busy(cells[1]), cells[2].id: done(cells[2])}, ())

    backend = Backend(does)
    summary = run_groups([tuple(cells[:4]), tuple(cells[4:])], backend, heard, Options(fail_fast=True))
    assert len(backend.given) == 1
    assert summary.outcomes.keys() == {cells[0].id, cells[2].id}
    assert "fail_fast: no further cell is started" in heard.messages


def test_a_stack_that_breaks_after_the_sweep_was_given_up_is_left(tmp_path: Path) -> None:
    cells, heard = cells_in(tmp_path, 5), Heard()
    backend = Backend(lambda group: report(group, failed) if cells[0] in group else None)

    def at_tick() -> None:
        if heard.ended_ and not backend.futures[1].done():
            backend.futures[1].set_exception(kill())

    heard.at_tick = at_tick
    groups = [(cells[0],), (cells[1], cells[2]), (cells[3], cells[4])]
    summary = run_groups(groups, backend, heard, Options(fail_fast=True), at_once=2)
    assert len(backend.given) == 2
    assert [cell.id for cell in summary.left] == [cell.id for cell in (*cells[3:], *cells[1:3])]
    assert {status_of(cell).state for cell in cells[1:3]} == {"interrupted"}


def test_with_fail_fast_a_cell_that_still_runs_is_not_tried_again_though_none_waits(tmp_path: Path) -> None:
    cells, heard = cells_in(tmp_path, 2), Heard()
    backend = Backend(lambda group: report(group, failed) if cells[0] in group else None)

    def at_tick() -> None:
        if heard.ended_ and not backend.futures[1].done():
            backend.futures[1].set_exception(kill())

    heard.at_tick = at_tick
    run_groups([(cells[0],), (cells[1],)], backend, heard, Options(fail_fast=True), at_once=2)
    assert len(backend.given) == 2


# -- ends that are seen while a stack goes on --------------------------------------------------------------------------


def test_ends_are_told_while_the_others_go_on_and_told_once(tmp_path: Path) -> None:
    cells, heard = cells_in(tmp_path, 5), Heard()
    old = records.Status("failed", cells[3].id, kind="exception", cause="of an earlier command", updated=1.0)

    def does(group: Group) -> Answer:
        records.write_status(cells[3].directory, old)
        finish(cells[0])
        finish(cells[1], "failed", "diverged")
        finish(cells[2], "failed", "out-of-memory")  # whether it was ours only the worker knows
        finish(cells[4], "running")
        return None

    def at_tick() -> None:
        if len(heard.ended_) == 2 and not backend.futures[0].done():
            words.update({key: ended.words for key, ended in heard.ended_.items()})
            group = [cell for cell in cells if cell is not cells[2]]
            backend.futures[0].set_result(report(group, **{cells[2].id: failed(cells[2], "out-of-memory")}))

    words: dict[str, str] = {}
    backend = Backend(does)
    heard.at_tick = at_tick
    summary = run_groups([tuple(cells)], backend, heard, Options(retries=0))
    assert words == {cells[0].id: "done  test/acc 0.2500  3.0 s", cells[1].id: "failed: diverged"}
    assert summary.outcomes[cells[0].id].words == words[cells[0].id], "not what the report says"
    assert [summary.outcomes[cell.id].status.state for cell in cells] == ["done", "failed", "failed", "done", "done"]


def test_what_ended_before_a_stack_broke_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "LOOK_S", 60.0)
    cells, heard = cells_in(tmp_path, 4), Heard()

    def does(group: Group) -> Answer:
        if len(group) < 4:
            return report(group)
        finish(cells[0])
        finish(cells[1], "failed", "exception")
        return kill()

    summary = run_groups([tuple(cells)], Backend(does), heard)
    assert [summary.outcomes[cell.id].status.state for cell in cells] == ["done", "failed", "done", "done"]
    assert [ids for ids, _ in heard.split_] == [[cells[2].id, cells[3].id]]


@pytest.mark.parametrize("all_gone", [True, False])
def test_a_stack_whose_process_ended_without_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_gone: bool
) -> None:
    """It is lost when all that was written of it is; another command's cell that is gone says nothing."""
    monkeypatch.setattr(scheduler, "LOST_S", 0.02)
    cells, heard = cells_in(tmp_path, 3), Heard()

    def does(group: Group) -> Answer:
        if len(group) < 3:
            return report(group)
        for cell in cells[:2]:
            finish(cell, "running")  # the third has not begun
        backend.lost = {cells[0].id, cells[2].id} | ({cells[1].id} if all_gone else set())
        return None

    ticks: list[int] = []

    def at_tick() -> None:
        ticks.append(1)
        if len(ticks) == 30 and not all_gone:
            backend.futures[0].set_result(report(cells))

    heard.at_tick = at_tick
    backend = Backend(does)
    summary = run_groups([tuple(cells)], backend, heard)
    assert {ended.status.state for ended in summary.outcomes.values()} == {"done"}
    gone = [([cell.id for cell in cells], "signal: its process ended with exit code 0; it is halved")]
    assert heard.split_ == (gone if all_gone else [])


# -- stopping ----------------------------------------------------------------------------------------------------------


def signalled(
    tmp_path: Path, numbers: list[int], then: Callable[[Backend, list[Cell]], None]
) -> tuple[Backend, Heard, Any]:
    """A group of three, of which one has ended when the signals come, and one cell more."""
    cells, heard = cells_in(tmp_path, 4), Heard()
    backend = Backend(lambda _: None)
    backend.at_end = lambda: finish(cells[1], "failed", "exception")  # it came first
    left = list(numbers)

    def at_tick() -> None:
        if not heard.ended_:
            finish(cells[0])
        elif left:
            os.kill(os.getpid(), left.pop(0))
        elif not backend.futures[0].done():
            then(backend, cells)

    heard.at_tick = at_tick
    return backend, heard, run_groups([tuple(cells[:3]), (cells[3],)], backend, heard)


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_cells_of_a_stack_that_is_ended_are_interrupted(tmp_path: Path, numbers: list[int]) -> None:
    backend, _, summary = signalled(tmp_path, numbers, lambda *_: None)
    assert summary.stopped
    cells = cells_in(tmp_path, 4)
    assert [cell.id for cell in summary.left] == [cells[3].id]
    assert [summary.outcomes[cell.id].status.state for cell in cells[:3]] == ["done", "failed", "interrupted"]
    assert [status_of(cell).cause for cell in cells[1:3]] == ["exception", "stopped by the user"]
    assert backend.events[-2:] == ["end", "close"]


@pytest.mark.parametrize("killed", [False, True])
def test_cells_of_a_stack_save_themselves(tmp_path: Path, killed: bool) -> None:
    """Or their worker got the signal too.  One that is busy is not waited for any more."""

    def save(backend: Backend, cells: list[Cell]) -> None:
        for cell in cells[1:3]:
            finish(cell, "interrupted")
        if killed:
            backend.futures[0].set_exception(kill())
        else:
            backend.futures[0].set_result(
                report(cells[:3], lambda cell: failed(cell) if cell is cells[0] else saved(cell))
            )

    def saved(cell: Cell) -> CellOutcome:
        waits = cell.id == f"{2:010x}"
        return CellOutcome(records.Status("interrupted", cell.id), "interrupted: saved", busy=waits)

    backend, heard, summary = signalled(tmp_path, [signal.SIGINT], save)
    assert summary.stopped
    assert backend.events == ["stop", "close"]
    assert len(backend.given) == 1
    assert [ended.status.state for ended in summary.outcomes.values()] == ["done", "interrupted", "interrupted"]
    assert heard.messages == ["stopping: 2 running cells save themselves; Ctrl-C again ends them at once"]
    assert heard.split_ == []
