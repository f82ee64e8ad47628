"""Early stopping at the peak on the selection split, and the weights of that peak."""

import math
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from capsexp import records
from capsexp.callbacks.base import ResultCallback
from capsexp.callbacks.collapse import CollapseGuard
from capsexp.errors import require_int


class Peak(ResultCallback):
    """Stops a fit when the selection accuracy has not risen for ``patience`` epochs, and restores its peak.

    Accuracies are often equal on small splits, so the lower loss breaks ties; without a classification the loss alone
    decides.  The weights of the peak stay in memory and in the resume checkpoint, and are restored when the fit ends.
    An epoch whose selection loss is NaN is not a peak: its weights are broken.  Another callback may put other weights
    into the network for the validation, such as an average: then these are kept.  (So a trainer has its Peak first:
    it looks before another one takes them out again.)

    A network that has collapsed keeps its last weights and the metrics of its last epoch instead: which epoch of
    guessing was best is chance, and what broke the network shows at the end
    (:class:`~capsexp.callbacks.collapse.CollapseGuard`).

    Source: Wang (2019), section 4.1: "training is stopped when the testing accuracy reaches its peak".

    Args:
        patience: epochs without a new peak after which the fit stops.
    """

    def __init__(self, patience: int = 10) -> None:
        self.patience = require_int("patience", patience, 1)
        self.epoch = 0
        self.best: tuple[float, float] | None = None
        self.metrics: dict[str, float] = {}
        self.weights: dict[str, Tensor] = {}
        self._validated: dict[str, Tensor] = {}

    @property
    def state_key(self) -> str:
        """The key in checkpoints: one per fit."""
        return "Peak"

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the weights that were validated until it is known whether they are the best."""
        if trainer.state.fn == "fit":
            self._validated = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare this epoch with the best so far."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        validated, self._validated = self._validated, {}
        metrics = _selected(trainer)
        standing = (metrics.get("val/acc", 0.0), -metrics["val/loss"])
        if not math.isnan(standing[1]) and (self.best is None or standing > self.best):
            self.best, self.epoch, self.metrics = standing, trainer.current_epoch + 1, metrics
            self.weights = validated
        elif trainer.current_epoch + 1 - self.epoch >= self.patience:
            trainer.should_stop = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the best weights, unless the network has collapsed."""
        if has_collapsed_in(trainer):
            self.metrics = _selected(trainer)
        elif self.weights and not trainer.interrupted:
            self.put_back(pl_module)

    def put_back(self, module: L.LightningModule) -> None:
        """Load the weights of the peak into a module."""
        module.load_state_dict(self.weights)

    def result_metrics(self, module: L.LightningModule) -> dict[str, float]:
        """The selection split's metrics at the peak."""
        return self.metrics

    def state_dict(self) -> dict[str, Any]:
        """The peak so far, its weights included."""
        return {"epoch": self.epoch, "best": self.best, "metrics": self.metrics, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved peak."""
        self.epoch, self.metrics, self.weights = state_dict["epoch"], state_dict["metrics"], state_dict["weights"]
        self.best = None if state_dict["best"] is None else tuple(state_dict["best"])


def has_collapsed_in(trainer: L.Trainer) -> bool:
    """True if the trainer has a guard that has found its network collapsed."""
    return any(isinstance(each, CollapseGuard) and each.collapsed for each in trainer.callbacks)  # type: ignore[attr-defined]


def _selected(trainer: L.Trainer) -> dict[str, float]:
    """The last epoch's metrics on the selection split."""
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}


def save_best(trainer: L.Trainer) -> None:
    """Write the present weights as the best checkpoint, with the sizes of their model."""
    with records.replacing(Path(trainer.default_root_dir) / records.BEST_CHECKPOINT) as temporary:
        trainer.save_checkpoint(temporary, weights_only=True)
