"""The progress of a running fit in the cell's ``progress.json``."""

import contextlib
import os
import statistics
import time
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from capsexp import fit_progress
from capsexp.callbacks.history import History
from capsexp.fit_progress import FitProgress

EVERY_S = 1.0
"""Shortest time in seconds between two writes in the course of a fit."""

RECENT = 5
"""Number of last epochs whose median duration is the pace of a fit."""

SHOWN = ("val/acc", "val/loss")
"""The metric that is shown is the first of these that the fit measures."""


class ProgressFile(Checkpoint):
    """Writes how far a fit is into the cell's directory: at its start and end, and at most every second in between.

    The numbers are those of the fit's history, so that nothing is read from the device.  A file that cannot be written
    does not disturb the fit.  (The base class is ``Checkpoint`` because Lightning calls such callbacks last, after the
    history has the epoch.)

    Attributes:
        fit: name of the fit; empty for a fit in the cell's own folder.

    Args:
        directory: the cell's directory.
        fit: see above.
        history: the history of the same fit.
    """

    def __init__(self, directory: Path, fit: str, history: History) -> None:
        self.fit = fit
        self._directory, self._history = directory, history
        self._last, self._at = 0.0, time.time()
        self._bucket: int | None = None
        self._waits = False

    def now(self, trainer: L.Trainer, *, ended: bool = False) -> FitProgress:
        """The progress of the fit of ``trainer`` at the end of its last epoch."""
        rows, seconds = self._history.rows, self._history.seconds
        limit = trainer.max_epochs
        metric = next((name for name in SHOWN if rows and name in rows[-1]), "")
        return FitProgress(
            fit=self.fit,
            folder=os.path.relpath(trainer.default_root_dir, self._directory),
            epoch=len(rows),
            max_epochs=None if limit is None or limit < 0 else limit,
            metric=metric,
            value=rows[-1][metric] if metric else None,
            epoch_s=statistics.median(seconds[-RECENT:]) if seconds else None,
            ended=ended,
            updated=self._at,
            bucket=self._bucket,
            waits=self._waits,
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write which fit begins, or goes on."""
        self._at = time.time()
        self._write(trainer)

    def begin_stack(self, trainer: L.Trainer, bucket: int) -> None:
        """Write that a stack begins which trains this fit, and in which bucket."""
        self._bucket, self._waits, self._at = bucket, False, time.time()
        self._write(trainer)

    def wait(self, trainer: L.Trainer) -> None:
        """Write that another stack is trained; the fit waits until its own begins."""
        if not self._waits:
            self._waits = True
            self._write(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the progress, unless the last write was a moment ago."""
        self._at = time.time()
        if time.monotonic() - self._last >= EVERY_S:
            self._write(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write that the fit has ended."""
        self._write(trainer, ended=True)

    def _write(self, trainer: L.Trainer, *, ended: bool = False) -> None:
        self._last = time.monotonic()
        with contextlib.suppress(OSError):  # a full disk: the fit goes on
            fit_progress.write(self._directory, self.now(trainer, ended=ended))
