"""The history of a fit, one row per epoch: ``metrics.csv``."""

import csv
import io
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from capsexp import records
from capsexp.errors import Diverged

Row = dict[str, float]


class History(Checkpoint):
    """Keeps every epoch's logged metrics and writes them to ``metrics.csv``; the first epoch is 1.

    The rows are part of the resume checkpoint, so the file of a resumed fit equals that of an uninterrupted one.  The
    file has no durations; they are in ``result.json``.  (The base class is ``Checkpoint`` because Lightning calls such
    callbacks last, when the epoch's training means are known.)
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.seconds: list[float] = []
        self._started = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Append the epoch's metrics."""
        self.seconds.append(time.perf_counter() - self._started)
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        self.rows.append({"epoch": trainer.current_epoch + 1, **metrics})

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file."""
        write_rows(Path(trainer.default_root_dir) / records.METRICS, self.rows)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the finished epochs of a fit that diverged, since it is not resumed."""
        if isinstance(exception, Diverged) and self.rows:
            self.on_fit_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The rows and the epochs' durations so far."""
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the saved rows, so that the fit appends to them."""
        self.rows, self.seconds = list(state_dict["rows"]), list(state_dict["seconds"])


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows as CSV, with one column for each name in any row and ``epoch`` first."""
    names = sorted({name for row in rows for name in row} - {"epoch"})
    text = io.StringIO()
    writer = csv.DictWriter(text, ["epoch", *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    records.write_text(path, text.getvalue())
