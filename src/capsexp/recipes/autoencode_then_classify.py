"""Train an autoencoder to draw its images, then a linear layer on what its encoder says of them."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from capsexp import records
from capsexp.callbacks.freeze import Freeze
from capsexp.callbacks.peak import save_best
from capsexp.data.base import ImageDataModule
from capsexp.errors import require, require_int
from capsexp.lightning_modules.autoencoder import AutoencoderModule
from capsexp.models.autoencoder import Autoencoder
from capsexp.recipes.base import Factories, Outcome, Recipe, collect
from capsexp.recipes.fit import fit
from capsexp.recipes.stages import Finished, Stage, keep_history

OWN = (
    *("recipe", "pruning", "study", "trainer.max_epochs"),
    *("callbacks.criterion_scores", "callbacks.reconstructions", "model.module.reconstruction_weight"),
)
"""What the reconstruction does not depend on, or what its stage's settings say better."""


class AutoencodeThenClassify(Recipe):
    """Wang (2019), section 3.2: the autoencoder is trained on its images, then the encoder is frozen.

    ``autoencode`` (a stage that cells share): encoder and decoder are trained to the lowest mean squared error on the
    selection split.  Then the decoder is out of use, the encoder is frozen and in evaluation mode, and the linear layer
    is trained to classify.

    In the result ``train/*``, ``val/*`` and ``test/*`` are the classification's.  ``reconstruction/loss`` is the mean
    squared error per pixel of the normalised test images, ``reconstruction/val_loss`` that at the peak and
    ``reconstruction/train_loss`` that of the last epoch.  ``params`` are those of encoder and decoder (a shared tensor
    counts once), ``classifier/params`` those of encoder and linear layer.

    Args:
        reconstruction_epochs: at most so many for the autoencoder; None for ``trainer.max_epochs``.
    """

    def __init__(self, *, reconstruction_epochs: int | None = None) -> None:
        epochs = reconstruction_epochs
        self._epochs = None if epochs is None else require_int("reconstruction_epochs", epochs, 1)

    def first(self, factories: Factories) -> Stage:
        """The training of the autoencoder."""
        epochs = self._epochs or factories.make_trainer("check", in_run=False).max_epochs
        return Stage("autoencode", OWN, (("epochs", epochs),))

    def check(self, factories: Factories) -> None:
        """Raise :class:`~capsexp.errors.StageBusy` while another cell trains the same autoencoder.

        Raises:
            ConfigError: a value of the trainer, of a callback or of the model breaks a rule.
        """
        _untrained(factories, factories.make_data())
        factories.stages.check(self.first(factories))

    def run(self, factories: Factories) -> Outcome:
        """Train or take the autoencoder, then train and test the classifier."""
        stage = self.first(factories)
        autoencoded = factories.stages.get(stage, lambda directory: self._reconstruct(factories, directory))
        data = factories.make_data()
        module, model = _untrained(factories, data)
        module.take(_best(autoencoded))
        module.only("classify")
        frozen = Freeze(modules=["encoder", "decoder"])
        trainer = factories.make_trainer("classify", callbacks=[frozen])
        fitted = fit(trainer, module, data)
        _check_frozen(module, autoencoded)
        (tested,) = trainer.test(module, data, verbose=False)
        save_best(trainer)
        facts = autoencoded.facts
        outcome = Outcome(
            metrics={**fitted.metrics, **tested, **_told(facts), "classifier/params": model.count_classifier()},
            params=model.count_autoencoder(),
            params_paper=model.params_paper(),
            training={**fitted.training, **{f"autoencode_{name}": found for name, found in facts["training"].items()}},
            data=data.summary(),
            memory={name: max(size, facts["memory"].get(name, 0)) for name, size in fitted.memory.items()},
            clocks={**fitted.clocks, **{f"autoencode_{name}": seconds for name, seconds in facts["clocks"].items()}},
        )
        collect(trainer, module, outcome)
        keep_history(autoencoded, factories.directory, records.AUTOENCODE_METRICS)
        return outcome

    def _reconstruct(self, factories: Factories, directory: Path) -> dict[str, Any]:
        """The training of the autoencoder, in a stage's folder."""
        limit: dict[str, Any] = {} if self._epochs is None else {"max_epochs": self._epochs}
        data = factories.make_data()
        module, _ = _untrained(factories, data)
        module.only("reconstruct")
        trainer = factories.make_trainer("autoencode", directory=directory, **limit)
        fitted = fit(trainer, module, data)
        (tested,) = trainer.test(module, data, verbose=False)
        save_best(trainer)
        return {**fitted.plain(), "tested": tested}


def _untrained(factories: Factories, data: ImageDataModule) -> tuple[AutoencoderModule, Autoencoder]:
    module, model = factories.make_untrained(data)
    rule = "be a network with a decoder for recipe=autoencode_then_classify (autoencoder, shared_autoencoder)"
    require(isinstance(model, Autoencoder), "model", rule, type(model).__name__)
    decoder = cast("Autoencoder", model).decoder
    require(decoder is not None, "model.decoder", "be own or shared: it is trained first", None)
    rule = "be an AutoencoderModule for recipe=autoencode_then_classify"
    require(isinstance(module, AutoencoderModule), "model.module", rule, type(module).__name__)
    return cast("tuple[AutoencoderModule, Autoencoder]", (module, model))


def _best(stage: Finished) -> dict[str, Tensor]:
    saved = torch.load(stage.directory / records.BEST_CHECKPOINT, map_location="cpu", weights_only=True)
    return cast("dict[str, Tensor]", saved["state_dict"])


def _check_frozen(module: AutoencoderModule, autoencoded: Finished) -> None:
    """The encoder and the decoder must have stayed exactly as they were."""
    before, after = _best(autoencoded), module.state_dict()
    changed = [
        name
        for name, value in before.items()
        if name.startswith(("model.encoder.", "model.decoder.")) and not torch.equal(value, after[name].cpu())
    ]
    assert not changed, f"frozen, yet changed: {', '.join(changed)}"


def _told(facts: dict[str, Any]) -> dict[str, float]:
    return {
        "reconstruction/loss": facts["tested"]["test/loss"],
        "reconstruction/val_loss": facts["metrics"]["val/loss"],
        "reconstruction/train_loss": facts["metrics"]["train/loss"],
    }
