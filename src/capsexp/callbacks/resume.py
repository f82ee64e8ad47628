"""A checkpoint from which a fit continues after its process has ended."""

import logging
import pickle
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from capsexp import records, rng, stop_request
from capsexp.callbacks import checkpoints
from capsexp.errors import require_number

log = logging.getLogger(__name__)


class ResumeCheckpoint(Checkpoint):
    """Saves the fit between epochs, at most every ``min_interval_s`` seconds, and when the cell is to stop.

    A cell that ends earlier writes no checkpoint.  The file holds the model, the optimizer, the other callbacks'
    states, the data generator and the random states, so that a resumed fit has the same result as an uninterrupted
    one.  It is replaced atomically, so a kill during saving leaves the previous file.

    Args:
        min_interval_s: seconds of training between two saves; 0 saves after every epoch.
    """

    def __init__(self, min_interval_s: float = 60) -> None:
        self.min_interval_s = require_number("min_interval_s", min_interval_s, 0)
        self._last = 0.0
        self._random: rng.States | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the random states just before the first epoch after a resume."""
        if self._random is not None:
            rng.put_back(self._random)
            self._random = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if the interval has passed or a stop is requested; then stop if it is requested.

        Raises:
            KeyboardInterrupt: a stop was requested, and the state is saved.
        """
        stop = stop_request.requested()
        if trainer.should_stop or not (stop or time.monotonic() - self._last >= self.min_interval_s):
            return
        with records.replacing(resume_path(trainer)) as temporary:
            trainer.save_checkpoint(temporary)
        self._last = time.monotonic()
        if stop:
            raise KeyboardInterrupt

    def state_dict(self) -> dict[str, Any]:
        """The present random states."""
        return rng.states()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the saved random states until the first epoch starts."""
        self._random = state_dict


def resumable(trainer: L.Trainer) -> Path | None:
    """The checkpoint from which the fit of ``trainer`` can continue; an unreadable one is removed.

    None without a :class:`ResumeCheckpoint`, since the random states would not be restored.
    """
    path = resume_path(trainer)
    if not path.exists() or not any(isinstance(each, ResumeCheckpoint) for each in trainer.callbacks):  # type: ignore[attr-defined]
        return None
    try:
        checkpoints.read(path)
    except (EOFError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        log.warning("the checkpoint to go on from cannot be read (%s); the cell starts over", type(error).__name__)
        path.unlink()
        return None
    return path


def resume_path(trainer: L.Trainer) -> Path:
    """Path of the checkpoint of the fit of ``trainer``."""
    return Path(trainer.default_root_dir) / records.RESUME_CHECKPOINT
