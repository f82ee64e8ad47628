"""The base class of recipes, the makers that a recipe works with, and the config groups that it declares."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import lightning as L
from lightning.pytorch.loggers import Logger

from capsexp.data.base import ImageDataModule
from capsexp.lightning_modules.base import BaseModule
from capsexp.models.base import Classifier
from capsexp.recipes.outcome import Outcome
from capsexp.recipes.stages import Stage, StageMemo


@dataclass(frozen=True)
class Part:
    """An argument of a recipe that is made from a config group of its own, or from some keys of one.

    Attributes:
        group: name of the config group.
        keys: keys that the argument is made from; empty for all keys of the group.
        but: keys of the group that belong to another argument.
        target: dotted path of the class; None for the group's ``_target_``.
        asked_by: the key whose presence requests the argument; the other ``keys`` have no effect without it.  None if
            the group's presence requests the argument.
        hint: addition to the error message if one of the other keys is set alone.
        everywhere: True if every recipe's config has the group, so that its presence requests nothing.
    """

    group: str
    keys: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    target: str | None = None
    asked_by: str | None = None
    hint: str = ""
    everywhere: bool = False


@dataclass(frozen=True)
class TrainerSettings:
    """The settings of a cell's trainers, known before one is made.

    Attributes:
        max_epochs: largest number of epochs of a fit that sets no other limit.
        callbacks: the callbacks of the config, by their names there.
    """

    max_epochs: int
    callbacks: Mapping[str, L.Callback]


class MakeTrainer(Protocol):
    """Makes a trainer with the callbacks and loggers of the config."""

    def __call__(
        self,
        *,
        directory: Path | None = None,
        callbacks: Sequence[L.Callback] = (),
        without: Collection[str] = (),
        in_run: bool = True,
        prefix: str = "",
        **options: Any,
    ) -> L.Trainer:
        """A trainer for one fit, or for evaluation passes of a network.

        Args:
            directory: directory that the fit writes to; None for the cell's directory.
            callbacks: further callbacks, placed after those of the config.
            without: names of the config's callbacks that are left out.
            in_run: True if its metrics are logged to the cell's Weights & Biases run.
            prefix: prefix of all names in that run: the stage's name if the cell has another fit, whose curves would
                be mixed with these.
            **options: arguments of ``lightning.Trainer`` that replace those of the config.
        """


@dataclass(frozen=True)
class Factories:
    """The makers of a cell's parts; a recipe uses these and never reads a config.

    Attributes:
        directory: the cell's directory.
        make_data: makes the data module.
        make_model: makes the architecture for ``image_shape`` and ``classes``, with the initial weights of training.
        make_module: makes a LightningModule around an architecture; takes the sizes that the checkpoint keeps.
        make_trainer: makes a trainer with its callbacks and loggers.
        make_logger: makes a logger for the cell's Weights & Biases run that adds a prefix to all names; None if there
            is no run.
        check_trainer: checks the trainer's and the callbacks' settings as ``make_trainer`` does, without making a
            trainer.
        stages: the stages that cells share.
    """

    directory: Path
    make_data: Callable[[], ImageDataModule]
    make_model: Callable[..., Classifier]
    make_module: Callable[[Classifier, dict[str, Any]], BaseModule]
    make_trainer: MakeTrainer
    make_logger: Callable[[str], Logger | None]
    check_trainer: Callable[[], TrainerSettings]
    stages: StageMemo


class Recipe(ABC):
    """The work of a cell as a sequence of stages.

    Attributes:
        parts: arguments that are made from config groups of their own, by name.
        irrelevant: dotted keys of the config that change none of the stages.
    """

    parts: ClassVar[Mapping[str, Part]] = {}
    irrelevant: ClassVar[tuple[str, ...]] = ()

    def stages(self, factories: Factories) -> Sequence[Stage]:
        """The stages that are known before the run, in order."""
        return ()

    def check(self, factories: Factories) -> None:
        """Check the config and the availability of the stages before anything is trained.

        Raises:
            ConfigError: a value breaks a rule.
            StageBusy: another cell is computing one of the stages.
        """
        for stage in self.stages(factories):
            factories.stages.check(stage)

    @abstractmethod
    def run(self, factories: Factories) -> Outcome:
        """Do the cell's work; continue from the checkpoints in its directory if there are any."""
