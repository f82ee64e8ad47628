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
        bucket: its bucket, if it is trained in a stack.
    """

    age: float
    fit_s: float
    rest: float | None
    done_s: float = 0.0
    bucket: int | None = None


def left_of(snapshot: Snapshot, to_do: int, cell_s: float | None) -> tuple[float | None, float | None]:
    """Seconds of the remaining work, and seconds until its end with the present number of running processes.

    A cell in its own fit lacks the epochs of this fit: up to ``max_epochs``, or fewer if the finished cells stopped
    earlier on average.  Any other running cell lacks what is missing to the mean duration of the finished ones, or at
    least the epochs of its fit.  While none has finished, the cells in their own fit stand for them.  The members of a
    stack end together, but the buckets of a process are trained one after another, so their times add up.

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
    stacked |= any(fit.bucket is not None or fit.waits for fit in snapshot.progress.values())
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
    if fit is not None and fit.waits and fit.bucket is None:  # its time so far was that of others
        age = 0.0
    return Running(age, left or 0.0, left if own else None, done_s, fit.bucket if fit else None)


def _rest(process: Sequence[Running], each_s: float | None) -> float | None:
    """Seconds until the cells of a process end."""
    rests = [_rest_of_bucket(bucket, each_s, len(process)) for bucket in _buckets(process)]
    known = [rest for rest in rests if rest is not None]
    return sum(known) if len(known) == len(rests) else None


def _buckets(process: Sequence[Running]) -> list[list[Running]]:
    """The cells of a process by bucket; those without one are trained together, or are at least not all trained."""
    together: dict[int | None, list[Running]] = {}
    for each in process:
        together.setdefault(each.bucket, []).append(each)
    return list(together.values())


def _rest_of_bucket(bucket: Sequence[Running], each_s: float | None, cells: int) -> float | None:
    """Seconds until the cells of a bucket end, in which nothing else is trained; ``cells`` share their process."""
    rests = [each.rest for each in bucket if each.rest is not None]
    if len(rests) == len(bucket):
        return max(rests)
    if each_s is None:
        return None
    by_mean = sum(max(each_s - each.age / cells, 0.0) for each in bucket)
    return max(by_mean, *(each.fit_s for each in bucket))


def _expected(processes: Sequence[Sequence[Running]]) -> float | None:
    """Mean seconds of a cell by the running ones that are in their own fit; None if there are none."""
    costs: list[float] = []
    for process in processes:
        buckets = _buckets(process)
        for bucket in buckets:  # a cell's age counts the time of other buckets
            costs += [
                ((max(each.age, each.done_s) if len(buckets) == 1 else each.done_s) + each.rest) / len(bucket)
                for each in bucket
                if each.rest is not None
            ]
    return fmean(costs) if costs else None
