"""One fit to its peak, and its results."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, cast

import lightning as L

from capsexp import rng
from capsexp.callbacks.base import ResultCallback
from capsexp.callbacks.collapse import CollapseGuard
from capsexp.callbacks.history import History
from capsexp.callbacks.peak import Peak
from capsexp.callbacks.resume import resuming
from capsexp.data.base import ImageDataModule
from capsexp.models.base import Classifier


@dataclass(frozen=True)
class FitResult:
    """The results of a fit.

    Attributes:
        metrics: training means of the last epoch, and means of the peak on the selection split.
        training: number of epochs, peak epoch, and reason of the stop.
        memory: memory in bytes that is known before training.
        clocks: durations in seconds.
    """

    metrics: dict[str, float]
    training: dict[str, Any]
    memory: dict[str, int]
    clocks: dict[str, float]

    def plain(self) -> dict[str, Any]:
        """The results as a dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """Results from such a dictionary; its other keys are ignored."""
        return cls(*(dict(facts[each.name]) for each in fields(cls)))


class StartingStates(L.Callback):
    """Makes a fit start from known random states, whatever was drawn before.

    It acts last in ``setup``, where other callbacks may still replace the network.  A resumed fit takes the states from
    its checkpoint (:class:`~capsexp.callbacks.resume.ResumeCheckpoint`).

    Args:
        states: the states; None for those after the network's weights were drawn.
    """

    def __init__(self, states: rng.States | None = None) -> None:
        self._states = states

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the states at the start of a fit."""
        if stage == "fit":
            states = self._states or cast("Classifier", pl_module.model).random_states
            assert states is not None, "the maker of a model keeps them"
            rng.put_back(states)


def fit(trainer: L.Trainer, module: L.LightningModule, data: ImageDataModule) -> FitResult:
    """Train to the peak and restore the best weights; an interrupted fit continues from its checkpoint.

    Raises:
        KeyboardInterrupt: the user stopped the fit.
        StartOver: its checkpoint does not suit it and is removed.
    """
    # Lightning converts the module only after it loads a checkpoint, so that the loading would round.
    trainer.precision_plugin.convert_module(module)
    trainer.callbacks.append(StartingStates())  # type: ignore[attr-defined]
    with resuming(trainer) as checkpoint:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    history = _history(trainer)
    metrics = {name: value for name, value in history.rows[-1].items() if name.startswith("train/")}
    memory: dict[str, int] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Peak):
            metrics |= callback.metrics
        if isinstance(callback, ResultCallback):
            memory |= callback.result_memory()
    clocks = {"fit_s": sum(history.seconds), "epoch_s": statistics.median(history.seconds)}
    return FitResult(metrics, _facts(trainer, history), memory, clocks)


def _facts(trainer: L.Trainer, history: History) -> dict[str, Any]:
    epochs = len(history.rows)
    stopped = "max_epochs" if epochs == trainer.max_epochs else "patience" if trainer.should_stop else "limit"
    facts: dict[str, Any] = {"epochs": epochs, "stopped": stopped}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Peak):
            facts["peak_epoch"] = callback.epoch
        if isinstance(callback, CollapseGuard):
            facts |= {"broken": callback.collapsed} | ({"stopped": "broken"} if callback.collapsed else {})
    return facts


def _history(trainer: L.Trainer) -> History:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, History):
            return callback
    raise AssertionError("the trainer's maker checks that there is one")
