"""A member's own trainer between the epochs that the stack trains for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import lightning as L
import torch
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.states import RunningStage, TrainerFn

from capsexp.data.base import ImageDataModule
from capsexp.lightning_modules.base import BaseModule, Sums


@dataclass(frozen=True)
class EpochResult:
    """What a stack did for one member in an epoch.

    Attributes:
        steps: of the optimizer.
        sums: what was measured, by split.
    """

    steps: int
    sums: Mapping[str, Sums]


class CellContext(Protocol):
    """A cell's place among those that are trained together."""

    def stacks(self, member: "MemberEpochs") -> bool:
        """True if the present fit can be trained with others; asked before every epoch."""

    def wait(self, member: "MemberEpochs") -> EpochResult | None:
        """Hand over until the next epoch is trained; None if the fit is to go on alone.

        Raises:
            Diverged: the member's loss is no number any more.
        """

    def noise(self, device: torch.device) -> torch.Generator:
        """The cell's stream of random numbers on a device, where it stands; dropout draws from it."""

    def noise_is(self, generator: torch.Generator) -> None:
        """The stream has moved on."""


class MemberEpochs(_TrainingEpochLoop):
    """Lightning's loop over an epoch's batches, but that a stack trains and measures them.

    All else of the fit is Lightning's own: hooks, callbacks, what is logged and when, checkpoints, limits.  Counters
    are moved on as the steps would have moved them, so a member's checkpoint is the one that it would write alone.

    Args:
        trainer: the member's.
        context: the cell's place in the scheduler that trains members together.
        config: the cell's, from which the scheduler sees who belongs together.
    """

    def __init__(self, trainer: L.Trainer, context: CellContext, config: Mapping[str, Any]) -> None:
        epochs = trainer.fit_loop.epoch_loop
        super().__init__(trainer, epochs.min_steps, epochs.max_steps)
        self.context, self.config = context, config
        self.asked, self.epochs = False, 0
        self.refusal: str | None = None
        self.lasting: tuple[Any, ...] | None = None
        self.val_loop = _MemberEvaluation(trainer)

    @property
    def module(self) -> BaseModule:
        """The member's module, which holds its weights between epochs."""
        return cast("BaseModule", self.trainer.lightning_module)

    @property
    def data(self) -> ImageDataModule:
        """The member's data module, whose random stream is its batches' order."""
        return cast("ImageDataModule", self.trainer.datamodule)

    @property
    def steps(self) -> int:
        """Batches of the coming epoch: all, or those up to ``max_steps``."""
        batches = int(self.trainer.num_training_batches)
        return batches if self.max_steps < 0 else min(batches, self.max_steps - self.global_step)

    @property
    def validates(self) -> bool:
        """True if the selection split is looked at behind the coming epoch."""
        whole = self.steps == self.trainer.num_training_batches
        return whole and bool(self._should_check_val_epoch())

    def advance(self, data_fetcher: Any) -> None:
        """An epoch in the stack, or a batch alone where the scheduler cannot stack this fit."""
        if not self.context.stacks(self):
            super().advance(data_fetcher)
            return
        steps = self.steps
        trained = self.context.wait(self)
        if trained is None:
            super().advance(data_fetcher)
            return
        assert trained.steps == steps, f"the stack made {trained.steps} steps for this fit's {steps}"
        self._move_on(steps)
        self.module.add("train", trained.sums["train"])
        cast("_MemberEvaluation", self.val_loop).sums = trained.sums.get("val")

    def _move_on(self, steps: int) -> None:
        """As ``steps`` batches would have; what follows counts one of them."""
        self.val_loop.restarting = False
        whole = steps == self.trainer.num_training_batches
        self.batch_progress.increment_by(steps, is_last_batch=whole)
        done = self.automatic_optimization.optim_progress.optimizer
        done.step.increment_by(steps)
        done.zero_grad.increment_by(steps)
        self._batches_that_stepped += steps - 1


class _MemberEvaluation(_EvaluationLoop):
    """Lightning's evaluation, but that the stack has measured the batches, if it was the stack that trained."""

    def __init__(self, trainer: L.Trainer) -> None:
        super().__init__(trainer, TrainerFn.FITTING, RunningStage.VALIDATING, verbose=False, inference_mode=False)
        self.sums: Sums | None = None

    def on_run_start(self) -> None:
        """Take what was measured; then no batch is left."""
        super().on_run_start()
        if self.sums is None:
            return
        cast("BaseModule", self.trainer.lightning_module).add("val", self.sums)
        self.sums = None
        self.batch_progress.increment_by(int(sum(self.max_batches)), is_last_batch=True)
        self._data_fetcher = _NoBatches()  # type: ignore[assignment]


class _NoBatches:
    """A data fetcher at its end."""

    done = True

    def __next__(self) -> Any:
        raise StopIteration

    def teardown(self) -> None:
        """Nothing is held."""
