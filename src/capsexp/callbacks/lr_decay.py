"""A learning rate schedule with a linear warm-up and an exponential decay, in stairs or continuous."""

import lightning as L

from capsexp.errors import require, require_int, require_number


class LearningRateDecay(L.Callback):
    """Multiplies the optimizer's initial learning rate by ``rate`` once in ``steps`` steps.

    In step t, from 0, the rate is the initial one times ``rate ** (t // steps)``, or without stairs times
    ``rate ** (t / steps)``, as in the code that Zhao et al. (2019) adapted (with ``warmup`` 0).

    In the first ``warmup`` steps the rate rises linearly to this value.  It depends only on the number of the step, so
    a resumed fit continues with the same rate.

    Source: the schedule of Zhao et al. (2019) is settled in docs/decisions.md.

    Args:
        rate: factor, above 0 and at most 1.
        steps: optimizer steps between two decays.
        floor: lower bound of the rate; an initial rate below it stays constant.
        warmup: number of optimizer steps of the warm-up; 0 for none.
        staircase: False decays in every step.
    """

    def __init__(
        self,
        rate: float = 0.96,
        steps: int = 2000,
        floor: float = 1e-6,
        warmup: int = 0,
        *,
        staircase: bool = True,
    ) -> None:
        self.rate = require_number("rate", rate, 0, 1, open_ends="<")
        self.steps, self.floor = require_int("steps", steps, 1), require_number("floor", floor, 0)
        self.warmup = require_int("warmup", warmup, 0)
        require(isinstance(staircase, bool), "staircase", "be true or false", staircase)
        self.staircase = staircase
        self._first: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Store the optimizer's configured rates; those in a checkpoint have decayed already."""
        (optimizer,) = trainer.optimizers
        self._first = [optimizer.defaults["lr"]] * len(optimizer.param_groups)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Set the rate of the next step."""
        done = trainer.global_step // self.steps if self.staircase else trainer.global_step / self.steps
        factor = self.rate**done
        risen = min(1.0, (trainer.global_step + 1) / self.warmup) if self.warmup else 1.0
        (optimizer,) = trainer.optimizers
        for group, first in zip(optimizer.param_groups, self._first, strict=True):
            group["lr"] = risen * max(first * factor, min(self.floor, first))
