"""The end of a fit whose training loss is no number any more."""

import logging
import math

import lightning as L
import torch
from torch import Tensor

from capsexp.callbacks.peak import Peak, save_best
from capsexp.errors import Diverged

log = logging.getLogger(__name__)


class DivergenceGuard(L.Callback):
    """Ends a fit at the first training loss that is NaN or infinite; the weights of the peak so far are kept.

    The training loss alone decides.  (A validation loss may be infinite for weights that still learn, and weights that
    are broken show in the next training step.)

    On a CPU each loss is looked at before its backward pass.  On other devices reading it would hold up every step, so
    the device itself notes the first bad step, and the note is read when an epoch's batches are done: before its
    validation, hence before its weights could become the peak or go into a checkpoint.

    Where an epoch has had a peak, ``checkpoints/best.ckpt`` is written with its weights.  In the first epoch there is
    nothing to keep.
    """

    def __init__(self) -> None:
        self._first_bad: Tensor | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prepare the device's note: int64 (), 0 for no bad step."""
        device = pl_module.device
        self._first_bad = torch.zeros((), dtype=torch.int64, device=device) if _reading_waits(device) else None

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Look at a batch's loss, or have the device note it.

        Raises:
            Diverged: the loss is not finite (on a CPU).
        """
        step = trainer.global_step + 1  # not counted yet; a resumed fit goes on counting
        if self._first_bad is None:
            if not math.isfinite(loss.item()):
                raise Diverged(step)
            return
        bad = loss.detach().isfinite().all().logical_not()
        self._first_bad.masked_fill_(bad & self._first_bad.eq(0), step)  # nothing here waits for the device

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the note before the weights are judged.

        Raises:
            Diverged: a loss was not finite.
        """
        self._read()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the note also where the epoch had no validation.

        Raises:
            Diverged: a loss was not finite.
        """
        self._read()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look for a peak: where no epoch's weights gave a loss that is a number, a last step has broken them.

        Raises:
            Diverged: there is none, though each step's own loss was a number.
        """
        if not trainer.interrupted and any(not peak.weights for peak in _peaks(trainer)):
            raise Diverged(trainer.global_step)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Keep the weights of the peak."""
        if not isinstance(exception, Diverged):
            return
        for peak in _peaks(trainer):
            if peak.weights:
                peak.put_back(pl_module)
                save_best(trainer)
                log.info("the weights of epoch %d, the peak so far, are kept", peak.epoch)
                return
        log.info("no epoch has had a peak, so no weights are kept")

    def _read(self) -> None:
        step = 0 if self._first_bad is None else int(self._first_bad)
        if step:
            raise Diverged(step)


def _peaks(trainer: L.Trainer) -> list[Peak]:
    return [callback for callback in trainer.callbacks if isinstance(callback, Peak)]  # type: ignore[attr-defined]


def _reading_waits(device: torch.device) -> bool:
    """True if reading a number from the device waits for all that it has been given to do."""
    return device.type != "cpu"
