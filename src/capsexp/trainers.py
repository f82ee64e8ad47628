"""The trainers of a cell: checks of their settings and callbacks, and their construction."""

import functools
import inspect
import math
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, cast, get_args, get_type_hints

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import StochasticWeightAveraging

from capsexp import run_settings
from capsexp.callbacks.history import History
from capsexp.callbacks.peak import Peak
from capsexp.callbacks.progress import ProgressFile
from capsexp.errors import ConfigError, require, require_int
from capsexp.making import Config, make, make_node, parts_in_conf, with_nearest
from capsexp.progress_bar import EpochBar
from capsexp.recipes.base import TrainerSettings
from capsexp.stacking import context

ALONE = LightningEnvironment()
"""Environment of a single process.  Without it Lightning would read a cluster's variables and expect more."""


def check_trainer(config: Config) -> TrainerSettings:
    """The settings of the trainer and of the callbacks, checked without a trainer.

    Raises:
        ConfigError: a value breaks a rule.  Arguments that are passed unchanged to ``lightning.Trainer`` are checked by
            name only.
    """
    options, callbacks = _trainer_settings(config)
    try:
        inspect.signature(L.Trainer).bind_partial(**options)
    except TypeError as error:
        raise _refused_by_lightning(f"Trainer.__init__() {error}", options) from error
    return TrainerSettings(options["max_epochs"], callbacks)


def make_trainer(
    config: Config,
    home: Path,
    logger: Any,
    in_sweep: bool,
    *,
    directory: Path | None = None,
    callbacks: Sequence[L.Callback] = (),
    without: Collection[str] = (),
    in_run: bool = True,
    prefix: str = "",
    **given: Any,
) -> L.Trainer:
    """A trainer with the callbacks of the config; see :class:`~capsexp.recipes.base.MakeTrainer`."""
    options, own = _trainer_settings(config, without, **given)
    progress = config["trainer"]["progress"]
    shown = sys.stdout.isatty() and not in_sweep if progress == "auto" else progress
    history, fit = own.get("history"), prefix or _name_of(directory)
    noted = ProgressFile(home, fit, history) if in_run and isinstance(history, History) else None
    peak_first = sorted(own.values(), key=lambda each: not isinstance(each, Peak))
    fixed: dict[str, Any] = {
        "callbacks": [*peak_first, *callbacks, *([noted] if noted else []), *([EpochBar(noted)] if shown else [])],
        "logger": (logger_of(logger, prefix) or False) if in_run else False,
        "default_root_dir": directory or home,
        "enable_checkpointing": True,
        "enable_progress_bar": shown,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "plugins": [ALONE],
    }
    # Under `deterministic` torch fills new memory, although nothing reads it: about 3 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        return context.joined(L.Trainer(**options, **fixed), config)
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        raise _refused_by_lightning(error, options) from error


def _name_of(stage: Path | None) -> str:
    """The name of a stage from that of its folder; empty for the cell's own folder."""
    return "" if stage is None else stage.name.rpartition("-")[0]


def _trainer_settings(
    config: Config, without: Collection[str] = (), **given: Any
) -> tuple[Config, dict[str, L.Callback]]:
    """The config's arguments of ``lightning.Trainer`` and its callbacks by their names there, both checked."""
    options = {**config["trainer"], **given}
    require_int("trainer.max_epochs", options["max_epochs"], 1)
    run_settings.check_trainer(options)
    _check_types(options)
    _check_validation(config["trainer"])
    options.pop("progress")
    require(bool(config["callbacks"].get("history")), "callbacks.history", "be there: the result is read from it", None)
    _check_pruning(config)
    names = [name for name, entry in config["callbacks"].items() if entry and name not in without]
    return options, {name: _make_callback(config["callbacks"][name], f"callbacks.{name}") for name in names}


def _make_callback(node: Config, key: str) -> L.Callback:
    callback = make_node(node, key)
    require(isinstance(callback, L.Callback), key, "be a callback: _target_ names its class", node)
    rule = "average the weights before they are validated, as EMAWeightAveraging does: the best validated ones are kept"
    require(not isinstance(callback, StochasticWeightAveraging), key, rule, node["_target_"])
    return cast("L.Callback", callback)


PLAIN_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
"""The types of values in YAML, with their names."""


@functools.cache
def _declared_types() -> dict[str, frozenset[type]]:
    """The types of those arguments of ``lightning.Trainer`` that take values of YAML alone."""
    hints = get_type_hints(L.Trainer.__init__).items()
    declared = {name: frozenset(get_args(hint) or (hint,)) for name, hint in hints}
    return {name: kinds for name, kinds in declared.items() if kinds <= PLAIN_TYPES.keys()}


def _check_types(options: Config) -> None:
    """Check values against the types that ``lightning.Trainer`` declares: it uses some of them only in a fit."""
    for name, kinds in _declared_types().items():
        value = options.get(name)
        fits = name not in options or type(value) in kinds or (type(value) is int and float in kinds)
        fits = fits and not (isinstance(value, float) and math.isnan(value))
        rule = " or ".join(text for kind, text in PLAIN_TYPES.items() if kind in kinds)
        require(fits, f"trainer.{name}", f"be {rule}", value)


def _check_validation(options: Config) -> None:
    """Check that some epoch is validated, since that chooses the weights."""
    limit, every, epochs = (
        options.get("limit_val_batches"),
        options.get("check_val_every_n_epoch"),
        options["max_epochs"],
    )
    require(limit != 0, "trainer.limit_val_batches", "leave a validation, which chooses the weights", limit)
    rule = f"be at most trainer.max_epochs={epochs}"
    require(every is None or every <= epochs, "trainer.check_val_every_n_epoch", rule, every)


def _check_pruning(config: Config) -> None:
    """Check the criterion before a callback makes it, so that an error names the group ``pruning``."""
    taken = {key for part in parts_in_conf() if part.group == "pruning" for key in part.keys}
    make(config, "pruning", tuple(taken))


def _refused_by_lightning(said: object, options: Config) -> ConfigError:
    rule = f"be arguments that lightning.Trainer takes ({with_nearest(L.Trainer, str(said))})"
    return ConfigError("trainer", rule, options)


def logger_of(logger: Any, prefix: str) -> Any:
    """The cell's logger, or None if it has none; with a prefix, a logger that adds it to all names."""
    return logger.of_stage(prefix) if logger and prefix else logger or None
