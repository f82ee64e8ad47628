"""The config of a finished cell, read from its folder and checked before anything that it names is made."""

import importlib
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from torch.optim import Optimizer

from capsexp import records
from capsexp.data.arrays import Source
from capsexp.data.augment import Augment
from capsexp.data.base import ImageDataModule
from capsexp.errors import require
from capsexp.filters.base import Filter
from capsexp.lightning_modules.base import BaseModule
from capsexp.models.backbones import Backbone
from capsexp.models.base import Classifier
from capsexp.pruning.base import Criterion
from capsexp.recipes.base import Recipe
from capsexp.routing.base import Routing

Config = dict[str, Any]

PARTS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("capsexp.models", (Classifier, Backbone)),
    ("capsexp.lightning_modules", (BaseModule,)),
    ("capsexp.routing", (Routing,)),
    ("capsexp.filters", (Filter,)),
    ("capsexp.pruning", (Criterion,)),
    ("capsexp.data", (Augment, ImageDataModule, Source)),
    ("capsexp.recipes", (Recipe,)),
    ("capsexp.callbacks", (L.Callback,)),
    ("torch.optim", (Optimizer,)),
)
"""The rooms of the classes that a cell is made of, and the base classes of those that a config may name in each."""

HINT = "; trust=True (--trust) makes whatever the config names: only for folders whose author you trust"
GROUPS = ("model", "optimizer", "data", "augment", "trainer")


def read_config(directory: Path, *, trust: bool = False) -> Config:
    """The resolved config of a finished cell.

    Args:
        directory: the cell's folder.
        trust: True if its config may name any class or function, so that loading it may run any code.

    Raises:
        DamagedError: the file cannot be read, or is not the config that the cell was run with.
        ConfigError: it names something that is no part of a cell.
    """
    path = directory / records.CONFIG
    try:
        config = yaml.safe_load(path.read_bytes())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())[:200]
        raise records.DamagedError(path, f"it is no YAML file ({type(error).__name__}: {line})") from error
    try:
        config = records.present_targets(config)
        missing = [group for group in GROUPS if not isinstance(config.get(group), dict)]
        missing += [] if missing or isinstance(config["model"].get("module"), dict) else ["model.module"]
        found = None if missing else records.config_digest(config)
        if not trust:
            _check(config, "", path)
    except (AttributeError, TypeError, RecursionError) as error:
        raise records.DamagedError(path, f"it is no config ({type(error).__name__})") from error
    if missing:
        raise records.DamagedError(path, f"it has no group {missing[0]}")
    _, written = records.result_digests(directory)
    if written not in (None, found):
        raise records.DamagedError(path, "it is not the config that the cell was run with; only paths may change")
    return config


def check_sizes(sizes: Config, path: Path) -> None:
    """Check the sizes of a model, which come from a checkpoint and are arguments beside those of the config.

    Raises:
        ConfigError: they name something that is no part of a cell.
    """
    _check(sizes, "sizes", path)


def without_files(config: Config) -> Config:
    """A config whose routing reads no file: the weights hold the coupling, and its file may be missing."""
    return {**config, "model": _without_coupling(config["model"])}


def _without_coupling(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_coupling(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _without_coupling(value) for key, value in node.items()}
    return kept | ({"coupling": None} if "coupling" in kept and "_target_" in kept else {})


# -- parts of a cell --------------------------------------------------------------------------------------------------


def _check(node: Any, dotted: str, path: Path) -> None:
    """Refuse a config that names anything but parts of a cell, that asks for Hydra's other keys, or interpolates."""
    if isinstance(node, list | tuple):
        for index, each in enumerate(node):
            _check(each, f"{dotted}[{index}]", path)
    elif isinstance(node, dict):
        for key, value in node.items():
            here = f"{dotted}.{key}" if dotted else str(key)
            _check_text(key, here, path)
            if key == "_target_":
                _require(_is_part(value), here, "name a part of a cell", value, path)
            elif key == "_partial_":
                rule = "be true, for a routing or a backbone"
                made_later = _is_part(node.get("_target_")) and issubclass(_class(node["_target_"]), Routing | Backbone)
                _require(value is True and made_later, here, rule, value, path)
            elif isinstance(key, str) and key.startswith("_") and key.endswith("_"):
                _require(False, here, "not be set", value, path)
            _check(value, here, path)
    else:
        _check_text(node, dotted, path)


def _check_text(text: Any, dotted: str, path: Path) -> None:
    _require(not (isinstance(text, str) and "${" in text), dotted, "hold no interpolation", text, path)


def _require(condition: bool, dotted: str, rule: str, value: object, path: Path) -> None:
    require(condition, f"{path}: {dotted}", f"{rule}{HINT}", value)


def _is_part(target: Any) -> bool:
    """True for the path of a class that is defined in its room and has one of the room's base classes."""
    module = target.rpartition(".")[0] if isinstance(target, str) else ""
    for room, bases in PARTS:
        if _within(module, room):  # nothing of other modules is imported
            try:
                found = _class(target)
            except (ImportError, AttributeError, ValueError):
                return False
            return isinstance(found, type) and _within(found.__module__, room) and issubclass(found, bases)
    return False


def _within(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def _class(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)
