"""Train, accumulate the couplings of the training images into master coefficients, and test without a routing loop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning as L

from capsexp.callbacks.checkpoints import read_best
from capsexp.callbacks.coupling_analysis import CouplingAnalysis
from capsexp.callbacks.master_coefficients import MasterCoefficients
from capsexp.callbacks.peak import save_best
from capsexp.data.base import ImageDataModule
from capsexp.errors import require
from capsexp.filters.base import Filter
from capsexp.lightning_modules.base import BaseModule
from capsexp.nn.capsules import Inference, capsule_layers, set_inference
from capsexp.recipes.base import Factories, Part, Recipe
from capsexp.recipes.diagnose import TESTS
from capsexp.recipes.fit import FitResult, fit
from capsexp.recipes.latency import latencies
from capsexp.recipes.networks import Networks
from capsexp.recipes.outcome import Outcome, outcome_of
from capsexp.recipes.stages import Stage, keep_history


class Accumulate(Recipe):
    """Zhao et al. (2019): one training, and both ways of inference with its result.

    The network is trained to its peak (a stage that cells share).  The couplings of its training images become the
    master coefficients of every capsule layer.  The test images are classified twice: with routing, and with the master
    coefficients (``fast``).  The checkpoint holds the trained weights and the master coefficients.

    In the result, ``test/*`` and ``dynamic/acc`` are those of the network with routing, ``fast/*`` those with master
    coefficients, and ``fast/change`` is the fast accuracy minus the dynamic one.

    Args:
        filter: selects the training images whose couplings are accumulated; None for all.
        columns: ``whole`` or ``ground_truth``, see :class:`~capsexp.callbacks.master_coefficients.MasterCoefficients`.
    """

    parts: ClassVar[Mapping[str, Part]] = {"filter": Part("filter")}
    irrelevant: ClassVar[tuple[str, ...]] = ("recipe._target_", "recipe.columns", "filter")

    def __init__(self, *, filter: Filter | None = None, columns: str = "whole") -> None:
        self._masters = MasterCoefficients(filter, columns)
        self._analysis = CouplingAnalysis()

    @property
    def first(self) -> Stage:
        """The training that precedes everything else."""
        return Stage("train", irrelevant=self.irrelevant)

    def stages(self, factories: Factories) -> Sequence[Stage]:
        """The only training."""
        return [self.first]

    def run(self, factories: Factories) -> Outcome:
        """Train or load the trained network, accumulate, test twice, and collect the results."""
        return self._accumulate(factories)[1]

    def _accumulate(self, factories: Factories) -> tuple[BaseModule, Outcome]:
        data = factories.make_data()
        module = Networks(factories).new()
        rule = "be train for a network without capsule layers (model=capsnet has some)"
        layers = capsule_layers(module.model)
        require(bool(layers), "recipe", rule, type(self).__name__.lower())
        for layer in layers.values():
            rule = f"be train: {type(layer.routing).__name__} has no master coefficients"
            require(layer.routing.has_master, "recipe", rule, type(self).__name__.lower())
        trained = factories.stages.get(self.first, lambda directory: self._train(factories, directory))
        module.load_state_dict(read_best(trained.directory).weights)
        trainer = factories.make_trainer(callbacks=[self._masters, self._analysis], in_run=False)
        for _ in range(self._masters.passes):
            trainer.predict(module, datamodule=data, return_predictions=False)
        metrics = {**trained.facts["metrics"], **self._test_both(trainer, module, data)}
        save_best(trainer)
        clocks = latencies(module, data, trainer)
        outcome = outcome_of(trainer, module, data, FitResult.of(trained.facts), metrics)
        outcome.clocks |= clocks
        keep_history(trained, factories.directory)
        return module, outcome

    def _train(self, factories: Factories, directory: Path) -> dict[str, Any]:
        """Run the first training in a stage's folder."""
        return train(factories, Networks(factories).new(), factories.make_data(), directory)

    def _test_both(self, trainer: L.Trainer, module: BaseModule, data: ImageDataModule) -> dict[str, float]:
        """Metrics on the test split with routing and with the master coefficients, which the layers already hold."""
        dynamic, fast = (self._test(trainer, module, data, *test) for test in TESTS)
        set_inference(module.model, "dynamic")
        return {
            **dynamic,
            "dynamic/acc": dynamic["test/acc"],
            **{name.replace("test/", "fast/"): value for name, value in fast.items()},
            "fast/change": fast["test/acc"] - dynamic["test/acc"],
        }

    def _test(
        self, trainer: L.Trainer, module: BaseModule, data: ImageDataModule, source: str, inference: Inference
    ) -> dict[str, float]:
        set_inference(module.model, inference)
        self._analysis.source = source
        (tested,) = trainer.test(module, data, verbose=False)
        return dict(tested)


def train(
    factories: Factories, module: BaseModule, data: ImageDataModule, directory: Path, **options: Any
) -> dict[str, Any]:
    """Fit a module in a stage's folder and save its best weights there; returns the stage's facts.

    Args:
        factories: the cell's makers.
        module: the module in its initial state.
        data: data of the fit.
        directory: the stage's folder.
        **options: arguments of ``make_trainer``.
    """
    trainer = factories.make_trainer(directory=directory, **options)
    fitted = fit(trainer, module, data)
    save_best(trainer)
    return fitted.plain()
