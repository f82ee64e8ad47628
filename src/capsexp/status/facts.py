"""The facts about a sweep: counts, times, slow and failed cells."""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from capsexp import records
from capsexp.analysis.cells import Cell
from capsexp.analysis.results import command
from capsexp.status.read import STATES, Snapshot, finite

SECONDS, SHARE = "clocks.total_s", "clocks.share_s"
"""Columns of a cell's duration, and of its cost if it was trained in a stack."""

SLOWEST = 5
TO_DO = ("pending", "interrupted", "corrupt")
"""The states of cells that are left to run.  A failed cell is retried only when the command is given again."""
SETTLED = {"done", "failed", "stale"}
"""The final states of cells."""


@dataclass(frozen=True)
class CellTime:
    """A cell and its duration in seconds, or its running time so far."""

    name: str
    seconds: float | None


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
        running: running cells and their running times.
        slowest: the finished cells with the longest durations.
        failures: failed and corrupt cells.
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
    running: list[CellTime]
    slowest: list[CellTime]
    failures: list[Failure]


def facts(snapshot: Snapshot) -> Facts:
    """All facts about a snapshot, except the heat map."""
    states = Counter(cell.state for cell in snapshot.cells)
    counts = {state: states[state] for state in STATES if states[state]}
    took = [(cell.name, seconds) for cell in snapshot.cells if (seconds := _seconds(cell)) is not None]
    running = [CellTime(cell.name, _age(cell, snapshot)) for cell in snapshot.cells if cell.state == "running"]
    cell_s = fmean(seconds for _, seconds in took) if took else None
    left_s, eta_s = _left(sum(states[state] for state in TO_DO), cell_s, _spent(snapshot))
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
    )


def _seconds(cell: Cell) -> float | None:
    """Seconds of a finished cell, or its share if it was in a stack; None for stale cells, which ran older code."""
    if not cell.done:
        return None
    share = finite(cell.value(SHARE))
    return finite(cell.value(SECONDS)) if share is None else share


def _age(cell: Cell, snapshot: Snapshot) -> float | None:
    status = snapshot.statuses.get(cell.id)
    started = finite(status.started) if status else None
    return None if started is None else max(snapshot.now - started, 0.0)


def _spent(snapshot: Snapshot) -> list[list[float]]:
    """Seconds that the running cells have cost so far, by process: the cells of a stack share their process' time."""
    stacked = any(finite(cell.value(SHARE)) is not None for cell in snapshot.cells if cell.done)
    together: dict[object, list[float]] = {}
    for cell in snapshot.cells:
        status = snapshot.statuses.get(cell.id)
        if cell.state == "running" and status is not None:
            key = (status.host, status.pid) if stacked else cell.id
            together.setdefault(key, []).append(_age(cell, snapshot) or 0.0)
    return [[age / len(ages) for age in ages] for ages in together.values()]


def _left(to_do: int, cell_s: float | None, spent: Sequence[Sequence[float]]) -> tuple[float | None, float | None]:
    """Seconds of the remaining work, and seconds until its end with the present number of running processes."""
    if not to_do and not spent:
        return 0.0, None
    if cell_s is None:
        return None, None
    rests = [sum(max(cell_s - each, 0.0) for each in process) for process in spent]
    left = to_do * cell_s + sum(rests)
    return left, max(left / len(spent), *rests) if spent else None  # idle processes cannot share the last cell


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
