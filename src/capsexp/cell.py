"""One cell's life: lock, status, resume, atomic result.

It holds under any launcher: whoever runs a cell calls :func:`run`, and the cell's own directory decides what is left
to do.  Nothing but a KeyboardInterrupt or an exit leaves it; a failure is written down and returned.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from capsexp import records
from capsexp.errors import ConfigError

log = logging.getLogger(__name__)

SCORES = ("test/acc", "test/loss")
"""Metrics shown in a cell's closing line, where they exist."""


@dataclass(frozen=True)
class Cell:
    """One point of a sweep.

    Attributes:
        directory: where everything about it lies.
        id: its identity.
        axes: the swept values.
        config: its resolved config.
        in_sweep: whether it runs as one of many.
    """

    directory: Path
    id: str
    axes: dict[str, Any]
    config: dict[str, Any]
    in_sweep: bool = False


def run(cell: Cell) -> tuple[records.Status, float | None]:
    """Run a cell unless it is finished or running elsewhere.

    Returns:
        The cell's status afterwards, and the selection split's accuracy.

    Raises:
        KeyboardInterrupt: the user stopped it; its status says so.
    """
    cell.directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cell.directory / ".lock", blocking=False)
    try:
        with lock:
            return _run_locked(cell)
    except Timeout:
        status = records.read_status(cell.directory) or records.Status("running", cell.id)
        log.info("%s  is being run by process %s on %s", cell.directory.name, status.pid, status.host)
        return status, None


def _run_locked(cell: Cell) -> tuple[records.Status, float | None]:
    result = records.read_result(cell.directory)
    if result is not None:
        return _already_done(cell, result)
    status = records.Status("running", cell.id)
    records.write_status(cell.directory, status)
    _clear_unless_resumable(cell.directory)
    records.write_text(cell.directory / records.CONFIG, yaml.safe_dump(cell.config, sort_keys=False))
    with _log_file(cell.directory / records.LOG):
        status = _work(cell, status)
    records.write_status(cell.directory, status)
    result = records.read_result(cell.directory)
    if cell.in_sweep or not records.is_user_error(status):  # of a single cell, the command says it
        log.info("%s  %s", cell.directory.name, _closing_words(status, result))
    return status, _score(result)


def _already_done(cell: Cell, result: dict[str, Any]) -> tuple[records.Status, float | None]:
    status = records.read_status(cell.directory)
    if status is None or status.state != "done":  # killed between the result and the status
        status = records.Status("done", cell.id)
        records.write_status(cell.directory, status)
    age = "stale: its numbers come from older code" if records.is_stale(result) else "already done"
    log.info("%s  %s, not run again", cell.directory.name, age)
    return status, _score(result)


def _clear_unless_resumable(directory: Path) -> None:
    """Remove what an earlier try left, unless there is a checkpoint to go on from."""
    for leftover in directory.rglob(".*.????????"):  # a temporary file of a process that was killed while writing
        leftover.unlink(missing_ok=True)
    if (directory / records.RESUME_CHECKPOINT).exists():
        log.info("%s  goes on from its checkpoint", directory.name)
        return
    for name in (records.METRICS, records.ARRAYS, records.RESULT):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)


def _work(cell: Cell, status: records.Status) -> records.Status:
    """Do the work and write the result; every way in which that can end has its status."""
    try:
        from capsexp import build  # imports torch, which a finished cell does not need

        started = time.perf_counter()
        body = build.run(cell.config, cell.directory, in_sweep=cell.in_sweep, cell_id=cell.id, axes=cell.axes)
        body["clocks"]["total_s"] = time.perf_counter() - started
        records.write_result(cell.directory, {"id": cell.id, "name": cell.directory.name, "axes": cell.axes, **body})
        (cell.directory / records.RESUME_CHECKPOINT).unlink(missing_ok=True)
        return status.now("done")
    except (KeyboardInterrupt, SystemExit):
        records.write_status(cell.directory, status.now("interrupted", "stopped by the user"))
        raise KeyboardInterrupt from None
    except ConfigError as error:
        return status.now("failed", f"{records.USER_ERROR}: {error}")
    except Exception as error:
        logging.getLogger("capsexp.trace").exception("the cell failed")
        line = " ".join(str(error).split())[:300]
        return status.now("failed", f"{type(error).__name__}: {line}")


def _closing_words(status: records.Status, result: dict[str, Any] | None) -> str:
    if status.state != "done" or result is None:
        return f"{status.state}: {status.cause}"
    metrics = result["metrics"]
    shown = [f"{name} {metrics[name]:.4f}" for name in SCORES if metrics.get(name) is not None]
    return "  ".join(["done", *shown, f"{result['clocks']['total_s']:.1f} s"])


def _score(result: dict[str, Any] | None) -> float | None:
    return None if result is None else result["metrics"].get("val/acc")


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Everything that is logged while the cell runs also goes into its own file; tracebacks go only there."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, trace = logging.getLogger(), logging.getLogger("capsexp.trace")
    trace.propagate = False
    for logger in (root, trace):
        logger.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger in (root, trace):
            logger.removeHandler(handler)
        handler.close()
