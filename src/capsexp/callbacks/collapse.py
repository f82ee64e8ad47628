"""Networks that have collapsed: they only guess.  One rule says when, and a callback ends their training."""

from collections.abc import Sequence
from typing import Any, cast

import lightning as L

from capsexp.errors import require_int, require_number

ROUNDING = 1e-6
"""What an accuracy may be off by: they come in float32, and .12 - .1 is not .02.  No split has a million images."""


def has_collapsed(
    accuracies: Sequence[float], chance: float, *, last: int, margin: float = 0.02, flat: float = 0.01
) -> bool:
    """True if a network only guesses, and no longer changes: near chance and flat over its last epochs.

    Sahu and Altahhan (2024), section 3.5: "a very low non-recovering validation accuracy", about 10 % of ten classes
    "over multiple epochs".  The numbers are ours.  Earlier epochs do not count: a network may have learnt before.

    Args:
        accuracies: on the selection split, epoch by epoch, in 0..1.
        chance: accuracy of a guess.
        last: epochs that are looked at, at least 1; a network that has had fewer has not collapsed.
        margin: how far from chance, in either direction, is near; the bound counts as near.
        flat: difference between the highest and the lowest accuracy up to which they are flat.
    """
    latest = accuracies[-require_int("last", last, 1) :]
    if len(latest) < last:
        return False
    near = all(abs(accuracy - chance) <= margin + ROUNDING for accuracy in latest)
    return near and max(latest) - min(latest) <= flat + ROUNDING


class CollapseGuard(L.Callback):
    """Ends a fit when :func:`has_collapsed` says so, and remembers that it was for this reason.

    Chance is 1 / K of the data module's classes.  A network whose capsules are dead gives all images the same scores,
    so it answers one class for all of them; where every class has as many images, that is right for 1 / K of them,
    whichever class it is.  Where some have more, the accuracy depends on the class that it happens to answer.  To judge
    by the largest one would be wrong for all the others, so the rule stays with 1 / K: on such data it may let a
    collapsed network go on until the patience ends.

    Attributes:
        accuracies: on the selection split, epoch by epoch.
        collapsed: whether the network had collapsed after the last epoch.

    Args:
        last: epochs near chance and flat after which a network has collapsed.
        margin: how far from chance is near.
        flat: how far apart accuracies are flat.
    """

    def __init__(self, last: int = 5, margin: float = 0.02, flat: float = 0.01) -> None:
        self.last = require_int("last", last, 1)
        self.margin = require_number("margin", margin, 0, 1)
        self.flat = require_number("flat", flat, 0, 1)
        self.accuracies: list[float] = []
        self.collapsed = False

    @property
    def state_key(self) -> str:
        """Its name in checkpoints: one per fit, and that of older versions."""
        return "BrokenGuard"

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge the network by this epoch and those before."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or "val/acc" not in trainer.callback_metrics:
            return  # where nothing is classified there is no chance to be near
        self.accuracies.append(float(trainer.callback_metrics["val/acc"]))
        chance = 1 / cast("int", trainer.datamodule.classes)  # type: ignore[attr-defined]
        self.collapsed = has_collapsed(self.accuracies, chance, last=self.last, margin=self.margin, flat=self.flat)
        if self.collapsed:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """The epochs so far."""
        return {"accuracies": self.accuracies, "broken": self.collapsed}  # as older checkpoints have it

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after saved epochs."""
        self.accuracies, self.collapsed = list(state_dict["accuracies"]), state_dict["broken"]
