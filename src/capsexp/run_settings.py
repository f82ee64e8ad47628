"""Checks of the settings that change no result: where a cell runs, what is logged and shown of it.

They are no part of a cell's id.  So a command with a wrong one may mean a finished cell, and nothing is made of that
cell that would refuse the value.  The planner makes these checks for every cell, without the training code.
"""

from collections.abc import Mapping
from typing import Any

from capsexp.errors import require, require_choice, require_int, require_number
from capsexp.tracking import options

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
"""The names that Lightning knows; whether a machine has such a device is known when a cell runs."""

MOST_THREADS = 4096
"""More than any machine has; torch refuses much larger numbers in a traceback."""

CALLBACKS: Mapping[str, tuple[str, ...]] = {
    "capsexp.callbacks.divergence.DivergenceGuard": (),
    "capsexp.callbacks.memory_check.MemoryCheck": (),
    "capsexp.callbacks.resume.ResumeCheckpoint": ("min_interval_s",),
}
"""The callbacks that change no result, and their arguments."""


def check(config: Mapping[str, Any]) -> None:
    """Check all settings of a resolved config that change no result.

    The class of a callback (``_target_``) is checked when it is made.

    Raises:
        ConfigError: a value breaks a rule.
    """
    check_threads(config.get("threads"))
    check_trainer(config["trainer"])
    options.check(config, config["sweep"].get("name"))
    for name in ("divergence", "memory_check", "resume"):
        _check_callback(f"callbacks.{name}", config["callbacks"].get(name))
    source, recompute = config["data"].get("source"), config["model"].get("recompute", False)
    cache = source.get("cache", "unused") if isinstance(source, dict) else "unused"
    require(isinstance(cache, str) and cache != "", "data.source.cache", "name a folder", cache)
    require(isinstance(recompute, bool), "model.recompute", "be true or false", recompute)


def check_threads(threads: Any) -> int | None:
    """The number of CPU threads; None for ``auto``.

    Raises:
        ConfigError: it is neither a number of threads nor ``auto``.
    """
    return None if threads == "auto" else require_int("threads", threads, 1, MOST_THREADS)


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Check the settings of a trainer that change no result.

    Raises:
        ConfigError: for the first wrong one.
    """
    rule = "be 1: a cell's data lies on one device; run more cells at once instead"
    devices = settings.get("devices")
    require(devices == 1 and devices is not True, "trainer.devices", rule, devices)
    progress, accelerator = settings.get("progress"), settings.get("accelerator", "auto")
    require(progress in ("auto", True, False), "trainer.progress", "be auto, true or false", progress)
    require_choice("trainer.accelerator", accelerator, ACCELERATORS)
    steps = settings.get("log_every_n_steps")
    if steps is not None:
        require_int("trainer.log_every_n_steps", steps, 0)


def _check_callback(key: str, part: Any) -> None:
    if not isinstance(part, dict) or part.get("_target_") not in CALLBACKS:
        return
    known = CALLBACKS[part["_target_"]]
    for name, value in part.items():
        require(name in ("_target_", *known), f"{key}.{name}", f"be left out: {_arguments(known)}", value)
    if "min_interval_s" in part:
        require_number(f"{key}.min_interval_s", part["min_interval_s"], 0)


def _arguments(known: tuple[str, ...]) -> str:
    return f"the callback takes {', '.join(known)}" if known else "the callback takes no arguments"
