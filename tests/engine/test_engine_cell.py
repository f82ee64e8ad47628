"""How a try at a cell ends: kinds of causes, what is left alone, and what is settled for a dead process."""

import errno
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import capsexp
from capsexp import cell as cell_life
from capsexp import records
from capsexp.cell import Cell
from capsexp.errors import ConfigError, StageBusy
from tests.engine.sweeps import cells_in, status_of

Recipe = Callable[..., dict[str, Any]]


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


class OddOutOfMemoryError(Exception):
    """Not named as torch's is."""


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return cells_in(tmp_path, 1)[0]


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recipe], None]:
    """Sets what ``build.run`` does; torch is not needed for it."""

    def set_to(does: Recipe) -> None:
        fake: Any = types.ModuleType("capsexp.build")
        fake.run = does
        monkeypatch.setitem(sys.modules, "capsexp.build", fake)
        monkeypatch.setattr(capsexp, "build", fake, raising=False)

    set_to(lambda *_, **__: {"numerics": 1, "metrics": {"val/acc": 0.75, "test/acc": 0.5}, "clocks": {}})
    return set_to


def raising(error: BaseException, cause: BaseException | None = None) -> Recipe:
    def does(*_: object, **__: object) -> dict[str, Any]:
        raise error from cause

    return does


def while_handling(first: BaseException, then: BaseException) -> Recipe:
    def does(*_: object, **__: object) -> dict[str, Any]:
        try:
            raise first
        except type(first):
            raise then  # noqa: B904 - the point

    return does


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("does", "kind", "cause"),
    [
        (raising(ConfigError("model.c2", "be odd", 4)), "config", "ConfigError: model.c2 must be odd, got 4"),
        (raising(ConfigError("k", "fit", 1), MemoryError()), "config", "ConfigError: k must fit, got 1"),
        (raising(MemoryError()), "out-of-memory", "MemoryError: "),
        (raising(OutOfMemoryError("11 GiB")), "out-of-memory", "OutOfMemoryError: 11 GiB"),
        (raising(OddOutOfMemoryError("out of memory")), "exception", "OddOutOfMemoryError: out of memory"),
        (raising(RuntimeError("CUDA out of memory.")), "out-of-memory", "RuntimeError: CUDA out of memory."),
        (
            raising(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")),
            "out-of-memory",
            "RuntimeError: CUBLAS_STATUS_ALLOC_FAILED",
        ),
        (
            raising(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")),
            "out-of-memory",
            "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory",
        ),
        (raising(FULL), "disk", "OSError: [Errno 28] No space left on device"),
        (raising(OSError(errno.EFBIG, "File too large")), "disk", f"OSError: [Errno {errno.EFBIG}] File too large"),
        (raising(OSError(errno.EDQUOT, "Quota")), "disk", f"OSError: [Errno {errno.EDQUOT}] Quota"),
        (raising(OSError(errno.EACCES, "No")), "exception", "PermissionError: [Errno 13] No"),
        (
            raising(RuntimeError("PytorchStreamWriter failed writing file data/4")),
            "disk",
            "RuntimeError: PytorchStreamWriter failed writing file data/4",
        ),
        (raising(ValueError("on\n  two\nlines")), "exception", "ValueError: on two lines"),
        (raising(ValueError("x" * 999)), "exception", f"ValueError: {'x' * 300}"),
        (raising(ValueError("saving"), FULL), "disk", "ValueError: saving"),
        (raising(ValueError("step"), MemoryError()), "out-of-memory", "ValueError: step"),
        (while_handling(MemoryError(), ValueError("tidying")), "out-of-memory", "ValueError: tidying"),
        (while_handling(KeyError("a"), ValueError("b")), "exception", "ValueError: b"),
    ],
)
def test_kinds_of_failures(
    cell: Cell, recipe: Callable[[Recipe], None], does: Recipe, kind: records.Kind, cause: str
) -> None:
    recipe(does)
    ended = cell_life.run(cell)
    assert (ended.status.state, ended.status.kind, ended.status.cause) == ("failed", kind, cause)
    assert status_of(cell) == ended.status
    shown = "" if kind in ("config", "exception") else f" ({kind})"
    assert ended.words == f"failed{shown}: {cause}"
    assert (ended.busy, ended.ran, ended.score) == (False, True, None)
    assert "Traceback" in (cell.directory / records.LOG).read_text()
    assert records.is_user_error(ended.status) == (kind == "config")


def test_a_cell_that_is_done(cell: Cell, recipe: Callable[[Recipe], None]) -> None:
    recipe(lambda *_, **__: {"numerics": 1, "metrics": {"val/acc": 0.75}, "clocks": {}, "gpu": {"peak_bytes": 1}})
    ended = cell_life.run(cell)
    assert (ended.status.state, ended.score, ended.busy, ended.ran) == ("done", 0.75, False, True)
    assert ended.gpu == {"peak_bytes": 1}
    recipe(raising(AssertionError("not again")))
    again = cell_life.run(cell)
    assert (again.status.state, again.score, again.ran, again.gpu) == ("done", 0.75, False, None)
    assert again.words == "already done, not run again"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_a_stop_is_written_down_and_goes_on_up(
    cell: Cell, recipe: Callable[[Recipe], None], error: BaseException
) -> None:
    recipe(raising(error))
    with pytest.raises(KeyboardInterrupt):
        cell_life.run(cell)
    status = status_of(cell)
    assert (status.state, status.cause) == ("interrupted", "stopped by the user")


def test_a_cell_that_waits_for_a_stage_is_busy(cell: Cell, recipe: Callable[[Recipe], None]) -> None:
    recipe(raising(StageBusy("the encoder is being trained")))
    ended = cell_life.run(cell)
    assert (ended.busy, ended.ran) == (True, True)
    assert (status_of(cell).state, status_of(cell).kind) == ("pending", None)
    assert status_of(cell).cause == "waits for a stage: the encoder is being trained"


@pytest.mark.parametrize("known", [False, True])
def test_a_locked_cell_is_busy(cell: Cell, recipe: Callable[[Recipe], None], known: bool) -> None:
    recipe(raising(AssertionError("not run")))
    cell.directory.mkdir()
    if known:
        records.write_status(cell.directory, records.Status("running", cell.id, pid=1, host="other", born=0))
    with FileLock(cell.directory / records.LOCK):
        ended = cell_life.run(cell)
    assert (ended.busy, ended.ran) == (True, False)
    assert not known or ended.words == "is being run by process 1 on other"


def test_a_directory_that_cannot_be_made_is_a_failure(cell: Cell, recipe: Callable[[Recipe], None]) -> None:
    cell.directory.write_text("a file in the way")
    ended = cell_life.run(cell)
    assert (ended.status.state, ended.status.kind) == ("failed", "exception")


# -- failures of other launches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed_at", "runs"), [(None, True), ("as recorded", True), (0.0, False), ("an earlier one", False)]
)
def test_a_failure_that_another_launch_recorded_is_left_alone(
    cell: Cell, recipe: Callable[[Recipe], None], failed_at: float | str | None, runs: bool
) -> None:
    recorded = records.Status("running", cell.id).now("failed", "it did not work", "exception")
    cell.directory.mkdir()
    records.write_status(cell.directory, recorded)
    known = {"as recorded": recorded.updated, "an earlier one": recorded.updated - 1}
    at = known[failed_at] if isinstance(failed_at, str) else failed_at
    ended = cell_life.run(replace(cell, failed_at=at))
    assert ended.ran == runs
    assert ended.status.state == ("done" if runs else "failed")
    if not runs:
        assert ended.words == "failed before, not tried again: it did not work"
        assert status_of(cell) == recorded


@pytest.mark.parametrize("state", ["interrupted", "pending"])
def test_what_has_not_failed_is_run_whatever_was_asked_to_be_tried_again(
    cell: Cell, recipe: Callable[[Recipe], None], state: records.State
) -> None:
    cell.directory.mkdir()
    records.write_status(cell.directory, records.Status(state, cell.id))
    assert cell_life.run(replace(cell, failed_at=0.0)).status.state == "done"


# -- finished and settle -----------------------------------------------------------------------------------------------


def result_of(cell: Cell, numerics: int = records.NUMERICS_VERSION) -> None:
    cell.directory.mkdir(exist_ok=True)
    records.write_result(cell.directory, {"numerics": numerics, "metrics": {"val/acc": 0.5}, "clocks": {}})


@pytest.mark.parametrize("state", [None, "failed", "interrupted", "pending"])
def test_a_whole_result_makes_a_cell_finished(cell: Cell, state: records.State | None) -> None:
    result_of(cell)
    if state:
        records.write_status(cell.directory, records.Status(state, cell.id))
    ended = cell_life.finished(cell)
    assert ended is not None
    assert (ended.status.state, ended.score, ended.ran) == ("done", 0.5, False)
    assert status_of(cell).state == "done"


def test_finished_or_not(cell: Cell) -> None:
    assert cell_life.finished(cell) is None
    assert not cell.directory.exists()
    result_of(cell, numerics=0)
    stale = cell_life.finished(cell)
    assert stale is not None
    assert stale.words == "stale (its numbers come from older code), not run again without sweep.rerun=stale"
    path = cell.directory / records.RESULT
    path.write_text(path.read_text().replace("0.5", "0.6"))
    assert cell_life.finished(cell) is None


def test_settle_says_how_a_cell_ended(cell: Cell) -> None:
    cell.directory.mkdir()
    begun = records.Status("running", cell.id, pid=7, started=5.0)
    records.write_status(cell.directory, begun)
    settled = cell_life.settle(cell, "failed", "killed", "signal")
    assert (settled.state, settled.cause, settled.kind) == ("failed", "killed", "signal")
    assert (settled.pid, settled.started) == (7, 5.0)
    assert settled.updated == pytest.approx(time.time(), abs=60)
    assert replace(status_of(cell), updated=settled.updated) == settled
    assert (cell.directory / records.LOG).read_text().endswith(" failed: killed\n")


def test_settle_knows_a_cell_that_never_began(cell: Cell) -> None:
    cell.directory.mkdir()
    assert cell_life.settle(cell, "interrupted", "stopped by the user").state == "interrupted"
    assert status_of(cell).id == cell.id


def test_settle_keeps_the_causes_of_earlier_tries(cell: Cell, recipe: Callable[[Recipe], None]) -> None:
    cell.directory.mkdir()
    for cause in ("first", "second"):
        cell_life.settle(cell, "pending", cause)
    assert status_of(cell).retried == ("first", "second")
    assert (status_of(cell).state, status_of(cell).cause) == ("pending", "second")
    cell_life.settle(cell, "failed", "third", "signal")
    assert status_of(cell).retried == ("first", "second")
    cell_life.settle(cell, "pending", "third")
    assert cell_life.run(cell).status.retried == ("first", "second", "third")


def test_a_new_command_starts_a_new_count_of_tries(cell: Cell, recipe: Callable[[Recipe], None]) -> None:
    cell.directory.mkdir()
    cell_life.settle(cell, "pending", "first")
    cell_life.settle(cell, "failed", "second", "signal")
    assert cell_life.run(cell).status.retried == ()


def test_settle_leaves_a_whole_result_done(cell: Cell) -> None:
    result_of(cell)
    records.write_status(cell.directory, records.Status("running", cell.id, boot="before the machine's last start"))
    assert cell_life.settle(cell, "failed", "killed", "signal").state == "done"
    assert status_of(cell).state == "done"
    assert not (cell.directory / records.LOG).exists()


def test_settle_leaves_a_cell_that_another_process_has(cell: Cell) -> None:
    cell.directory.mkdir()
    records.write_status(cell.directory, records.Status("running", cell.id))
    with FileLock(cell.directory / records.LOCK):
        settled = cell_life.settle(cell, "failed", "killed", "signal")
    assert settled.state == "failed"
    assert status_of(cell).state == "running"


def test_settle_does_without_a_directory(cell: Cell) -> None:
    assert cell_life.settle(cell, "failed", "killed", "signal").cause == "killed"
