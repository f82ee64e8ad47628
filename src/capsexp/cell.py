"""One cell from start to end: lock, status, resume, atomic result.

This holds under any launcher.  Every launcher calls :func:`run`, and the cell's own directory decides what is left to
do.  Only a KeyboardInterrupt is raised; any other failure is recorded and returned.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from capsexp import records
from capsexp.errors import NO_SPACE, ConfigError, Diverged, StageBusy, StartOver, ran_out_of_memory

log = logging.getLogger(__name__)

SCORES = ("test/acc", "test/loss")
"""Metrics shown in a cell's closing line, where they exist."""


@dataclass(frozen=True)
class Cell:
    """One point of a sweep.

    Attributes:
        directory: the folder that holds all its files.
        id: its identity.
        axes: the swept values.
        config: its resolved config.
        in_sweep: whether it is part of a sweep.
        failed_at: ``Status.updated`` of the failure that this run retries; 0 for none.  A cell that another launch has
            retried since is skipped.  None retries any failure.
    """

    directory: Path
    id: str
    axes: dict[str, Any]
    config: dict[str, Any]
    in_sweep: bool = False
    failed_at: float | None = None

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.directory.name


@dataclass(frozen=True)
class CellOutcome:
    """The outcome of one attempt to run a cell.

    Attributes:
        status: the cell's status after the attempt.
        words: the status as one line of text.
        score: the selection split's accuracy.
        busy: whether another process computes this cell or a stage that it needs, so that it must be retried later.
        ran: whether this attempt did any work.
        gpu: ``peak_bytes`` and ``total_bytes`` of the device's memory, where there is one.
    """

    status: records.Status
    words: str
    score: float | None = None
    busy: bool = False
    ran: bool = True
    gpu: dict[str, int] | None = None


def run(cell: Cell) -> CellOutcome:
    """Run a cell unless it is finished or running elsewhere.

    Raises:
        KeyboardInterrupt: the user stopped it; its status says so.
    """
    try:
        cell.directory.mkdir(parents=True, exist_ok=True)
        with _lock(cell.directory):
            return _run_locked(cell)
    except Timeout:
        status = records.read_status(cell.directory) or records.Status("running", cell.id)
        return CellOutcome(status, f"is being run by process {status.pid} on {status.host}", busy=True, ran=False)
    except OSError as error:  # not even its status can be written
        status = _failure(records.Status("running", cell.id), error)
        return CellOutcome(status, closing_words(status, None))


def finished(cell: Cell) -> CellOutcome | None:
    """The outcome of a finished cell; None if the cell still needs work."""
    result = records.read_result(cell.directory)
    if result is None:
        return None
    status = records.read_status(cell.directory)
    if status is None or status.state not in ("done", "running"):  # killed between the result and the status
        (cell.directory / records.RESUME_CHECKPOINT).unlink(missing_ok=True)
        status = records.Status("done", cell.id)
        records.write_status(cell.directory, status)
    stale = records.stale_cause(result)
    words = f"stale ({stale}), not run again without sweep.rerun=stale" if stale else "already done, not run again"
    return CellOutcome(status, words, score(result), ran=False)


def settle(cell: Cell, state: records.State, cause: str, kind: records.Kind | None = None) -> records.Status:
    """Record the outcome of a cell whose process has died; if that process left a result, the cell is done.

    The state ``pending`` counts as one more attempt that is to be repeated.
    """
    status = records.read_status(cell.directory) or records.Status(state, cell.id)
    try:
        with _lock(cell.directory):
            ended = finished(cell)
            if ended is not None:
                return ended.status
            status = status.now(state, cause, kind)
            if state == "pending":
                status = replace(status, retried=(*status.retried, cause))
            records.write_status(cell.directory, status)
            _forget_progress(cell.directory)
            with (cell.directory / records.LOG).open("a", encoding="utf-8") as stream:
                stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {state}: {cause}\n")
    except (Timeout, OSError) as error:  # another process has the cell now, or there is no space
        log.debug("%s: its status could not be written (%s)", cell.name, error)
    return status.now(state, cause, kind)


def _lock(directory: Path) -> FileLock:
    return FileLock(directory / records.LOCK, blocking=False)


def _run_locked(cell: Cell) -> CellOutcome:
    done = finished(cell)
    if done is not None:
        return done
    before = records.read_status(cell.directory)
    if before and before.state == "failed" and cell.failed_at not in (None, before.updated):
        return CellOutcome(before, f"failed before, not tried again: {before.cause}", ran=False)
    retried = before.retried if before and before.state == "pending" else ()
    status = records.Status("running", cell.id, retried=retried)
    try:
        _begin(cell, status)
        with _log_file(cell.directory / records.LOG), _heartbeat(cell.directory / records.LOCK):
            if resumes(cell.directory):
                log.info("%s  goes on from its checkpoint", cell.name)
            try:
                status = _work(cell, status)
            finally:
                _forget_progress(cell.directory)
    except Exception as error:  # its log cannot be opened, or a file of an earlier attempt stands in the way
        status = _failure(status, error)
    records.write_status(cell.directory, status)
    result = records.read_result(cell.directory) if status.state == "done" else None
    return CellOutcome(
        status,
        closing_words(status, result),
        score(result),
        busy=status.state == "pending",
        gpu=(result or {}).get("gpu"),
    )


def _begin(cell: Cell, status: records.Status) -> None:
    """Make the folder ready, with the status and the config of this attempt."""
    for name in (records.STATUS, records.CONFIG):
        if (cell.directory / name).is_dir():  # nothing of ours; a file could not replace it
            records.remove(cell.directory / name)
    records.write_status(cell.directory, status)
    code = records.own_code(cell.config)
    before = records.read_json(cell.directory / records.CODE)
    if before not in (None, code):
        log.warning("%s: the code of one's own modules has changed; the cell starts over", cell.name)
        records.remove(cell.directory / "checkpoints")
    _clear_unless_resumable(cell.directory)
    if code:
        records.write_json(cell.directory / records.CODE, code)
    records.write_text(cell.directory / records.CONFIG, yaml.safe_dump(cell.config, sort_keys=False))


def _forget_progress(directory: Path) -> None:
    """Remove what showed how far the running cell is."""
    with contextlib.suppress(OSError):
        records.remove(directory / records.PROGRESS)


def _clear_unless_resumable(directory: Path) -> None:
    """Remove the files of an earlier attempt except a checkpoint to resume from."""
    for leftover in directory.rglob(".*.????????"):  # a temporary file of a process that was killed while writing
        leftover.unlink(missing_ok=True)
    for name in (records.METRICS, records.ARRAYS, records.RESULT, records.BEST_CHECKPOINT, records.PROGRESS):
        records.remove(directory / name)
    if not resumes(directory):
        records.remove(directory / "checkpoints")


def resumes(directory: Path) -> bool:
    """True if the next attempt at a cell in this folder goes on from a checkpoint."""
    return os.path.lexists(directory / records.RESUME_CHECKPOINT)


def _work(cell: Cell, status: records.Status) -> records.Status:
    """Compute and write the result; return the status for each possible outcome."""
    try:
        from capsexp import build  # imports torch, which a finished cell does not need

        started = time.perf_counter()
        body = build.run(cell.config, cell.directory, in_sweep=cell.in_sweep, cell_id=cell.id, axes=cell.axes)
        # A resumed fit's seconds count those of earlier attempts.
        body["clocks"]["total_s"] = max(time.perf_counter() - started, body["clocks"].get("fit_s", 0.0))
        body = {"id": cell.id, "name": cell.name, "axes": cell.axes, **body}
        records.write_result(cell.directory, body, config=cell.config)
        (cell.directory / records.RESUME_CHECKPOINT).unlink(missing_ok=True)
        return status.now("done")
    except (KeyboardInterrupt, SystemExit):
        records.write_status(cell.directory, status.now("interrupted", "stopped by the user"))
        raise KeyboardInterrupt from None
    except StartOver:
        _clear_unless_resumable(cell.directory)
        return _work(cell, status)
    except StageBusy as error:
        return status.now("pending", f"waits for a stage: {error}")
    except Exception as error:
        trace = logging.getLogger("capsexp.trace")
        if isinstance(error, records.DamagedError | Diverged):  # their message needs no traceback
            trace.info("the cell failed: %s", error)
        else:
            trace.exception("the cell failed")
        return _failure(status, error)


def _failure(status: records.Status, error: Exception) -> records.Status:
    line = " ".join(str(error).split())
    name = type(error).__name__
    if isinstance(error, ConfigError):
        return status.now("failed", f"{name}: {line}", "config")
    if isinstance(error, Diverged):
        return status.now("failed", line, "diverged")
    return status.now("failed", f"{name}: {line[:300]}", _kind(error))


def _kind(error: BaseException) -> records.Kind:
    """The kind of failure of an exception; its causes are examined too."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        if (isinstance(seen, OSError) and seen.errno in NO_SPACE) or "PytorchStreamWriter failed" in text:
            return "disk"
        if ran_out_of_memory(seen):
            return "out-of-memory"
        seen = seen.__cause__ or seen.__context__
    return "exception"


def closing_words(status: records.Status, result: dict[str, Any] | None) -> str:
    """The outcome of a cell as one line of text."""
    if status.state != "done" or result is None:
        kind = f" ({status.kind})" if status.kind not in (None, "exception", "config", "diverged") else ""
        return f"{status.state}{kind}: {status.cause}"
    metrics = result["metrics"]
    shown = [f"{name} {metrics[name]:.4f}" for name in SCORES if metrics.get(name) is not None]
    return "  ".join(["done", *shown, f"{result['clocks']['total_s']:.1f} s"])


def score(result: dict[str, Any] | None) -> float | None:
    """The selection split's accuracy in a result."""
    return None if result is None else result["metrics"].get("val/acc")


_logging_to: ContextVar[Path | None] = ContextVar("logging_to", default=None)
"""The log file of the running cell; a process may have several cells open, but runs one at a time."""

_open_logs = 0
"""Number of open log files in this process; warnings are captured while it is not zero."""


class _LogFile(logging.FileHandler):
    """A log file without the lines of other cells; a full disk causes no traceback on the terminal."""

    def filter(self, record: logging.LogRecord) -> Any:
        """Keep the records that are logged while this cell runs, or while no cell runs."""
        return _logging_to.get() in (None, Path(self.baseFilename)) and super().filter(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Drop the record."""


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Copy all log records of the running cell into its own file; tracebacks go only there."""
    global _open_logs
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, trace = logging.getLogger(), logging.getLogger("capsexp.trace")
    trace.propagate = False
    for logger in (root, trace):
        logger.addHandler(handler)
    _open_logs += 1
    logging.captureWarnings(True)
    token = _logging_to.set(Path(handler.baseFilename))
    try:
        yield
    finally:
        _logging_to.reset(token)
        _open_logs -= 1
        logging.captureWarnings(_open_logs > 0)
        for logger in (root, trace):
            logger.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


@contextlib.contextmanager
def _heartbeat(lock: Path) -> Iterator[None]:
    """Touch the lock file regularly, so that other machines see that the cell is alive."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(records.HEARTBEAT_S):
            with contextlib.suppress(OSError):
                os.utime(lock)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
