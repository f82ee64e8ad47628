"""A checkpoint from which a fit continues after its process has ended."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from capsexp import records, rng, stop_request
from capsexp.callbacks import checkpoints
from capsexp.errors import NO_SPACE, ConfigError, Diverged, StageBusy, StartOver, ran_out_of_memory, require_number

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
        self.begun = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the random states just before the first epoch after a resume."""
        if self._random is not None:
            rng.put_back(self._random)
            self._random = None
        self.begun = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if the interval has passed or a stop is requested; then stop if it is requested.

        Raises:
            KeyboardInterrupt: a stop was requested, and the state is saved.
        """
        stop = stop_request.requested()
        if trainer.should_stop or not (stop or time.monotonic() - self._last >= self.min_interval_s):
            return
        with records.replacing(resume_path(trainer)) as temporary:
            with records.in_process_folder():  # Lightning makes the file there, and a kill would leave it
                trainer.save_checkpoint(temporary)
            records.seal(temporary, records.id_of(Path(trainer.default_root_dir)))
        self._last = time.monotonic()
        if stop:
            raise KeyboardInterrupt

    def state_dict(self) -> dict[str, Any]:
        """The present random states."""
        return rng.states()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the saved random states until the first epoch starts."""
        self._random = state_dict


PARTS = ("state_dict", "optimizer_states", "loops", "callbacks")
"""Keys of a checkpoint without whose content a fit does not continue as it was; Lightning demands no more than some."""


def resumable(trainer: L.Trainer) -> Path | None:
    """The checkpoint from which the fit of ``trainer`` can continue; one that cannot be used is removed.

    None without a :class:`ResumeCheckpoint`, since the random states would not be restored.
    """
    path = resume_path(trainer)
    if not os.path.lexists(path) or _saver(trainer) is None:
        return None
    try:
        saved = checkpoints.read(path)
    except records.DamagedError as error:
        _give_up(path, error.cause)
        return None
    missing = [part for part in PARTS if not saved.get(part)]
    missing = missing or [f"callbacks.{key}" for key in _keys(trainer) if not saved["callbacks"].get(key)]
    if missing:
        _give_up(path, f"it has no {missing[0]}")
    return None if missing else path


@contextlib.contextmanager
def resuming(trainer: L.Trainer) -> Iterator[Path | None]:
    """The checkpoint from which a fit continues, or None; if it does not suit the fit, the work begins again.

    Raises:
        StartOver: the fit could not be restored; the checkpoint is removed.
    """
    path = resumable(trainer)
    try:
        yield path
    except (ConfigError, Diverged, StageBusy):
        raise
    except Exception as error:
        saver = _saver(trainer)
        no_space = isinstance(error, OSError) and error.errno in NO_SPACE
        if path is None or saver is None or saver.begun or no_space or ran_out_of_memory(error):
            raise
        _give_up(path, f"{type(error).__name__}: {error}")
        raise StartOver from error


def _saver(trainer: L.Trainer) -> ResumeCheckpoint | None:
    return next((each for each in trainer.callbacks if isinstance(each, ResumeCheckpoint)), None)  # type: ignore[attr-defined]


def _keys(trainer: L.Trainer) -> list[str]:
    """The keys in a checkpoint of our callbacks that keep a state."""
    return [
        each.state_key
        for each in trainer.callbacks  # type: ignore[attr-defined]
        if type(each).__module__.startswith("capsexp.") and type(each).state_dict is not L.Callback.state_dict
    ]


def _give_up(path: Path, cause: str) -> None:
    line = " ".join(cause.split())[:200]
    log.warning("%s: the checkpoint to go on from cannot be used (%s); the cell starts over", path, line)
    records.remove(path)


def resume_path(trainer: L.Trainer) -> Path:
    """Path of the checkpoint of the fit of ``trainer``."""
    return Path(trainer.default_root_dir) / records.RESUME_CHECKPOINT
