"""One fit to its peak, and what there is to say about it."""

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
from capsexp.callbacks.resume import resumable
from capsexp.data.base import ImageDataModule
from capsexp.models.base import Classifier


@dataclass(frozen=True)
class FitResult:
    """What a fit found.

    Attributes:
        metrics: the last epoch's training means, and the peak's on the selection split.
        training: epochs, peak epoch, and why it stopped.
        memory: bytes that can be told beforehand.
        clocks: seconds.
    """

    metrics: dict[str, float]
    training: dict[str, Any]
    memory: dict[str, int]
    clocks: dict[str, float]

    def plain(self) -> dict[str, Any]:
        """The same as a dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """The same from such a dictionary; what else it holds is left out."""
        return cls(*(dict(facts[each.name]) for each in fields(cls)))


class StartingStates(L.Callback):
    """Lets a fit start from known random states, whatever was drawn before.

    It is the last to act in ``setup``, where a network may still be replaced.  A fit that goes on takes the states from
    its checkpoint (:class:`~capsexp.callbacks.resume.ResumeCheckpoint`).

    Args:
        states: the states; None for those behind the drawing of the network's weights.
    """

    def __init__(self, states: rng.States | None = None) -> None:
        self._states = states

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Put them back."""
        if stage == "fit":
            states = self._states or cast("Classifier", pl_module.model).random_states
            assert states is not None, "whoever makes a model keeps them"
            rng.put_back(states)


def fit(trainer: L.Trainer, module: L.LightningModule, data: ImageDataModule) -> FitResult:
    """Train to the peak, from a checkpoint of an interrupted fit where there is one; the best weights are back then.

    Raises:
        KeyboardInterrupt: the user stopped it.
    """
    trainer.precision_plugin.convert_module(
        module
    )  # Lightning does so behind a checkpoint's loading, which would round
    trainer.callbacks.append(StartingStates())  # type: ignore[attr-defined]
    trainer.fit(module, data, ckpt_path=resumable(trainer), weights_only=True)
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
