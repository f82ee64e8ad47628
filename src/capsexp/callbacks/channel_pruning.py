"""The moment when channels go: at the start of the fit that trains what is left."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import lightning as L
from torch import Tensor

from capsexp.callbacks import checkpoints
from capsexp.callbacks.resume import resumable
from capsexp.nn.channels import Prunable
from capsexp.pruning.merging import Into, partners
from capsexp.pruning.selection import Fewer, Selection
from capsexp.pruning.surgery import shrink

log = logging.getLogger(__name__)


class HoldsModel(Protocol):
    """What a module must offer; see ``lightning_modules/base.py``."""

    model: Prunable
    hparams: Mapping[str, Any]

    def set_model(self, model: Prunable, sizes: dict[str, Any]) -> None:
        """Take another model in place of the present one."""


class ChannelPruning(L.Callback):
    """Prunes a module's model when a fit begins, before there is an optimizer; a resumed fit takes the same channels.

    Args:
        selection: how many channels go, in what units, and whether they are merged into those that stay.
        scores: (O,) of every layer that is cut, higher = keep.
        make_model: makes the architecture for the sizes given.
        renew: whether capsule layers begin with new matrices, as Sahu and Altahhan (2024) have it; otherwise they keep
            those of the capsules that stay whole.

    Attributes:
        kept: the indices of every layer's channels that stayed.
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
        """Choose the channels, or take those that were chosen before a fit was interrupted, and cut."""
        if stage == "fit":
            self.prune(pl_module, _kept_before(trainer, self.state_key))
            trainer.precision_plugin.convert_module(pl_module)  # a checkpoint is loaded before Lightning would

    def prune(self, pl_module: L.LightningModule, kept: Mapping[str, Tensor] | None = None) -> None:
        """Cut a module's model; for a recipe that does not train what is left.

        Args:
            pl_module: gets the smaller model.
            kept: the indices of the channels that stay; those of the highest scores where none are given.
        """
        module = cast("HoldsModel", pl_module)
        self.kept = dict(kept or self._choose(module.model))
        before = module.model.widths()
        into = self._partners(module.model) if self.selection.merge else {}
        smaller = shrink(module.model, self.kept, self._make_model, renew=self.renew, into=into)
        module.set_model(smaller, module.hparams["sizes"] | smaller.sized({}))
        cut = {name: width for name, width in smaller.widths().items() if name in self.kept}
        log.info("pruned: %s", ", ".join(f"{name} {before[name]} to {width}" for name, width in cut.items()))

    def _choose(self, model: Prunable) -> dict[str, Tensor]:
        layers = model.channel_layers()
        return {name: self.selection.keep(layers[name], scores) for name, scores in self.scores.items()}

    def _partners(self, model: Prunable) -> dict[str, Into]:
        """Of all layers, in the model that is not yet cut anywhere."""
        found = {name: partners(model, name, index) for name, index in self.kept.items()}
        told = (f"{name} {len(into)} of {model.widths()[name] - len(self.kept[name])}" for name, into in found.items())
        log.info("merged: %s", ", ".join(told))
        return {name: into for name, into in found.items() if into}

    def state_dict(self) -> dict[str, Any]:
        """What was kept: a fit that goes on does not choose again."""
        return {"kept": self.kept}


def _kept_before(trainer: L.Trainer, key: str) -> dict[str, Tensor]:
    """The channels that an interrupted fit had kept; none where there was no such fit."""
    path = resumable(trainer)
    if path is None:
        return {}
    return cast("dict[str, Tensor]", checkpoints.read(path)["callbacks"][key]["kept"])
