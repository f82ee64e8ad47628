"""The progress bar of a single cell on a terminal."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from capsexp.callbacks.progress import ProgressFile
from capsexp.text import duration

WIDTH = 20
"""Characters of the bar, so that everything fits into a terminal of 80."""


class EpochBar(RichProgressBar):
    """Lightning's bar with the name of the fit, epochs from 1, the validation, seconds per epoch, and the time left.

    The time left is that of all epochs up to ``max_epochs``; an early stop makes it shorter.

    Args:
        progress: the progress of the fit; None for passes without training.
    """

    def __init__(self, progress: ProgressFile | None) -> None:
        super().__init__()
        self._fit = progress

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """Description, bar and batches, without the times of a single epoch."""
        description, bar, batches, *_ = super().configure_columns(trainer)
        bar.bar_width = WIDTH
        return [description, bar, batches]

    def _get_train_description(self, current_epoch: int) -> str:
        limit = self.trainer.max_epochs
        name = f"{self._fit.fit}: " if self._fit is not None and self._fit.fit else ""
        last = "" if limit is None or limit < 0 else f"/{limit}"
        return f"{name}epoch {current_epoch + 1}{last}"

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The metric of the last epoch, seconds per epoch, and the time left; numbers of the fit's history."""
        shown: dict[str, Any] = dict(super().get_metrics(trainer, pl_module))
        shown.pop("v_num", None)
        if self._fit is None:
            return shown
        now = self._fit.now(trainer)
        left = now.left_s()
        if now.value is not None:
            shown[now.metric] = f"{now.value:.4f}"
        if now.epoch_s is not None:
            shown["s/epoch"] = f"{now.epoch_s:.2g}" if now.epoch_s < 10 else f"{now.epoch_s:.0f}"
        return shown if left is None else shown | {"left": duration(left)}
