"""The result of a cell; it is assembled only here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import lightning as L
import numpy as np
from numpy.typing import NDArray

from capsexp.callbacks.base import ResultCallback
from capsexp.data.base import ImageDataModule
from capsexp.lightning_modules.base import BaseModule
from capsexp.models.base import Classifier, count_parameters
from capsexp.recipes.fit import FitResult


@dataclass
class Outcome:
    """The result of a recipe.

    Attributes:
        metrics: numbers by the names under which they are logged.
        arrays: arrays for ``arrays.npz``.
        params: true number of trainable parameters.
        params_paper: number of parameters by the paper's formula.
        training: plain facts about the fit: epochs, peak epoch, reason of the stop.
        data: plain facts about the data.
        memory: memory in bytes that is known before training.
        clocks: durations in seconds.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    params: int = 0
    params_paper: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    clocks: dict[str, float] = field(default_factory=dict)


def outcome_of(
    trainer: L.Trainer, module: BaseModule, data: ImageDataModule, fitted: FitResult, metrics: Mapping[str, float]
) -> Outcome:
    """The result for a network that was trained and tested.

    Args:
        trainer: the trainer of the test; the results of its callbacks are added.
        module: the module with its best weights.
        data: the cell's data.
        fitted: results of the fit, for the epochs, the memory and the clocks.
        metrics: metrics of the fit and of the test.
    """
    model = cast("Classifier", module.model)
    found = Outcome(
        metrics=dict(metrics),
        params=count_parameters(model),
        params_paper=model.params_paper(),
        training=dict(fitted.training),
        data=data.summary(),
        memory=dict(fitted.memory),
        clocks=dict(fitted.clocks),
    )
    if "broken" in found.training:
        found.metrics["broken"] = float(found.training["broken"])  # a number, for the reports
    collect(trainer, module, found)
    return found


def collect(trainer: L.Trainer, module: L.LightningModule, outcome: Outcome) -> None:
    """Add the results of a trainer's callbacks to an outcome, once the best weights are restored."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ResultCallback):
            outcome.metrics |= callback.result_metrics(module)
            outcome.arrays |= callback.result_arrays(module)
            outcome.memory |= callback.result_memory()
