"""Train, accumulate the couplings of the training images into master coefficients, and test without a routing loop."""

from pathlib import Path
from typing import Any

import lightning as L
import torch

from capsexp import records
from capsexp.callbacks.coupling_analysis import CouplingAnalysis
from capsexp.callbacks.master_coefficients import MasterCoefficients
from capsexp.callbacks.peak import save_best
from capsexp.data.base import ImageDataModule
from capsexp.errors import require
from capsexp.filters.base import Filter
from capsexp.models.base import count_parameters
from capsexp.nn.capsules import Inference, capsule_layers, set_inference
from capsexp.recipes.base import Factories, Outcome, Recipe, collect
from capsexp.recipes.examine import TESTS
from capsexp.recipes.fit import fit
from capsexp.recipes.latency import latencies
from capsexp.recipes.stages import Finished, Stage, keep_history

LATER = ("recipe", "filter")
"""Groups that a first training does not depend on, so that cells which differ in them share it."""


class Accumulate(Recipe):
    """Zhao et al. (2019): one training, and both ways of inference of what it found.

    The network is trained to its peak (a stage that cells share), the couplings of its training images become the
    master coefficients of every capsule layer, and the test images are classified twice: with routing and, ``fast``,
    with the masters.  The checkpoint holds the trained weights and the masters.

    In the result ``test/*`` and ``dynamic/acc`` are the routed network's, ``fast/*`` those of the masters, and
    ``fast/change`` is fast less dynamic accuracy.

    Args:
        filter: which training images' couplings count; None for all.
        columns: ``whole`` or ``ground_truth``, see :class:`~capsexp.callbacks.master_coefficients.MasterCoefficients`.
    """

    def __init__(self, *, filter: Filter | None = None, columns: str = "whole") -> None:
        self._masters = MasterCoefficients(filter, columns)
        self._analysis = CouplingAnalysis()

    @property
    def first(self) -> Stage:
        """The training that everything else begins with."""
        return Stage("train", LATER)

    def check(self, factories: Factories) -> None:
        """Raise :class:`~capsexp.errors.StageBusy` while another cell trains the same network."""
        factories.stages.check(self.first)

    def run(self, factories: Factories) -> Outcome:
        """Train or take what was trained, accumulate, test twice, and gather what was found."""
        return self._accumulate(factories)[1]

    def _accumulate(self, factories: Factories) -> tuple[L.LightningModule, Outcome]:
        data = factories.make_data()
        module, model = factories.make_untrained(data)
        rule = "be train for a network without capsule layers (model=capsnet has some)"
        require(bool(capsule_layers(model)), "recipe", rule, type(self).__name__.lower())
        trained = factories.stages.get(self.first, lambda directory: self._train(factories, directory))
        load_best(module, trained)
        trainer = factories.make_trainer("accumulate", callbacks=[self._masters, self._analysis], in_run=False)
        for _ in range(self._masters.passes):
            trainer.predict(module, datamodule=data, return_predictions=False)
        metrics = {**trained.facts["metrics"], **self._test_both(trainer, module, data)}
        save_best(trainer)
        outcome = Outcome(
            metrics=metrics,
            params=count_parameters(model),
            params_paper=model.params_paper(),
            training=trained.facts["training"],
            data=data.summary(),
            memory=trained.facts["memory"],
            clocks={**trained.facts["clocks"], **latencies(module, data, trainer)},
        )
        collect(trainer, module, outcome)
        keep_history(trained, factories.directory)
        return module, outcome

    def _train(self, factories: Factories, directory: Path) -> dict[str, Any]:
        """The first training, in a stage's folder."""
        data = factories.make_data()
        module, _ = factories.make_untrained(data)
        return train(factories, module, data, directory)

    def _test_both(self, trainer: L.Trainer, module: L.LightningModule, data: ImageDataModule) -> dict[str, float]:
        """Metrics on the test part with routing and with the masters, which are on the layers by now."""
        dynamic, fast = (self._test(trainer, module, data, *test) for test in TESTS)
        set_inference(module.model, "dynamic")  # type: ignore[arg-type]
        return {
            **dynamic,
            "dynamic/acc": dynamic["test/acc"],
            **{name.replace("test/", "fast/"): value for name, value in fast.items()},
            "fast/change": fast["test/acc"] - dynamic["test/acc"],
        }

    def _test(
        self, trainer: L.Trainer, module: L.LightningModule, data: ImageDataModule, source: str, inference: Inference
    ) -> dict[str, float]:
        set_inference(module.model, inference)  # type: ignore[arg-type]
        self._analysis.source = source
        (tested,) = trainer.test(module, data, verbose=False)
        return dict(tested)


def train(
    factories: Factories,
    module: L.LightningModule,
    data: ImageDataModule,
    directory: Path,
    stage: str = "train",
    **options: Any,
) -> dict[str, Any]:
    """Fit a module in a stage's folder and leave its best weights there; returns the stage's facts."""
    trainer = factories.make_trainer(stage, directory=directory, **options)
    fitted = fit(trainer, module, data)
    save_best(trainer)
    return fitted.plain()


def load_best(module: L.LightningModule, stage: Finished) -> None:
    """Give a module the best weights of a finished stage."""
    saved = torch.load(stage.directory / records.BEST_CHECKPOINT, map_location="cpu", weights_only=True)
    module.load_state_dict(saved["state_dict"])
