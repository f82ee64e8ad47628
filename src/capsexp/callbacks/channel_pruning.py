"""Removal of channels at the start of the fit that trains the pruned network."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import lightning as L
from torch import Tensor

from capsexp.callbacks import checkpoints
from capsexp.callbacks.resume import resumable
from capsexp.nn.channels import Prunable
from capsexp.pruning.merging import Into
from capsexp.pruning.selection import Fewer, Selection
from capsexp.pruning.steps import find_partners, select
from capsexp.pruning.surgery import shrink

log = logging.getLogger(__name__)


class HoldsModel(Protocol):
    """Interface of a module whose model can be pruned; see ``lightning_modules/base.py``."""

    model: Prunable
    hparams: Mapping[str, Any]

    def set_model(self, model: Prunable, sizes: dict[str, Any]) -> None:
        """Replace the present model."""


class ChannelPruning(L.Callback):
    """Prunes a module's model when a fit begins, before there is an optimizer; a resumed fit removes the same channels.

    Args:
        selection: sets number and units of the removed channels, and whether they are merged into those that remain.
        scores: scores (O,) of every layer that is cut; channels with higher scores are kept.
        make_model: makes the architecture for the given sizes.
        renew: True if capsule layers begin with new matrices, as in Sahu and Altahhan (2024); otherwise they keep the
            matrices of the capsules that remain whole.

    Attributes:
        kept: indices of the channels that remain, by layer.
    """

    def __init__(
        self,
        selection: Selection | Fewer,
        scores: Mapping[str, Tensor],
        make_model: Callable[..., Prunable],
        *,
        renew: bool = True,
    ) -> None:
        self.selection, self.scores, self.renew = selection, scores, renew
        self._make_model = make_model
        self.kept: dict[str, Tensor] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Select the channels and cut; a resumed fit keeps the channels that were selected before its interruption."""
        if stage == "fit":
            self.prune(pl_module, _kept_before(trainer, self.state_key))
            trainer.precision_plugin.convert_module(pl_module)  # Lightning would do so only after it loads a checkpoint

    def prune(self, pl_module: L.LightningModule, kept: Mapping[str, Tensor] | None = None) -> None:
        """Cut a module's model; a recipe that does not train the result calls this directly.

        Args:
            pl_module: module that receives the smaller model.
            kept: indices of the channels that remain; if none are given, those with the highest scores.
        """
        module = cast("HoldsModel", pl_module)
        self.kept = dict(kept or select(module.model, self.scores, self.selection))
        before = module.model.widths()
        into = self._partners(module.model) if self.selection.merge else {}
        smaller = shrink(module.model, self.kept, self._make_model, renew=self.renew, into=into)
        module.set_model(smaller, module.hparams["sizes"] | smaller.sized({}))
        cut = {name: width for name, width in smaller.widths().items() if name in self.kept}
        log.info("pruned: %s", ", ".join(f"{name} {before[name]} to {width}" for name, width in cut.items()))

    def _partners(self, model: Prunable) -> dict[str, Into]:
        """The partners in all layers, found in the model before any cut."""
        found = find_partners(model, self.kept)
        gone = {name: model.widths()[name] - len(index) for name, index in self.kept.items()}
        counts = (f"{name} {len(found.get(name, {}))} of {count}" for name, count in gone.items())
        log.info("merged: %s", ", ".join(counts))
        return found

    def state_dict(self) -> dict[str, Any]:
        """The kept channels, so that a resumed fit does not select again."""
        return {"kept": self.kept}


def _kept_before(trainer: L.Trainer, key: str) -> dict[str, Tensor]:
    """The channels that an interrupted fit kept; empty if there is no such fit."""
    path = resumable(trainer)
    if path is None:
        return {}
    return cast("dict[str, Tensor]", checkpoints.read(path)["callbacks"][key]["kept"])
