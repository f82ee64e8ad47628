"""The settings of Weights & Biases (``logger.wandb``) and their checks."""

from collections.abc import Mapping
from typing import Any

from capsexp.errors import require, require_choice, require_number
from capsexp.tracking import names

MODES = ("auto", "online", "offline", "disabled")


def wandb_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a cell's resolved config; those of a config without ``logger.wandb`` switch it off.

    Raises:
        ConfigError: the mode or the time limit breaks a rule.
    """
    logger = config.get("logger") or {}
    require(isinstance(logger, dict), "logger", "be a group of keys", logger)
    options = logger.get("wandb") or {"mode": "disabled"}
    require(isinstance(options, dict), "logger.wandb", "be a group of keys, or null", options)
    if require_choice("logger.wandb.mode", options.get("mode", ""), MODES) != "disabled":
        require_number("logger.wandb.timeout_s", options.get("timeout_s"), 1)
    return dict(options)


def check(config: Mapping[str, Any], sweep: object) -> None:
    """Check the settings and the names, unless Weights & Biases is switched off.

    Args:
        config: a cell's resolved config.
        sweep: name of the sweep.

    Raises:
        ConfigError: a setting breaks a rule, or Weights & Biases would refuse a name for every run.
    """
    options = wandb_options(config)
    if options["mode"] != "disabled":
        names.check(options.get("project"), options.get("entity"), sweep)
