"""The history of a fit, one row per epoch: ``metrics.csv``."""

import contextlib
import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from capsexp import records
from capsexp.errors import Diverged

Row = dict[str, float]

BLOCK = 4096
"""Bytes of which a file's reader sees all or nothing while another process appends to it."""


class History(Checkpoint):
    """Keeps every epoch's logged metrics, and writes them to ``metrics.csv`` as they come; the first epoch is 1.

    The rows are part of the resume checkpoint, and a fit writes the whole file before it appends to it.  So the file of
    a resumed fit equals that of an uninterrupted one, and no epoch after the checkpoint is in it twice.  The file has
    no durations; they are in ``result.json``.  (The base class is ``Checkpoint`` because Lightning calls such callbacks
    last, when the epoch's training means are known.)
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.seconds: list[float] = []
        self._started = 0.0
        self._file: GrowingFile | None = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch's metrics to the rows and to the file."""
        self.seconds.append(time.perf_counter() - self._started)
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        self.rows.append({"epoch": trainer.current_epoch + 1, **metrics})
        path = _path(trainer)
        if self._file is None or self._file.path != path:
            self._file = GrowingFile(path)
        self._file.update(self.rows)

    def leave_out(self, seconds: float) -> None:
        """Do not count this much of the time since the epoch began."""
        self._started += seconds

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file to the disk."""
        write_rows(_path(trainer), self.rows)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the finished epochs of a fit that diverged to the disk, since it is not resumed."""
        if isinstance(exception, Diverged) and self.rows:
            self.on_fit_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The rows and the epochs' durations so far."""
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the saved rows, so that the fit appends to them."""
        self.rows, self.seconds = list(state_dict["rows"]), list(state_dict["seconds"])


class GrowingFile:
    """A file of rows that another process may read at any time; it never sees a part of a row.

    A row is appended if it has no new column and lies in one block of the file; otherwise the file is replaced.
    Neither waits for the disk.  A file that cannot be written, or that something else has changed, is replaced with
    the next row.

    Args:
        path: the file; what it holds is replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: list[str] = []
        self._content = bytearray()

    def update(self, rows: Sequence[Row]) -> None:
        """Bring the file up to date.

        Args:
            rows: the rows of the last call and one more.
        """
        with contextlib.suppress(OSError):  # the end of the fit writes the file again, and reports an error
            self._update(rows)

    def _update(self, rows: Sequence[Row]) -> None:
        if not self._content or not set(_names(rows[-1:])) <= set(self._names):
            self._names = _names(rows)
            self._content[:] = _table(rows, self._names)
            self._replace()
            return
        line, size = _lines(rows[-1:], self._names), len(self._content)
        self._content += line
        if size // BLOCK != (len(self._content) - 1) // BLOCK or not self._append(line, size):
            self._replace()

    def _append(self, line: bytes, size: int) -> bool:
        """Append a line if the file has its known size; returns whether it is in the file."""
        with self.path.open("ab", buffering=0) as stream:
            return stream.tell() == size and stream.write(line) == len(line)

    def _replace(self) -> None:
        with records.replacing(self.path, flush=False) as temporary:
            temporary.write_bytes(self._content)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV, with one column for each name in any row and ``epoch`` first."""
    with records.replacing(path) as temporary:
        temporary.write_bytes(_table(rows, _names(rows)))


def _path(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir) / records.METRICS


def _names(rows: Sequence[Row]) -> list[str]:
    return sorted({name for row in rows for name in row} - {"epoch"})


def _table(rows: Sequence[Row], names: Sequence[str]) -> bytes:
    """Rows with their header."""
    header: Any = {name: name for name in ("epoch", *names)}
    return _lines([header, *rows], names)


def _lines(rows: Sequence[Row], names: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.DictWriter(text, ["epoch", *names], lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
