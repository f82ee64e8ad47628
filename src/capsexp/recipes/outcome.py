"""What a cell says in the end, and the one place where it is put together."""

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
    """What a recipe found.

    Attributes:
        metrics: numbers by the names under which they are logged.
        arrays: arrays for ``arrays.npz``.
        params: true number of trainable parameters.
        params_paper: number by the paper's formula.
        training: plain facts on the fit: epochs, peak epoch, why it stopped.
        data: plain facts on the data.
        memory: bytes that can be told beforehand.
        clocks: seconds.
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
    """What there is to say of a network that was trained and tested.

    Args:
        trainer: that tested it; what its callbacks found is added.
        module: with its best weights.
        data: the cell's.
        fitted: the fit that the epochs, the memory and the clocks are those of.
        metrics: of the fit and of the test.
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
    collect(trainer, module, found)
    return found


def collect(trainer: L.Trainer, module: L.LightningModule, outcome: Outcome) -> None:
    """Add what the callbacks found to an outcome, once the best weights are back."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ResultCallback):
            outcome.metrics |= callback.result_metrics(module)
            outcome.arrays |= callback.result_arrays(module)
            outcome.memory |= callback.result_memory()
