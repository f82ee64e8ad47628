"""What a recipe is given, and what it gives back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import numpy as np
from numpy.typing import NDArray

from capsexp.callbacks.base import ResultCallback
from capsexp.data.base import ImageDataModule
from capsexp.models.base import Classifier
from capsexp.recipes.stages import StageMemo


class MakeTrainer(Protocol):
    """Makes a trainer with the callbacks and loggers of the config."""

    def __call__(
        self,
        stage: str,
        *,
        directory: Path | None = None,
        callbacks: Sequence[L.Callback] = (),
        without: Collection[str] = (),
        in_run: bool = True,
        **options: Any,
    ) -> L.Trainer:
        """A trainer for a stage.

        Args:
            stage: its name.
            directory: where the fit writes; None for the cell's own.
            callbacks: further ones, behind those of the config.
            without: names of the config's callbacks that stay out.
            in_run: whether what it logs goes into the cell's Weights & Biases run.
            **options: arguments of ``lightning.Trainer`` that take the place of the config's.
        """


@dataclass(frozen=True)
class Factories:
    """Makers of a cell's parts; a recipe sees these and never a config.

    Attributes:
        directory: the cell's directory.
        make_data: the data module.
        make_model: the architecture for ``image_shape`` and ``classes``.
        make_module: a LightningModule around an architecture; takes the sizes that the checkpoint keeps.
        make_trainer: a trainer for the stage of that name, its callbacks and loggers included.
        stages: what cells share.
    """

    directory: Path
    make_data: Callable[[], ImageDataModule]
    make_model: Callable[..., Classifier]
    make_module: Callable[[Classifier, dict[str, Any]], L.LightningModule]
    make_trainer: MakeTrainer
    stages: StageMemo

    def make_untrained(self, data: ImageDataModule) -> tuple[L.LightningModule, Classifier]:
        """A module and its architecture for this data, with the weights that training begins with."""
        sizes = {"image_shape": list(data.image_shape), "classes": data.classes}
        model = self.make_model(image_shape=data.image_shape, classes=data.classes)
        return self.make_module(model, sizes), model


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


class Recipe(ABC):
    """The stages of a cell, in order."""

    def check(self, factories: Factories) -> None:  # noqa: B027 - most need nobody
        """Raise :class:`~capsexp.errors.StageBusy` if the cell's first stage is another's work at this moment."""

    @abstractmethod
    def run(self, factories: Factories) -> Outcome:
        """Do the cell's work; go on from the checkpoints in its directory where there are any."""


def collect(trainer: L.Trainer, module: L.LightningModule, outcome: Outcome) -> None:
    """Add what the callbacks found to an outcome, once the best weights are back."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ResultCallback):
            outcome.metrics |= callback.result_metrics(module)
            outcome.arrays |= callback.result_arrays(module)
            outcome.memory |= callback.result_memory()
