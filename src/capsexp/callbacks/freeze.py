"""Parameters that stay as they begin."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import cast

import lightning as L
from torch import nn

from capsexp.errors import ConfigError


class Freeze(L.Callback):
    """Takes parameters out of a fit: they get no gradient, and no optimizer sees them.

    Args:
        parameters: names in the model, such as ``class_capsules.weight``; ``*`` stands for anything.  An empty list
            freezes nothing.
    """

    def __init__(self, parameters: Sequence[str] = ()) -> None:
        rule = "be a list of parameters' names, such as [class_capsules.weight]"
        if isinstance(parameters, str) or not all(isinstance(each, str) for each in parameters):
            raise ConfigError("parameters", rule, parameters)
        self.patterns = tuple(parameters)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Freeze before the optimizer is made.

        Raises:
            ConfigError: a name fits no parameter.
        """
        named = dict(cast("nn.Module", pl_module.model).named_parameters())
        for pattern in self.patterns:
            found = [name for name in named if fnmatchcase(name, pattern)]
            if not found:
                rule = f"name parameters of the model ({', '.join(named)})"
                raise ConfigError("callbacks.freeze.parameters", rule, pattern)
            for name in found:
                named[name].requires_grad_(False)
