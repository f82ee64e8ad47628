"""Networks between a recipe's stages: made for the cell's data, trained in a stage's folder and loaded from it."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import lightning as L
from torch import Tensor

from capsexp.callbacks.channel_correlation import ChannelCorrelation
from capsexp.callbacks.channel_scores import ChannelScores
from capsexp.callbacks.checkpoints import read_best
from capsexp.callbacks.peak import save_best
from capsexp.lightning_modules.base import BaseModule
from capsexp.models.base import Classifier, count_parameters
from capsexp.pruning.base import Criterion
from capsexp.recipes.base import Factories
from capsexp.recipes.fit import FitResult, fit
from capsexp.recipes.outcome import Outcome, collect, outcome_of
from capsexp.recipes.stages import Stage, StageResult, keep_history

DEPTH = "model.depth"


def base_stage(depth: int, irrelevant: tuple[str, ...]) -> Stage:
    """The training of the whole network with ``depth`` intermediate layers; cells with the same callbacks share it.

    Args:
        depth: depth that replaces the config's.
        irrelevant: dotted config keys that do not change the training.
    """
    return Stage("base", irrelevant=irrelevant, settings=((DEPTH, depth),))


def scratch_stage(widths: Mapping[str, int], depth: int, irrelevant: tuple[str, ...]) -> Stage:
    """The training of a network of other widths, from new weights; cells with the same callbacks share it.

    Args:
        widths: widths of its channel layers.
        depth: depth that replaces the config's.
        irrelevant: dotted config keys that do not change the training.
    """
    return Stage("scratch", irrelevant=irrelevant, settings=(("widths", sorted(widths.items())), (DEPTH, depth)))


class Networks:
    """Makes, trains and loads the networks of one cell.

    Args:
        factories: the cell's makers.
    """

    def __init__(self, factories: Factories) -> None:
        self.factories = factories
        self._data = factories.make_data()

    @functools.cached_property
    def whole(self) -> Classifier:
        """The untrained architecture that the config describes."""
        return self.model()

    @property
    def depth(self) -> int:
        """I, the number of intermediate capsule layers in the config; 0 for an architecture without this argument."""
        return int(getattr(self.whole, "depth", 0))

    @property
    def knows_depth(self) -> bool:
        """True if the architecture can have intermediate capsule layers."""
        return hasattr(self.whole, "depth")

    def deep(self, depth: int) -> dict[str, int]:
        """The argument for ``depth`` intermediate capsule layers; empty if the architecture can have none."""
        return {"depth": depth} if self.knows_depth else {}

    def model(self, **sizes: Any) -> Classifier:
        """An architecture with the initial weights of training; ``sizes`` replace those of the config."""
        given = {"image_shape": self._data.image_shape, "classes": self._data.classes, **sizes}
        return self.factories.make_model(**given)

    def module(self, model: Classifier, **sizes: Any) -> BaseModule:
        """The LightningModule around a model that was made with these sizes."""
        known = {"image_shape": list(self._data.image_shape), "classes": self._data.classes, **sizes}
        return self.factories.make_module(model, known)

    def new(self, **sizes: Any) -> BaseModule:
        """The LightningModule around a new model of these sizes."""
        return self.module(self.model(**sizes), **sizes)

    def load(self, stage: StageResult) -> BaseModule:
        """The best network of a finished stage, with its width and depth."""
        best = read_best(stage.directory)
        module = self.new(**best.sizes)
        module.take(best.weights)
        return module

    def train(
        self,
        module: BaseModule,
        directory: Path,
        *callbacks: L.Callback,
        prefix: str = "",
        epochs: int | None = None,
    ) -> dict[str, Any]:
        """Fit a module in a stage's folder, test its best weights and save them there; returns the stage's facts.

        Args:
            module: the module in its initial state.
            directory: the stage's folder.
            *callbacks: further callbacks of the fit.
            prefix: prefix of logged names, see :class:`~capsexp.recipes.base.MakeTrainer`.
            epochs: largest number of epochs; None for ``trainer.max_epochs``.
        """
        limit: dict[str, Any] = {} if epochs is None else {"max_epochs": epochs}
        data, found = self.factories.make_data(), Outcome()
        added = [*callbacks, ChannelCorrelation()]
        trainer = self.factories.make_trainer(directory=directory, callbacks=added, prefix=prefix, **limit)
        fitted = fit(trainer, module, data)
        (tested,) = trainer.test(module, data, verbose=False)
        save_best(trainer)
        collect(trainer, module, found)
        params = count_parameters(cast("Classifier", module.model))
        return {**fitted.plain(), "tested": {**found.metrics, **tested}, "params": params}

    def train_new(self, directory: Path, prefix: str = "", **sizes: Any) -> dict[str, Any]:
        """Train a network of these sizes from new weights in a stage's folder; returns the stage's facts."""
        return self.train(self.new(**sizes), directory, prefix=prefix)

    def scores(
        self, module: BaseModule, criterion: Criterion, batches: int | None, directory: Path
    ) -> dict[str, Tensor]:
        """The scores that a criterion gives to a network's channels.

        Args:
            module: the network.
            criterion: the criterion.
            batches: number of batches of training images, if the criterion needs feature maps; None for all.
            directory: the stage's folder.
        """
        listener = ChannelScores(criterion, batches)
        if criterion.needs == "weights":
            return listener.of_weights(module.model)
        trainer = self.factories.make_trainer(directory=directory, callbacks=[listener], in_run=False)
        trainer.predict(module, datamodule=self.factories.make_data(), return_predictions=False)
        return listener.scores

    def outcome(self, stage: StageResult) -> Outcome:
        """A cell's result for a stage's network, tested again; weights and epochs are copied to the cell's folder."""
        module, data = self.load(stage), self.factories.make_data()
        trainer = self.factories.make_trainer(callbacks=[ChannelCorrelation()], in_run=False)
        (tested,) = trainer.test(module, data, verbose=False)
        save_best(trainer)
        found = outcome_of(trainer, module, data, FitResult.of(stage.facts), {**stage.facts["metrics"], **tested})
        keep_history(stage, self.factories.directory)
        return found
