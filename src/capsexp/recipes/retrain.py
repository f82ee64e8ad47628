"""Train with routing first, then with master coefficients in its place."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from capsexp.callbacks.checkpoints import read_best
from capsexp.callbacks.peak import save_best
from capsexp.errors import require, require_choice, require_int, require_number
from capsexp.lightning_modules.base import BaseModule
from capsexp.nn.capsules import Inference, capsule_layers, set_inference
from capsexp.recipes.accumulate import Accumulate, train
from capsexp.recipes.base import Factories
from capsexp.recipes.diagnose import diagnose
from capsexp.recipes.networks import Networks
from capsexp.recipes.outcome import Outcome, collect
from capsexp.recipes.stages import Stage, keep_history


class Retrain(Accumulate):
    """The two trainings that Zhao et al. (2019), section 8, name as future work.

    The first part is :class:`Accumulate`, with a first training that may be shortened (``warm start``: few epochs, or
    a share of the data).  Then the network is trained to its peak with the master coefficients fixed and folded into
    its matrices.

    In the result, ``dynamic/acc``, ``fast/*`` and ``filter/kept`` are those of the first training, everything else
    (``test/*``, ``correlation/*``, the arrays) those of the second.  The checkpoint holds the weights and the inference
    of the second training.

    Args:
        first_epochs: largest number of epochs with routing; None for the limit of the second training.
        first_share: share of each class's training images that the first training uses.
        restart: True if the second training begins with the initial weights of the first, False if it continues from
            the best weights of the first.
        second: ``master``, or ``routing`` for a second training like the first: a control for the additional epochs.
        **options: arguments of :class:`Accumulate`.
    """

    irrelevant: ClassVar[tuple[str, ...]] = (*Accumulate.irrelevant, "recipe.restart", "recipe.second")

    def __init__(
        self,
        *,
        first_epochs: int | None = None,
        first_share: float = 1.0,
        restart: bool = False,
        second: str = "master",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._first_epochs = None if first_epochs is None else require_int("first_epochs", first_epochs, 1)
        self._first_share = require_number("first_share", first_share, 0, 1, open_ends="<")
        require(isinstance(restart, bool), "restart", "be true or false", restart)
        self._restart = restart
        master = require_choice("second", second, ("master", "routing")) == "master"
        self._inference: Inference = "folded" if master else "dynamic"

    @property
    def first(self) -> Stage:
        """The first training; unless it is shortened, it is the stage of :class:`Accumulate`, so that both share it."""
        if self._first_epochs is None and self._first_share == 1:
            return Stage("train", irrelevant=(*self.irrelevant, "recipe.first_epochs", "recipe.first_share"))
        return Stage("warm", irrelevant=self.irrelevant)

    @property
    def second(self) -> Stage:
        """The second training; it depends on every key of the config."""
        return Stage("retrain", self.first)

    def stages(self, factories: Factories) -> Sequence[Stage]:
        """Both trainings."""
        return [self.first, self.second]

    def run(self, factories: Factories) -> Outcome:
        """Run the first training and its accumulation, then the second training."""
        module, outcome = self._accumulate(factories)
        second = factories.stages.get(self.second, lambda directory: self._again(factories, module, directory))
        module.load_state_dict(read_best(second.directory).weights)
        set_inference(module.model, self._inference)
        module.save_hyperparameters({"inference": self._inference}, logger=False)  # load_run reads it
        data, trainer = factories.make_data(), factories.make_trainer(in_run=False)
        (tested,) = trainer.test(module, data, verbose=False)
        save_best(trainer)
        arrays, found = diagnose(module, data, lambda added: factories.make_trainer(callbacks=added, in_run=False))
        outcome.metrics |= {**second.facts["metrics"], **tested, **found, "retrained/change": _change(tested, outcome)}
        outcome.training = {**second.facts["training"], "first_epochs": outcome.training["epochs"]}
        outcome.memory = {name: max(size, outcome.memory[name]) for name, size in second.facts["memory"].items()}
        outcome.clocks |= {f"retrain_{name}": seconds for name, seconds in second.facts["clocks"].items()}
        collect(trainer, module, outcome)
        outcome.arrays |= arrays
        keep_history(second, factories.directory)
        return outcome

    def _train(self, factories: Factories, directory: Path) -> dict[str, Any]:
        data = factories.make_data()
        data.thin(self._first_share)
        limit: dict[str, Any] = {} if self._first_epochs is None else {"max_epochs": self._first_epochs}
        return train(factories, Networks(factories).new(), data, directory, **limit)

    def _again(self, factories: Factories, first: BaseModule, directory: Path) -> dict[str, Any]:
        """Run the second training in a stage's folder."""
        module, data = Networks(factories).new(), factories.make_data()
        if not self._restart:
            module.load_state_dict(first.state_dict())
        masters = {name: layer.master_JI for name, layer in capsule_layers(first.model).items()}
        for name, layer in capsule_layers(module.model).items():
            master_JI = masters[name]
            assert master_JI is not None
            layer.set_master(master_JI)
        set_inference(module.model, self._inference)
        return train(factories, module, data, directory, prefix="retrain")


def _change(tested: Mapping[str, float], outcome: Outcome) -> float:
    """Accuracy of the second training minus that of the first, each with its own inference."""
    return tested["test/acc"] - outcome.metrics["dynamic/acc"]
