"""Frozen parts of a network."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import lightning as L
from torch import nn

from capsexp.errors import ConfigError


class Freeze(L.Callback):
    """Excludes parameters from a fit: they get no gradient and are in no optimizer.

    Args:
        parameters: names in the model, such as ``class_capsules.weight``; ``*`` is a wildcard.  An empty list freezes
            nothing.
        modules: names of parts of the model, such as ``encoder``.  All their parameters are frozen, and they stay in
            evaluation mode: no dropout, and batch normalisation with its present statistics.
    """

    def __init__(self, parameters: Sequence[str] = (), modules: Sequence[str] = ()) -> None:
        self.patterns = _names("parameters", parameters, "parameters' names, such as [class_capsules.weight]")
        self.modules = _names("modules", modules, "names of parts of the model, such as [encoder]")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Freeze the parameters before the optimizer is created.

        Raises:
            ConfigError: a name matches no parameter, or no part of the model.
        """
        model = cast("nn.Module", pl_module.model)
        named = dict(model.named_parameters())
        for pattern in self.patterns:
            found = [name for name in named if fnmatchcase(name, pattern)]
            if not found:
                rule = f"name parameters of the model ({', '.join(named)})"
                raise ConfigError("callbacks.freeze.parameters", rule, pattern)
            for name in found:
                named[name].requires_grad_(False)
        for part in self._parts(model):
            part.requires_grad_(False)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the frozen parts into evaluation mode."""
        for part in self._parts(cast("nn.Module", pl_module.model)):
            part.eval()

    def _parts(self, model: nn.Module) -> list[nn.Module]:
        named = dict(model.named_modules())
        for name in self.modules:
            if not name or name not in named:
                known = ", ".join(each for each, _ in model.named_children())
                raise ConfigError("callbacks.freeze.modules", f"name parts of the model ({known}, ...)", name)
        return [named[name] for name in self.modules]


def _names(key: str, value: Any, what: str) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(each, str) for each in value):
        raise ConfigError(key, f"be a list of {what}", value)
    return tuple(value)
