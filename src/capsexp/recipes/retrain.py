"""Train with routing for a while, then with the master coefficients in its place."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L

from capsexp.callbacks.peak import save_best
from capsexp.errors import require, require_int, require_number
from capsexp.nn.capsules import capsule_layers, set_inference
from capsexp.recipes.accumulate import LATER, Accumulate, keep_history, load_best, train
from capsexp.recipes.base import Factories, Outcome, collect
from capsexp.recipes.stages import Stage


class Retrain(Accumulate):
    """The two trainings that Zhao et al. (2019), section 8, leave to future work.

    All of :class:`Accumulate`, on a first training that may be shortened (``warm start``: few epochs, or a share of the
    data); then the network is trained to its peak with the master coefficients fixed and folded into its matrices.

    In the result ``dynamic/acc`` and ``fast/*`` are the first training's, ``test/*``, ``train/*`` and ``val/*`` the
    second's.  The checkpoint holds the second's weights, and runs with the masters.

    Args:
        first_epochs: at most so many epochs with routing; None for as many as the second training may take.
        first_share: of the training images, class by class, in the first training.
        restart: whether the second training begins with the weights that the first began with, or goes on from its
            best ones.
        **options: what :class:`Accumulate` takes.
    """

    def __init__(
        self, *, first_epochs: int | None = None, first_share: float = 1.0, restart: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self._first_epochs = None if first_epochs is None else require_int("first_epochs", first_epochs, 1)
        self._first_share = require_number("first_share", first_share, 0, 1, open_ends="<")
        require(isinstance(restart, bool), "restart", "be true or false", restart)
        self._restart = restart

    @property
    def first(self) -> Stage:
        """As in :class:`Accumulate` where nothing is shortened, so that both share it."""
        if self._first_epochs is None and self._first_share == 1:
            return super().first
        return Stage("warm", LATER, (("epochs", self._first_epochs), ("share", self._first_share)))

    def run(self, factories: Factories) -> Outcome:
        """The first training and what it gives, then the second."""
        module, outcome = self._accumulate(factories)
        second = factories.stages.get(Stage("retrain"), lambda directory: self._again(factories, module, directory))
        load_best(module, second)
        set_inference(module.model, "folded")  # type: ignore[arg-type]
        module.save_hyperparameters({"inference": "folded"}, logger=False)  # load_run asks for it
        trainer = factories.make_trainer("test")
        (tested,) = trainer.test(module, factories.make_data(), verbose=False)
        save_best(trainer)
        outcome.metrics |= {**second.facts["metrics"], **tested, "retrained/change": _change(tested, outcome)}
        outcome.training = {**second.facts["training"], "first_epochs": outcome.training["epochs"]}
        outcome.memory = {name: max(size, outcome.memory[name]) for name, size in second.facts["memory"].items()}
        outcome.clocks |= {f"retrain_{name}": seconds for name, seconds in second.facts["clocks"].items()}
        collect(trainer, module, outcome)
        keep_history(second, factories.directory)
        return outcome

    def _train(self, factories: Factories, directory: Path) -> dict[str, Any]:
        data = factories.make_data()
        data.thin(self._first_share)
        module, _ = factories.make_untrained(data)
        limit: dict[str, Any] = {} if self._first_epochs is None else {"max_epochs": self._first_epochs}
        return train(factories, module, data, directory, **limit)

    def _again(self, factories: Factories, first: L.LightningModule, directory: Path) -> dict[str, Any]:
        """The second training, in a stage's folder."""
        data = factories.make_data()
        module, model = factories.make_untrained(data)
        if not self._restart:
            module.load_state_dict(first.state_dict())
        masters = {name: layer.master_JI for name, layer in capsule_layers(first.model).items()}  # type: ignore[arg-type]
        for name, layer in capsule_layers(model).items():
            master_JI = masters[name]
            assert master_JI is not None
            layer.set_master(master_JI)
        set_inference(model, "folded")
        return train(factories, module, data, directory, "retrain")


def _change(tested: Mapping[str, float], outcome: Outcome) -> float:
    """Accuracy of the second training less that of the first, both as they are meant to run."""
    return tested["test/acc"] - outcome.metrics["dynamic/acc"]
