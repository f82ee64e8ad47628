"""The progress of a running cell: the fit in progress, its epoch and its pace, in the cell's ``progress.json``."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from capsexp import records
from capsexp.text import count, duration


@dataclass(frozen=True)
class FitProgress:
    """The fit of a running cell.

    Attributes:
        fit: name of the fit, that of its stage; empty for a fit in the cell's own folder.
        folder: the fit's folder, which has its ``metrics.csv``, relative to the cell's.
        epoch: number of finished epochs.
        max_epochs: largest number of epochs; None for no limit.
        metric: name of the metric that is shown; empty before the first epoch that measured it.
        value: its last value; None where there is none, or it is not finite.
        epoch_s: seconds per epoch; None before the first.
        ended: whether the fit has ended; the cell may have more work.
        updated: end of the last epoch, or start of the fit or of its stack, in seconds since 1970.
        bucket: number of the bucket in which the cell was last trained; cells of a process are trained bucket after
            bucket.  None for a cell that was not trained in a stack yet.
        waits: whether the cell waits while its process trains another bucket.
    """

    fit: str
    folder: str
    epoch: int
    max_epochs: int | None
    metric: str
    value: float | None
    epoch_s: float | None
    ended: bool
    updated: float
    bucket: int | None = None
    waits: bool = False

    def left_s(self, now: float | None = None, epochs: float = math.inf) -> float | None:
        """Longest time in seconds until the fit ends, if no early stopping ends it before; None if it is not known.

        The time in which it waits for other buckets is not counted.

        Args:
            now: seconds since 1970; None for the present moment.
            epochs: number of epochs after which the fit is expected to end, if that is before ``max_epochs``; the
                epoch in progress is counted in any case.
        """
        if self.ended:
            return 0.0
        limit = math.inf if self.max_epochs is None else self.max_epochs
        last = min(limit, max(epochs, self.epoch + 1))
        if self.epoch_s is None or math.isinf(last):
            return None
        since = 0.0 if self.waits else max((time.time() if now is None else now) - self.updated, 0.0)
        return max((last - self.epoch) * self.epoch_s - since, 0.0)

    @property
    def place(self) -> str:
        """The fit and its epoch: ``base: epoch 3/30``."""
        name = f"{self.fit}: " if self.fit else ""
        if self.ended:
            return f"{name}trained for {count(self.epoch, 'epoch')}"
        return f"{name}epoch {self.epoch}" + ("" if self.max_epochs is None else f"/{self.max_epochs}")

    @property
    def pace(self) -> str:
        """Seconds per epoch; empty before the first epoch."""
        if self.epoch_s is None:
            return ""
        return f"{1000 * self.epoch_s:.0f} ms" if self.epoch_s < 0.995 else duration(self.epoch_s)

    def line(self, now: float | None = None) -> str:
        """All facts: ``base: epoch 3/30  val/acc 0.9812  520 ms per epoch  at most 14 s left``."""
        left = None if self.ended or self.waits else self.left_s(now)
        parts = [self.place]
        parts += [f"{self.metric} {self.value:.4f}"] if self.metric and self.value is not None else []
        parts += [f"{self.pace} per epoch"] if self.pace and not self.ended else []
        parts += [f"at most {duration(max(left, 1.0))} left"] if left is not None else []
        parts += ["waits for another stack"] if self.waits else []
        return "  ".join(parts)


def write(directory: Path, progress: FitProgress) -> None:
    """Write the progress of a cell.

    It is not flushed to the disk: it means nothing after a power cut.
    """
    records.write_json(directory / records.PROGRESS, asdict(progress), flush=False)


def read(directory: Path, since: float = 0.0) -> FitProgress | None:
    """The progress of a cell; None if there is none, or it is not what was written.

    Args:
        directory: the cell's directory.
        since: start of the cell's present attempt in seconds since 1970; an older file is that of an earlier attempt.
    """
    raw = records.read_json(directory / records.PROGRESS)
    progress = None if raw is None else _parsed(raw)
    return progress if progress is not None and progress.updated >= since else None


def of_running(directory: Path, status: records.Status | None = None) -> FitProgress | None:
    """The progress of a cell's present attempt; None if there is none yet, or it cannot be read.

    Both files carry the clock of the machine that runs the cell, which may be another one's.

    Args:
        directory: the cell's directory.
        status: its status; None to read it.
    """
    try:
        status = status or records.read_status(directory)
        running = status is not None and status.state == "running"
        return read(directory, float(status.started)) if status and running else None
    except (OSError, TypeError, ValueError):
        return None


NUMBERS: Mapping[str, bool] = {
    **dict.fromkeys(("epoch", "updated"), False),
    **dict.fromkeys(("max_epochs", "value", "epoch_s", "bucket"), True),
}
"""The keys of numbers, and whether null is one of their values."""


def _parsed(raw: Mapping[str, Any]) -> FitProgress | None:
    try:
        progress = FitProgress(**raw)
    except TypeError:
        return None
    numbers = all(_is_number(getattr(progress, key), may_lack) for key, may_lack in NUMBERS.items())
    texts = all(isinstance(getattr(progress, key), str) for key in ("fit", "folder", "metric"))
    flags = all(isinstance(flag, bool) for flag in (progress.ended, progress.waits))
    return progress if numbers and texts and flags else None


def _is_number(value: object, may_lack: bool) -> bool:
    if value is None:
        return may_lack
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= abs(value) < 1e18
