"""Networks between a recipe's stages: made for the cell's data, trained in a stage's folder, loaded from it again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor

from capsexp import records
from capsexp.callbacks.channel_correlation import ChannelCorrelation
from capsexp.callbacks.channel_scores import ChannelScores
from capsexp.callbacks.peak import save_best
from capsexp.lightning_modules.base import BaseModule
from capsexp.models.base import Classifier, count_parameters
from capsexp.pruning.base import Criterion
from capsexp.recipes.base import Factories, Outcome, collect
from capsexp.recipes.fit import fit
from capsexp.recipes.stages import Finished, Stage, keep_history

OWN = ("recipe", "filter", "study", "model.depth")
"""What the stages' settings say better; ``study`` only names what other keys hold."""
UNPRUNED = (*OWN, "pruning")


def base_stage(depth: int) -> Stage:
    """The training of the whole network with so many intermediate layers; cells with the same callbacks share it."""
    return Stage("base", UNPRUNED, (("depth", depth),))


def scratch_stage(widths: Mapping[str, int], depth: int) -> Stage:
    """The training of a network of other widths, from new weights; cells with the same callbacks share it."""
    return Stage("scratch", UNPRUNED, (("widths", sorted(widths.items())), ("depth", depth)))


class Networks:
    """Makes, trains and loads the networks of one cell.

    Attributes:
        whole: the architecture as the config has it, untrained.
        depth: I, the intermediate capsule layers that the config asks for; 0 for an architecture that knows none.
        knows_depth: whether the architecture can have any.

    Args:
        factories: the cell's.
    """

    def __init__(self, factories: Factories) -> None:
        self.factories = factories
        self._data = factories.make_data()
        self.whole = self.model()
        self.depth = int(getattr(self.whole, "depth", 0))
        self.knows_depth = hasattr(self.whole, "depth")

    def deep(self, depth: int) -> dict[str, int]:
        """The size that says how many intermediate capsule layers there are; none where there can be none."""
        return {"depth": depth} if self.knows_depth else {}

    def model(self, **sizes: Any) -> Classifier:
        """An architecture with the weights that training begins with; ``sizes`` take the place of the config's."""
        given = {"image_shape": self._data.image_shape, "classes": self._data.classes, **sizes}
        return self.factories.make_model(**given)

    def module(self, model: Classifier, **sizes: Any) -> BaseModule:
        """What trains a model that was made with these sizes."""
        known = {"image_shape": list(self._data.image_shape), "classes": self._data.classes, **sizes}
        return cast("BaseModule", self.factories.make_module(model, known))

    def load(self, stage: Finished) -> BaseModule:
        """The best network of a finished stage, as wide and deep as it was."""
        saved = torch.load(stage.directory / records.BEST_CHECKPOINT, map_location="cpu", weights_only=True)
        sizes = saved["hyper_parameters"]["sizes"]
        module = self.module(self.model(**sizes), **sizes)
        module.take(saved["state_dict"])
        return module

    def train(
        self, module: BaseModule, directory: Path, stage: str, epochs: int | None, *callbacks: L.Callback
    ) -> dict[str, Any]:
        """Fit a module in a stage's folder, test its best weights and leave them there; returns the stage's facts.

        Args:
            module: as it begins.
            directory: the stage's.
            stage: its name.
            epochs: at most so many; None for ``trainer.max_epochs``.
            *callbacks: further ones for the fit.
        """
        limit: dict[str, Any] = {} if epochs is None else {"max_epochs": epochs}
        data, found = self.factories.make_data(), Outcome()
        added = [*callbacks, ChannelCorrelation()]
        trainer = self.factories.make_trainer(stage, directory=directory, callbacks=added, **limit)
        fitted = fit(trainer, module, data)
        (tested,) = trainer.test(module, data, verbose=False)
        save_best(trainer)
        collect(trainer, module, found)
        params = count_parameters(cast("Classifier", module.model))
        return {**fitted.plain(), "tested": {**found.metrics, **tested}, "params": params}

    def train_new(self, directory: Path, stage: str, **sizes: Any) -> dict[str, Any]:
        """Train a network of these sizes from new weights in a stage's folder; returns the stage's facts."""
        return self.train(self.module(self.model(**sizes), **sizes), directory, stage, None)

    def scores(
        self, module: BaseModule, criterion: Criterion, batches: int | None, directory: Path
    ) -> dict[str, Tensor]:
        """What a criterion says of a network's channels.

        Args:
            module: the network.
            criterion: that scores.
            batches: of training images, where it needs feature maps; None for all.
            directory: the stage's.
        """
        listener = ChannelScores(criterion, batches)
        if criterion.needs == "weights":
            return listener.of_weights(module.model)
        trainer = self.factories.make_trainer("scores", directory=directory, callbacks=[listener], in_run=False)
        trainer.predict(module, datamodule=self.factories.make_data(), return_predictions=False)
        return listener.scores

    def outcome(self, stage: Finished) -> Outcome:
        """What a cell says of a stage's network: tested once more, weights and epochs copied into the cell's folder."""
        module, data = self.load(stage), self.factories.make_data()
        model = cast("Classifier", module.model)
        trainer = self.factories.make_trainer("test", callbacks=[ChannelCorrelation()], in_run=False)
        (tested,) = trainer.test(module, data, verbose=False)
        save_best(trainer)
        found = Outcome(
            metrics={**stage.facts["metrics"], **tested},
            params=count_parameters(model),
            params_paper=model.params_paper(),
            training=dict(stage.facts["training"]),
            data=data.summary(),
            memory=stage.facts["memory"],
            clocks=dict(stage.facts["clocks"]),
        )
        collect(trainer, module, found)
        if "broken" in found.training:
            found.metrics["broken"] = float(found.training["broken"])  # a number, for the reports
        keep_history(stage, self.factories.directory)
        return found
