"""Detection of collapsed networks, which only guess, and a callback that stops their training."""

from collections.abc import Sequence
from typing import Any, cast

import lightning as L

from capsexp.errors import require_int, require_number

ROUNDING = 1e-6
"""Tolerance of comparisons: accuracies are float32, and .12 - .1 is not .02.  No split has a million images."""


def has_collapsed(
    accuracies: Sequence[float], chance: float, *, last: int, margin: float = 0.02, flat: float = 0.01
) -> bool:
    """True if a network only guesses and no longer changes: its last accuracies are near chance and flat.

    Sahu and Altahhan (2024), section 3.5: "a very low non-recovering validation accuracy", about 10 % of ten classes
    "over multiple epochs".  The thresholds are ours.  Earlier epochs do not count: a network may have learnt before.

    Args:
        accuracies: on the selection split, epoch by epoch, in 0..1.
        chance: accuracy of a guess.
        last: number of last epochs to judge, at least 1; after fewer epochs a network has not collapsed.
        margin: largest distance from chance, in either direction, that is near (inclusive).
        flat: largest difference between the highest and the lowest accuracy that is flat (inclusive).
    """
    latest = accuracies[-require_int("last", last, 1) :]
    if len(latest) < last:
        return False
    near = all(abs(accuracy - chance) <= margin + ROUNDING for accuracy in latest)
    return near and max(latest) - min(latest) <= flat + ROUNDING


class CollapseGuard(L.Callback):
    """Stops a fit when :func:`has_collapsed` is true, and records this reason.

    Chance is 1 / K for the K classes of the data module.  A network whose capsules are dead gives all images the same
    scores, so it predicts one class for all of them.  If all classes have the same number of images, its accuracy is
    1 / K for any class.  Otherwise the accuracy depends on the predicted class.  To use the largest class as chance
    would be wrong for all other classes, so the rule stays with 1 / K: on such data it may let a collapsed network
    continue until the patience ends.

    Attributes:
        accuracies: on the selection split, epoch by epoch.
        collapsed: whether the network had collapsed after the last epoch.

    Args:
        last: number of epochs near chance and flat after which a network has collapsed.
        margin: see :func:`has_collapsed`.
        flat: see :func:`has_collapsed`.
    """

    def __init__(self, last: int = 5, margin: float = 0.02, flat: float = 0.01) -> None:
        self.last = require_int("last", last, 1)
        self.margin = require_number("margin", margin, 0, 1)
        self.flat = require_number("flat", flat, 0, 1)
        self.accuracies: list[float] = []
        self.collapsed = False

    @property
    def state_key(self) -> str:
        """The key in checkpoints: one per fit, and the same as in older versions."""
        return "BrokenGuard"

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the network by this epoch and the epochs before."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or "val/acc" not in trainer.callback_metrics:
            return  # without a classification there is no chance level
        self.accuracies.append(float(trainer.callback_metrics["val/acc"]))
        chance = 1 / cast("int", trainer.datamodule.classes)  # type: ignore[attr-defined]
        self.collapsed = has_collapsed(self.accuracies, chance, last=self.last, margin=self.margin, flat=self.flat)
        if self.collapsed:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """The accuracies so far, and whether the network has collapsed."""
        return {"accuracies": self.accuracies, "broken": self.collapsed}  # the keys of older checkpoints

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the accuracies of saved epochs."""
        self.accuracies, self.collapsed = list(state_dict["accuracies"]), state_dict["broken"]
