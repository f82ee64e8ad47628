"""The remaining work of a sweep, from the durations of finished cells and the progress of running ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from capsexp.analysis.cells import Cell
from capsexp.status.read import Snapshot, finite

SECONDS, SHARE, EPOCHS = "clocks.total_s", "clocks.share_s", "training.epochs"
"""Columns of a cell's duration, of its cost if it was trained in a stack, and of the epochs of its last fit."""


@dataclass(frozen=True)
class Running:
    """A running cell.

    Attributes:
        age: its running time so far in seconds.
        fit_s: seconds until its fit ends; 0 if that is not known.
        rest: seconds that the whole cell lacks; None unless it is in its own fit, after which little is left.
        done_s: seconds of the epochs of its fit, those of earlier attempts too.
    """

    age: float
    fit_s: float
    rest: float | None
    done_s: float = 0.0


def left_of(snapshot: Snapshot, to_do: int, cell_s: float | None) -> tuple[float | None, float | None]:
    """Seconds of the remaining work, and seconds until its end with the present number of running processes.

    A cell in its own fit lacks the epochs of this fit: up to ``max_epochs``, or fewer if the finished cells stopped
    earlier on average.  Any other running cell lacks what is missing to the mean duration of the finished ones, or at
    least the epochs of its fit.  While none has finished, the cells in their own fit stand for them.

    Args:
        snapshot: the sweep's folder.
        to_do: number of cells that are left to start.
        cell_s: mean seconds of a finished cell; None if none has finished.

    Returns:
        None for what is not known; the second is None if no cell is running.
    """
    processes = _processes(snapshot)
    if not to_do and not processes:
        return 0.0, None
    each_s = _expected(processes) if cell_s is None else cell_s
    rests = [_rest(process, each_s) for process in processes]
    known = [rest for rest in rests if rest is not None]
    if len(known) < len(rests) or (to_do and each_s is None):
        return None, None
    left = to_do * (each_s or 0.0) + sum(known)
    return left, max(left / len(known), *known) if known else None  # idle processes cannot share the last cell


def seconds_of(cell: Cell) -> float | None:
    """Seconds of a finished cell, or its share if it was in a stack; None for stale cells, which ran older code."""
    if not cell.done:
        return None
    share = finite(cell.value(SHARE))
    return finite(cell.value(SECONDS)) if share is None else share


def age_of(cell: Cell, snapshot: Snapshot) -> float | None:
    """Running time of a cell so far in seconds; None if its start is not known."""
    status = snapshot.statuses.get(cell.id)
    started = finite(status.started) if status else None
    return None if started is None else max(snapshot.now - started, 0.0)


def _processes(snapshot: Snapshot) -> list[list[Running]]:
    """The running cells, by process: the cells of a stack share their process."""
    stacked = any(finite(cell.value(SHARE)) is not None for cell in snapshot.cells if cell.done)
    epochs = [each for cell in snapshot.cells if cell.done and (each := finite(cell.value(EPOCHS))) is not None]
    usual = fmean(epochs) if epochs else float("inf")
    together: dict[object, list[Running]] = {}
    for cell in snapshot.cells:
        status = snapshot.statuses.get(cell.id)
        if cell.state == "running" and status is not None:
            key = (status.host, status.pid) if stacked else cell.id
            together.setdefault(key, []).append(_running(cell, snapshot, usual))
    return list(together.values())


def _running(cell: Cell, snapshot: Snapshot, usual: float) -> Running:
    age, fit = age_of(cell, snapshot) or 0.0, snapshot.progress.get(cell.id)
    left = None if fit is None else fit.left_s(snapshot.now, usual)
    own = fit is not None and not fit.fit
    done_s = (fit.epoch * fit.epoch_s) if fit is not None and fit.epoch_s is not None else 0.0
    return Running(age, left or 0.0, left if own else None, done_s)


def _rest(process: Sequence[Running], each_s: float | None) -> float | None:
    """Seconds until the cells of a process end."""
    rests = [each.rest for each in process if each.rest is not None]
    if len(rests) == len(process):
        return max(rests)
    if each_s is None:
        return None
    by_mean = sum(max(each_s - each.age / len(process), 0.0) for each in process)
    return max(by_mean, *(each.fit_s for each in process))


def _expected(processes: Sequence[Sequence[Running]]) -> float | None:
    """Mean seconds of a cell by the running ones that are in their own fit; None if there are none."""
    costs = [
        (max(each.age, each.done_s) + each.rest) / len(process)
        for process in processes
        for each in process
        if each.rest is not None
    ]
    return fmean(costs) if costs else None
