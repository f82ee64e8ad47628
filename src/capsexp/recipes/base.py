"""What a recipe is given, and what it declares."""

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
    """An argument of a recipe that has a config group, or some keys of one, to itself.

    Attributes:
        group: of the config.
        keys: those that the argument is made from; all where none are named.
        but: keys of the group that are another argument's.
        target: dotted path of the class, where the group's own is another argument's.
        asked_by: the key whose presence asks for the argument; of ``keys`` the others make no sense without it.  None
            where the group's presence does.
        hint: for those who set one of the other keys alone.
        everywhere: whether the group is there with any recipe, so that its presence asks for nothing.
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
    """What is known of a cell's trainers before one is made.

    Attributes:
        max_epochs: of a fit that is given no other number.
        callbacks: those of the config, by their names there.
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
        """A trainer for one fit, or for passes over a network.

        Args:
            directory: where the fit writes; None for the cell's own.
            callbacks: further ones, behind those of the config.
            without: names of the config's callbacks that stay out.
            in_run: whether what it logs goes into the cell's Weights & Biases run.
            prefix: what stands there before the names of all that it logs: that of the stage, where the cell has
                another fit whose curves would be mixed with these.
            **options: arguments of ``lightning.Trainer`` that take the place of the config's.
        """


@dataclass(frozen=True)
class Factories:
    """Makers of a cell's parts; a recipe sees these and never a config.

    Attributes:
        directory: the cell's directory.
        make_data: the data module.
        make_model: the architecture for ``image_shape`` and ``classes``, with the weights that training begins with.
        make_module: a LightningModule around an architecture; takes the sizes that the checkpoint keeps.
        make_trainer: a trainer, its callbacks and loggers included.
        make_logger: the logger of the cell's Weights & Biases run that puts a prefix before all names; None where there
            is no run.
        check_trainer: checks the trainer's and the callbacks' settings as ``make_trainer`` does, and makes no trainer.
        stages: what cells share.
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
    """The stages of a cell, in order.

    Attributes:
        parts: the arguments that are made from config groups of their own, by name.
        irrelevant: dotted keys of the config that change none of its stages.
    """

    parts: ClassVar[Mapping[str, Part]] = {}
    irrelevant: ClassVar[tuple[str, ...]] = ()

    def stages(self, factories: Factories) -> Sequence[Stage]:
        """The stages that it is known to go through, in order."""
        return ()

    def check(self, factories: Factories) -> None:
        """Find out what is wrong or in the way before anything is trained.

        Raises:
            ConfigError: a value breaks a rule.
            StageBusy: another cell is computing one of the stages at this moment.
        """
        for stage in self.stages(factories):
            factories.stages.check(stage)

    @abstractmethod
    def run(self, factories: Factories) -> Outcome:
        """Do the cell's work; go on from the checkpoints in its directory where there are any."""
