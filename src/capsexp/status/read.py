"""A snapshot of a sweep's folder: every planned cell with its state and its status."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from capsexp import fit_progress, records
from capsexp.analysis import results
from capsexp.analysis.cells import Cell, is_number

STATES = ("done", "running", "failed", "interrupted", "pending", "stale", "corrupt")
"""The states of a planned cell, in the order in which counts are shown."""


@dataclass(frozen=True)
class Snapshot:
    """A sweep's folder at one moment.

    Attributes:
        directory: the folder.
        sweep: its plan.
        cells: the planned cells in the plan's order, each in one of :data:`STATES`.
        statuses: the readable statuses by cell id.
        orphans: names of cell directories that are not in the plan.
        now: time of the snapshot in seconds since 1970.
        progress: the progress of those running cells that have begun a fit, by cell id.
    """

    directory: Path
    sweep: records.Sweep
    cells: list[Cell]
    statuses: dict[str, records.Status]
    orphans: list[str]
    now: float
    progress: dict[str, fit_progress.FitProgress] = field(default_factory=dict)


def read(directory: Path) -> Snapshot:
    """Read a sweep's folder.

    Raises:
        ReportError: the folder has no plan of a sweep.
        OSError: the folder itself or its plan cannot be read.
    """
    sweep = _plan(directory)
    found = records.cell_directories(directory)
    cells = [_cell(planned, found.get(planned.id)) for planned in sweep.cells]
    planned_ids = {cell.id for cell in cells}
    statuses = _statuses(cells)
    return Snapshot(
        directory=directory,
        sweep=sweep,
        cells=cells,
        statuses=statuses,
        orphans=sorted(path.name for identifier, path in found.items() if identifier not in planned_ids),
        now=time.time(),
        progress=_progress(cells, statuses),
    )


def _plan(directory: Path) -> records.Sweep:
    return results.plan(directory)


def _cell(planned: records.PlannedCell, directory: Path | None) -> Cell:
    try:
        cell = results.read_cell(planned, directory)
    except Exception as error:  # one cell that cannot be read must not hide the others
        cause = f"cannot be read: {type(error).__name__}: {error}"
        return Cell(planned.id, planned.name, planned.axes, "corrupt", cause, directory, None)
    if cell.state == "missing":
        return replace(cell, state="pending")
    if cell.state not in STATES:
        return replace(cell, state="corrupt", cause=f"its status has the unknown state {cell.state!r}")
    return cell


def _statuses(cells: Iterable[Cell]) -> dict[str, records.Status]:
    found = {cell.id: _status(cell.directory) for cell in cells if cell.directory}
    return {identifier: status for identifier, status in found.items() if status}


def _status(directory: Path) -> records.Status | None:
    try:
        return records.read_status(directory)
    except Exception:  # _cell has reported the error already
        return None


def _progress(cells: Iterable[Cell], statuses: dict[str, records.Status]) -> dict[str, fit_progress.FitProgress]:
    running = [(cell.id, cell.directory) for cell in cells if cell.state == "running" and cell.directory]
    found = {key: fit_progress.of_running(directory, statuses.get(key)) for key, directory in running}
    return {key: fit for key, fit in found.items() if fit is not None}


def finite(value: object) -> float | None:
    """A number from a file; None for NaN, infinities and other values."""
    try:
        number = float(value) if is_number(value) else math.nan  # type: ignore[arg-type]
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
