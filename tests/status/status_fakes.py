"""Fake sweeps in every state, written through ``records`` as real ones are."""

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from capsexp import records
from tests.conftest import plan

RUN = [sys.executable, "-W", "error", "-m", "capsexp.status"]
"""The command in a process of its own."""

SHOWN_AS = {
    "done": "done",
    "running": "running",
    "failed": "failed",
    "interrupted": "interrupted",
    "dead": "interrupted",
    "pending": "pending",
    "missing": "pending",
    "empty": "pending",
    "stale": "stale",
    "corrupt": "corrupt",
    "half": "corrupt",
    "unreadable": "corrupt",
    "odd": "corrupt",
    "other schema": "pending",
}
"""What can be on disk of a cell, and what it counts as."""


def body(cell: records.PlannedCell, value: float | None = 0.5, seconds: float = 10.0, **changes: Any) -> dict[str, Any]:
    """A whole result."""
    return {
        "id": cell.id,
        "axes": cell.axes,
        "numerics": records.NUMERICS_VERSION,
        "metrics": {"test/acc": value, "test/loss": 2.5},
        "clocks": {"total_s": seconds},
        **changes,
    }


def finish(root: Path, cell: records.PlannedCell, value: float | None = 0.5, seconds: float = 10.0) -> None:
    """Write a finished cell."""
    records.write_result(root / cell.name, body(cell, value, seconds))
    records.write_status(root / cell.name, records.Status("done", cell.id))


def fail(root: Path, cell: records.PlannedCell, cause: str = "RuntimeError: no", tries: int = 0) -> None:
    """Write a failed cell with its log."""
    status = replace(records.Status("failed", cell.id), cause=cause, retried=("RuntimeError: no",) * tries)
    records.write_status(root / cell.name, status)
    (root / cell.name / records.LOG).write_text("Traceback\n")


def start(root: Path, cell: records.PlannedCell, ago: float = 0.0) -> None:
    """Write a cell that this process is running."""
    status = records.Status("running", cell.id)
    records.write_status(root / cell.name, replace(status, started=time.time() - ago))


def put(root: Path, cell: records.PlannedCell, what: str) -> None:
    """Write one of the things in :data:`SHOWN_AS`."""
    directory = root / cell.name
    match what:
        case "done":
            finish(root, cell)
        case "running":
            start(root, cell)
        case "failed":
            fail(root, cell)
        case "interrupted" | "pending":
            records.write_status(directory, records.Status(what, cell.id))
        case "dead":
            records.write_status(directory, replace(records.Status("running", cell.id), boot="another start"))
        case "stale":
            records.write_result(directory, body(cell, numerics=0))
        case "corrupt":
            records.write_status(directory, records.Status("done", cell.id))
        case "half":
            finish(root, cell)
            whole = (directory / records.RESULT).read_text()
            (directory / records.RESULT).write_text(whole[: len(whole) // 2])
        case "unreadable":  # as a missing permission, also for root
            (directory / records.STATUS).mkdir(parents=True)
        case "odd":
            records.write_json(directory / records.STATUS, {"schema": records.SCHEMA, "state": ["?"], "id": 3})
        case "other schema":
            records.write_json(directory / records.STATUS, {"schema": records.SCHEMA + 1, "state": "done"})
        case "empty":
            directory.mkdir(parents=True)


def sweep(
    root: Path, axes: Mapping[str, list[Any]], report: Mapping[str, Any] | None = None, age: float | None = None
) -> list[records.PlannedCell]:
    """Write a plan alone; ``age`` is how many seconds ago it was launched."""
    cells = plan(axes)
    launch = {} if age is None else {"time": time.time() - age}
    said = [f"{key}={','.join(map(str, values))}" for key, values in axes.items()]
    records.write_sweep(root, records.Sweep("fake", dict(axes), cells, said, dict(report or {}), launch))
    return cells


def filled(root: Path, contents: Iterable[str]) -> list[records.PlannedCell]:
    """A sweep of one axis with these contents, one cell each."""
    listed = list(contents)
    cells = sweep(root, {"model.c2": list(range(len(listed)))})
    for cell, what in zip(cells, listed, strict=True):
        put(root, cell, what)
    return cells
