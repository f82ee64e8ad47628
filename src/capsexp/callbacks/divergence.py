"""The guard that stops a fit whose training loss is NaN or infinite."""

import logging
import math

import lightning as L
import torch
from torch import Tensor

from capsexp.callbacks.peak import Peak, save_best
from capsexp.errors import Diverged

log = logging.getLogger(__name__)


class DivergenceGuard(L.Callback):
    """Stops a fit at the first training loss that is NaN or infinite; the weights of the peak so far are kept.

    Only the training loss counts.  (A validation loss may be infinite for weights that still learn, and broken weights
    show in the next training step.)

    On a CPU each loss is checked before its backward pass.  On other devices reading it would delay every step, so the
    device itself records the first bad step.  This record is read after the batches of an epoch: before its validation,
    hence before its weights could become the peak or be written into a checkpoint.

    If there is a peak, ``checkpoints/best.ckpt`` is written with its weights.  In the first epoch there is none.
    """

    def __init__(self) -> None:
        self._first_bad: Tensor | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Allocate the device's record of the first bad step: int64 (), 0 for none."""
        device = pl_module.device
        self._first_bad = torch.zeros((), dtype=torch.int64, device=device) if _reading_waits(device) else None

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Check a batch's loss, or let the device record it.

        Raises:
            Diverged: the loss is not finite (on a CPU).
        """
        step = trainer.global_step + 1  # not counted yet; a resumed fit continues the count
        if self._first_bad is None:
            if not math.isfinite(loss.item()):
                raise Diverged(step)
            return
        bad = loss.detach().isfinite().all().logical_not()
        self._first_bad.masked_fill_(bad & self._first_bad.eq(0), step)  # this does not wait for the device

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the record before the weights are evaluated.

        Raises:
            Diverged: a loss was not finite.
        """
        self._read()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the record, also in an epoch without validation.

        Raises:
            Diverged: a loss was not finite.
        """
        self._read()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that there is a peak: without one, no epoch's weights gave a finite loss.

        Raises:
            Diverged: there is none, although the loss of each step was finite.
        """
        if not trainer.interrupted and any(not peak.weights for peak in _peaks(trainer)):
            raise Diverged(trainer.global_step)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the weights of the peak if the fit diverged."""
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
    """True if reading a number from the device waits for all its queued work."""
    return device.type != "cpu"
