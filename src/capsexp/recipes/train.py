"""Train one architecture and test its best weights."""

import statistics
from typing import Any

import lightning as L

from capsexp.callbacks.history import History
from capsexp.callbacks.peak import Peak, save_best
from capsexp.callbacks.resume import resumable
from capsexp.models.base import count_parameters
from capsexp.recipes.base import Factories, Outcome, Recipe, collect


class Train(Recipe):
    """Train to the peak of the selection split, bring the best weights back, test once.

    In the result ``train/*`` are the last epoch's means, ``val/*`` the peak's, and ``test/*`` the best weights'.
    """

    def run(self, factories: Factories) -> Outcome:
        """Fit, test, and gather what was found."""
        data = factories.make_data()
        sizes = {"image_shape": list(data.image_shape), "classes": data.classes}
        model = factories.make_model(image_shape=data.image_shape, classes=data.classes)
        module = factories.make_module(model, sizes)
        trainer = factories.make_trainer("train")
        trainer.fit(module, data, ckpt_path=resumable(trainer), weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt
        (tested,) = trainer.test(module, data, verbose=False)
        save_best(trainer)
        history = _history(trainer)
        trained = {name: value for name, value in history.rows[-1].items() if name.startswith("train/")}
        outcome = Outcome(
            metrics={**trained, **tested},
            params=count_parameters(model),
            params_paper=model.params_paper(),
            training=_training_facts(trainer, history),
            data=data.summary(),
            clocks={"fit_s": sum(history.seconds), "epoch_s": statistics.median(history.seconds)},
        )
        collect(trainer, module, outcome)
        return outcome


def _training_facts(trainer: L.Trainer, history: History) -> dict[str, Any]:
    epochs = len(history.rows)
    stopped = "max_epochs" if epochs == trainer.max_epochs else "patience" if trainer.should_stop else "limit"
    facts: dict[str, Any] = {"epochs": epochs, "stopped": stopped}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Peak):
            facts["peak_epoch"] = callback.epoch
    return facts


def _history(trainer: L.Trainer) -> History:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, History):
            return callback
    raise AssertionError("the trainer's maker checks that there is one")
