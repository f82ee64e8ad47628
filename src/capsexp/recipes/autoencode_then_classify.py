"""Train an autoencoder to reconstruct its images, then a linear layer on its encoder's output."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from capsexp.callbacks.checkpoints import read_best
from capsexp.callbacks.freeze import Freeze
from capsexp.callbacks.peak import save_best
from capsexp.errors import require, require_int
from capsexp.lightning_modules.autoencoder import AutoencoderModule
from capsexp.models.autoencoder import Autoencoder
from capsexp.recipes.base import Factories, Recipe
from capsexp.recipes.fit import fit
from capsexp.recipes.networks import Networks
from capsexp.recipes.outcome import Outcome, outcome_of
from capsexp.recipes.stages import Stage, keep_history

HISTORY = "autoencode.csv"
"""File name of the autoencoder's epochs in the cell's folder, beside those of the classification."""


class AutoencodeThenClassify(Recipe):
    """Wang (2019), section 3.2: the autoencoder is trained on its images, then the encoder is frozen.

    ``autoencode`` (a stage that cells share): encoder and decoder are trained to the lowest mean squared error on the
    selection split.  After that the decoder is not used, the encoder is frozen and in evaluation mode, and the linear
    layer is trained to classify.

    In the result, ``train/*``, ``val/*`` and ``test/*`` are those of the classification.  ``reconstruction/loss`` is
    the mean squared error per pixel of the normalised test images, ``reconstruction/val_loss`` that at the peak and
    ``reconstruction/train_loss`` that of the last epoch.  ``params`` counts encoder and decoder (a shared tensor
    once), ``classifier/params`` counts encoder and linear layer.

    Args:
        reconstruction_epochs: largest number of epochs of the autoencoder; None for ``trainer.max_epochs``.
    """

    irrelevant: ClassVar[tuple[str, ...]] = (
        *("recipe._target_", "recipe.reconstruction_epochs", "pruning", "study"),
        *("callbacks.criterion_scores", "callbacks.reconstructions", "model.module.reconstruction_weight"),
    )

    def __init__(self, *, reconstruction_epochs: int | None = None) -> None:
        epochs = reconstruction_epochs
        self._epochs = None if epochs is None else require_int("reconstruction_epochs", epochs, 1)

    def stages(self, factories: Factories) -> Sequence[Stage]:
        """The training of the autoencoder."""
        epochs = self._epochs or factories.check_trainer().max_epochs
        return [Stage("autoencode", irrelevant=self.irrelevant, settings=(("trainer.max_epochs", epochs),))]

    def check(self, factories: Factories) -> None:
        """Check the config and the availability of the stage before anything is trained.

        Raises:
            ConfigError: a value of the trainer, of a callback or of the model breaks a rule.
            StageBusy: another cell is training the same autoencoder.
        """
        _untrained(factories)
        super().check(factories)

    def run(self, factories: Factories) -> Outcome:
        """Train or load the autoencoder, then train and test the classifier."""
        (stage,) = self.stages(factories)
        autoencoded = factories.stages.get(stage, lambda directory: self._reconstruct(factories, directory))
        best = read_best(autoencoded.directory).weights
        module, data = _untrained(factories), factories.make_data()
        module.take(best)
        module.only("classify")
        trainer = factories.make_trainer(callbacks=[Freeze(modules=["encoder", "decoder"])])
        fitted = fit(trainer, module, data)
        _check_frozen(module, best)
        (tested,) = trainer.test(module, data, verbose=False)
        save_best(trainer)
        facts, model = autoencoded.facts, cast("Autoencoder", module.model)
        metrics = {**fitted.metrics, **tested, **_reconstruction(facts), "classifier/params": model.count_classifier()}
        outcome = outcome_of(trainer, module, data, fitted, metrics)
        outcome.params = model.count_autoencoder()
        outcome.training |= {f"autoencode_{name}": found for name, found in facts["training"].items()}
        outcome.clocks |= {f"autoencode_{name}": seconds for name, seconds in facts["clocks"].items()}
        keep_history(autoencoded, factories.directory, HISTORY)
        return outcome

    def _reconstruct(self, factories: Factories, directory: Path) -> dict[str, Any]:
        """Train the autoencoder in a stage's folder."""
        limit: dict[str, Any] = {} if self._epochs is None else {"max_epochs": self._epochs}
        module, data = _untrained(factories), factories.make_data()
        module.only("reconstruct")
        trainer = factories.make_trainer(directory=directory, prefix="autoencode", **limit)
        fitted = fit(trainer, module, data)
        (tested,) = trainer.test(module, data, verbose=False)
        save_best(trainer)
        return {**fitted.plain(), "tested": tested}


def _untrained(factories: Factories) -> AutoencoderModule:
    module = Networks(factories).new()
    model = module.model
    rule = "be a network with a decoder for recipe=autoencode_then_classify (autoencoder, shared_autoencoder)"
    require(isinstance(model, Autoencoder), "model", rule, type(model).__name__)
    decoder = cast("Autoencoder", model).decoder
    require(decoder is not None, "model.decoder", "be own or shared: it is trained first", None)
    rule = "be an AutoencoderModule for recipe=autoencode_then_classify"
    require(isinstance(module, AutoencoderModule), "model.module", rule, type(module).__name__)
    return cast("AutoencoderModule", module)


def _check_frozen(module: AutoencoderModule, before: Mapping[str, Tensor]) -> None:
    """Assert that the weights of encoder and decoder are unchanged."""
    after = module.state_dict()
    changed = [
        name
        for name, value in before.items()
        if name.startswith(("model.encoder.", "model.decoder.")) and not torch.equal(value, after[name].cpu())
    ]
    assert not changed, f"frozen, yet changed: {', '.join(changed)}"


def _reconstruction(facts: dict[str, Any]) -> dict[str, float]:
    return {
        "reconstruction/loss": facts["tested"]["test/loss"],
        "reconstruction/val_loss": facts["metrics"]["val/loss"],
        "reconstruction/train_loss": facts["metrics"]["train/loss"],
    }
