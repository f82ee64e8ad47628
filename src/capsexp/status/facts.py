"""The facts about a sweep: counts, times, slow and failed cells."""

import heapq
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from capsexp import records
from capsexp.analysis.cells import Cell
from capsexp.analysis.results import command
from capsexp.status.left import age_of, left_of, seconds_of
from capsexp.status.read import STATES, Snapshot, finite

SLOWEST = 5
TO_DO = ("pending", "interrupted", "corrupt")
"""The states of cells that are left to run.  A failed cell is retried only when the command is given again."""
SETTLED = {"done", "failed", "stale"}
"""The final states of cells."""


@dataclass(frozen=True)
class CellTime:
    """A cell and its duration in seconds."""

    name: str
    seconds: float | None


@dataclass(frozen=True)
class RunningCell:
    """A running cell, and the fit that it runs now; see :class:`~capsexp.fit_progress.FitProgress`.

    Attributes:
        name: its directory's name.
        seconds: its running time so far.
        fit: name of the fit, empty for one in the cell's own folder; like all that follow, None before the first fit.
        epoch: finished epochs of the fit.
        max_epochs: their largest number.
        metric: the name of the metric that is shown.
        value: its value in the last epoch.
        epoch_s: seconds per epoch.
        left_s: the longest time until the fit ends, in seconds, without the time in which it waits for other stacks.
        ended: whether the fit has ended.
        history: path of the fit's ``metrics.csv``.
        line: the facts of the fit as text; empty before the first fit.
    """

    name: str
    seconds: float | None
    fit: str | None = None
    epoch: int | None = None
    max_epochs: int | None = None
    metric: str | None = None
    value: float | None = None
    epoch_s: float | None = None
    left_s: float | None = None
    ended: bool | None = None
    history: str | None = None
    line: str = ""


@dataclass(frozen=True)
class Failure:
    """A failed or corrupt cell.

    Attributes:
        name: its directory's name.
        state: failed or corrupt.
        cause: why, in one line.
        retried: number of earlier attempts that the launcher put back into its queue.
        log: path of its log, if there is one.
    """

    name: str
    state: str
    cause: str
    retried: int
    log: str | None


@dataclass(frozen=True)
class Facts:
    """The output of ``--json``; times are in seconds, None if unknown.

    Attributes:
        sweep: name of the sweep.
        folder: its folder.
        command: the command that launched it; empty for single cells.
        planned: number of cells in the plan.
        counts: number of cells in each state that occurs; the sum is ``planned``.
        orphans: names of cell directories that are not in the plan.
        settled: whether no cell is left to run.
        since: time of its launch in seconds since 1970.
        elapsed_s: time from the launch until now, or until the last cell ended if none is running.
        cell_s: mean seconds of a finished cell.
        cells_s: total seconds of all finished cells.
        left_s: expected seconds of the remaining cells, one at a time.
        eta_s: expected seconds until the end with the present number of concurrent cells; None if none is running.
        running: running cells, and how far they are.
        slowest: the finished cells with the longest durations.
        failures: failed and corrupt cells.
        stale: number of stale cells by cause.
    """

    sweep: str
    folder: str
    command: str
    planned: int
    counts: dict[str, int]
    orphans: list[str]
    settled: bool
    since: float | None
    elapsed_s: float | None
    cell_s: float | None
    cells_s: float
    left_s: float | None
    eta_s: float | None
    running: list[RunningCell]
    slowest: list[CellTime]
    failures: list[Failure]
    stale: dict[str, int]


def facts(snapshot: Snapshot) -> Facts:
    """All facts about a snapshot, except the heat map."""
    states = Counter(cell.state for cell in snapshot.cells)
    counts = {state: states[state] for state in STATES if states[state]}
    took = [(cell.name, seconds) for cell in snapshot.cells if (seconds := seconds_of(cell)) is not None]
    running = [_running(cell, snapshot) for cell in snapshot.cells if cell.state == "running"]
    cell_s = fmean(seconds for _, seconds in took) if took else None
    left_s, eta_s = left_of(snapshot, sum(states[state] for state in TO_DO), cell_s)
    since = _since(snapshot)
    return Facts(
        sweep=str(snapshot.sweep.name),
        folder=str(snapshot.directory),
        command=command(snapshot.sweep),
        planned=len(snapshot.cells),
        counts=counts,
        orphans=snapshot.orphans,
        settled=counts.keys() <= SETTLED,
        since=since,
        elapsed_s=_elapsed(snapshot, since, bool(running)),
        cell_s=cell_s,
        cells_s=sum(seconds for _, seconds in took),
        left_s=left_s,
        eta_s=eta_s,
        running=running,
        slowest=[CellTime(*each) for each in heapq.nlargest(SLOWEST, took, key=lambda each: each[1])],
        failures=[_failure(cell, snapshot) for cell in snapshot.cells if cell.state in ("failed", "corrupt")],
        stale=dict(Counter(str(cell.cause) for cell in snapshot.cells if cell.state == "stale")),
    )


def _running(cell: Cell, snapshot: Snapshot) -> RunningCell:
    progress = snapshot.progress.get(cell.id)
    seconds = age_of(cell, snapshot)
    if progress is None or cell.directory is None:
        return RunningCell(cell.name, seconds)
    return RunningCell(
        name=cell.name,
        seconds=seconds,
        fit=progress.fit,
        epoch=progress.epoch,
        max_epochs=progress.max_epochs,
        metric=progress.metric or None,
        value=progress.value,
        epoch_s=progress.epoch_s,
        left_s=progress.left_s(snapshot.now),
        ended=progress.ended,
        history=os.path.normpath(cell.directory / progress.folder / records.METRICS),
        line=progress.line(snapshot.now),
    )


def _since(snapshot: Snapshot) -> float | None:
    """Time of the launch; without one in the plan, the start of the first cell."""
    launch = snapshot.sweep.launch
    launched = finite(launch.get("time")) if isinstance(launch, dict) else None
    started = [finite(status.started) for status in snapshot.statuses.values()]
    return launched or min((each for each in started if each is not None), default=None)


def _elapsed(snapshot: Snapshot, since: float | None, is_running: bool) -> float | None:
    updated = [finite(status.updated) for status in snapshot.statuses.values()]
    ended = max((each for each in updated if each is not None), default=None)
    until = snapshot.now if is_running else ended
    if since is None or until is None or until < since:  # the last launch found nothing to do
        return None
    return until - since


def _failure(cell: Cell, snapshot: Snapshot) -> Failure:
    status = snapshot.statuses.get(cell.id)
    log = cell.directory / records.LOG if cell.directory else None
    return Failure(
        name=cell.name,
        state=cell.state,
        cause=" ".join(str(cell.cause or "no cause was written").split()),
        retried=len(status.retried) if status else 0,
        log=str(log) if log and _exists(log) else None,
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
