"""The Lightning loops of a member's own trainer, whose epochs are trained by the stack."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import lightning as L
import torch
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.states import RunningStage, TrainerFn

from capsexp.callbacks.history import History
from capsexp.callbacks.progress import ProgressFile
from capsexp.data.base import ImageDataModule
from capsexp.lightning_modules.base import BaseModule, Sums

Kind = TypeVar("Kind", bound=L.Callback)


@dataclass(frozen=True)
class EpochResult:
    """The result of an epoch in a stack for one member.

    Attributes:
        steps: number of optimizer steps.
        sums: the sums of the measures, by split.
    """

    steps: int
    sums: Mapping[str, Sums]


class CellContext(Protocol):
    """The context of a cell that is trained with others."""

    def stacks(self, member: "MemberEpochs") -> bool:
        """True if the present fit can be trained with others; called before every epoch."""

    def wait(self, member: "MemberEpochs") -> EpochResult | None:
        """Wait until the next epoch is trained; None if the fit must continue alone.

        Raises:
            Diverged: the member's loss is NaN or infinite.
        """

    def noise(self, device: torch.device) -> torch.Generator:
        """The cell's random generator on a device, in its present state; dropout draws from it."""

    def set_noise(self, generator: torch.Generator) -> None:
        """Store the present state of the cell's random generator."""


class MemberEpochs(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, with the batches trained and measured by a stack.

    All other parts of the fit are Lightning's own: hooks, callbacks, logging, checkpoints, limits.  Counters advance as
    the steps would advance them, so a member's checkpoint is equal to the one that it would write alone.

    Args:
        trainer: the member's trainer.
        context: the cell's context in the scheduler.
        config: the cell's config, from which the scheduler finds the members that can share a stack.
    """

    def __init__(self, trainer: L.Trainer, context: CellContext, config: Mapping[str, Any]) -> None:
        epochs = trainer.fit_loop.epoch_loop
        super().__init__(trainer, epochs.min_steps, epochs.max_steps)
        self.context, self.config = context, config
        self.asked, self.epochs, self._waits_since = False, 0, 0.0
        self.refusal: str | None = None
        self.lasting: tuple[Any, ...] | None = None
        self.val_loop = _MemberEvaluation(trainer)

    @property
    def module(self) -> BaseModule:
        """The member's module, which holds its weights between epochs."""
        return cast("BaseModule", self.trainer.lightning_module)

    @property
    def data(self) -> ImageDataModule:
        """The member's data module, whose random generator determines the order of its batches."""
        return cast("ImageDataModule", self.trainer.datamodule)

    @property
    def steps(self) -> int:
        """Number of batches of the next epoch: all, or those up to ``max_steps``."""
        batches = int(self.trainer.num_training_batches)
        return batches if self.max_steps < 0 else min(batches, self.max_steps - self.global_step)

    @property
    def validates(self) -> bool:
        """True if the selection split is evaluated after the next epoch."""
        whole = self.steps == self.trainer.num_training_batches
        return whole and bool(self._should_check_val_epoch())

    def advance(self, data_fetcher: Any) -> None:
        """Train an epoch in the stack, or a single batch if the scheduler cannot stack this fit."""
        if not self.context.stacks(self):
            super().advance(data_fetcher)
            return
        steps, self._waits_since = self.steps, time.perf_counter()
        trained = self.context.wait(self)
        if trained is None:
            super().advance(data_fetcher)
            return
        assert trained.steps == steps, f"the stack made {trained.steps} steps for this fit's {steps}"
        self._move_on(steps)
        self.module.add("train", trained.sums["train"])
        cast("_MemberEvaluation", self.val_loop).sums = trained.sums.get("val")

    def begin_stack(self, bucket: int) -> None:
        """Note that a stack begins which trains this member: its epoch begins now, and not when it began to wait.

        Args:
            bucket: number of the bucket whose members are in the stack.
        """
        self.leave_out(time.perf_counter() - self._waits_since)
        for progress in self._callbacks(ProgressFile):
            progress.begin_stack(self.trainer, bucket)

    def leave_out(self, seconds: float) -> None:
        """Do not count this much of the time in which the member waits: the process did something else."""
        self._waits_since += seconds
        for history in self._callbacks(History):
            history.leave_out(seconds)

    def stand_by(self) -> None:
        """Note that a stack begins for which this member waits."""
        for progress in self._callbacks(ProgressFile):
            progress.wait(self.trainer)

    def _callbacks(self, kind: type[Kind]) -> Iterator[Kind]:
        return (each for each in self.trainer.callbacks if isinstance(each, kind))

    def _move_on(self, steps: int) -> None:
        """Advance the counters by ``steps`` batches; Lightning itself counts the last one."""
        self.val_loop.restarting = False
        whole = steps == self.trainer.num_training_batches
        self.batch_progress.increment_by(steps, is_last_batch=whole)
        done = self.automatic_optimization.optim_progress.optimizer
        done.step.increment_by(steps)
        done.zero_grad.increment_by(steps)
        self._batches_that_stepped += steps - 1


class _MemberEvaluation(_EvaluationLoop):
    """Lightning's evaluation loop, which takes the stack's measures if the stack has trained the epoch."""

    def __init__(self, trainer: L.Trainer) -> None:
        super().__init__(trainer, TrainerFn.FITTING, RunningStage.VALIDATING, verbose=False, inference_mode=False)
        self.sums: Sums | None = None

    def on_run_start(self) -> None:
        """Take the stack's measures; then no batch is left."""
        super().on_run_start()
        if self.sums is None:
            return
        cast("BaseModule", self.trainer.lightning_module).add("val", self.sums)
        self.sums = None
        self.batch_progress.increment_by(int(sum(self.max_batches)), is_last_batch=True)
        self._data_fetcher = _NoBatches()  # type: ignore[assignment]


class _NoBatches:
    """A data fetcher without batches."""

    done = True

    def __next__(self) -> Any:
        raise StopIteration

    def teardown(self) -> None:
        """Do nothing: there is nothing to release."""
