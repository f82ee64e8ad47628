"""Errors of Hydra in one line, with what the user can do about them."""

import difflib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from capsexp import records
from capsexp.errors import ConfigError
from capsexp.sweep import unread
from capsexp.text import install

EXTRAS: Mapping[str, Mapping[str, str]] = {
    "hydra/launcher": {"submitit_local": "slurm", "submitit_slurm": "slurm"},
    "hydra/sweeper": {"optuna": "optuna"},
}
"""Options of config groups that come with an extra of the package, and the name of the extra."""

REFUSED_WITH = "(refused with "
"""The beginning of the swept values in an error of :func:`misfit`."""

REFUSED = (HydraException, OmegaConfBaseException, ConfigError)
"""Errors of overrides that cannot be composed to a config."""


def one_line(error: Exception, words: Sequence[str] = ()) -> str:
    """Hydra's message without its line breaks, search paths and hints for developers.

    Args:
        error: Hydra's error.
        words: the arguments of the command, whose options have keys of their own.
    """
    text = str(error) or str(error.__cause__ or type(error).__name__)
    text = re.split(r"\nConfig search path|\n\s*full_key:|\nSet the environment", text)[0]
    if text.startswith("Could not override 'routing'"):  # Hydra's own advice, +routing=..., would change nothing
        return "routing must be given with a model of capsules, such as model=capsnet"
    if isinstance(error, MissingConfigException):
        text = _of_missing_option(error, text)
    advised = re.search(r"use \+([\w.]+)=(\S*)", text)
    if advised and unread.is_closed(advised[1]):  # likewise
        return str(unread.unread(advised[1], advised[2], _composed(())))
    near = unread.nearest(advised[1], _composed(_options(words))) if advised else None
    if advised and near and _like(near.rpartition(".")[0], advised[1].rpartition(".")[0]):
        text = f"{text} ({near} is the most like it)"
    return re.sub(r"\s+", " ", text).strip()


def _like(group: str, other: str) -> bool:
    return group == other or difflib.SequenceMatcher(None, group, other).ratio() >= unread.LIKE


def _options(words: Sequence[str]) -> list[str]:
    """Those words of a command that choose one option of a group, its own folder included."""
    apart = [part for word in words for part in (word.split("=", 1) if word.startswith("--config-dir=") else [word])]
    folders = [Path(folder) for word, folder in itertools.pairwise(apart) if word in ("--config-dir", "-cd")]
    found = [f"hydra.searchpath=[file://{folder.absolute()}]" for folder in folders]
    for word in words:
        group, _, option = word.partition("=")
        given = option and "," not in option and not group.startswith("hydra")
        if given and any((root / group.lstrip("+")).is_dir() for root in (records.CONF, *folders)):
            found.append(word)
    return found


def _composed(options: Sequence[str]) -> dict[str, Any]:
    """The config of a command with these options alone; that without options if they do not fit."""
    try:
        if GlobalHydra.instance().is_initialized():  # the error came while a sweep was planned
            return _plain_with(options)
        with initialize_config_dir(version_base="1.3", config_dir=str(records.CONF), job_name="capsexp"):
            return _plain_with(options)
    except (HydraException, OmegaConfBaseException):
        if not options:
            raise
        return _composed(())


def _plain_with(options: Sequence[str]) -> dict[str, Any]:
    loader = GlobalHydra.instance().config_loader()
    config = loader.load_configuration("config", list(options), run_mode=RunMode.RUN)
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))


def of_command(error: Exception, words: Sequence[str]) -> str:
    """The message for an error of a command.

    Hydra composes a sweep once with the default option of every swept group, where an override may not fit that fits
    all options which are swept.

    Args:
        error: Hydra's error.
        words: the arguments of the command.
    """
    found = re.match(r"Could not override '([^']+)'", str(error))
    given = {name: value for name, _, value in (word.partition("=") for word in words)}
    key = found[1] if found else ""
    first = key.partition(".")[0]
    group = "model" if first == "routing" and (first == key or first not in given) else first  # it comes with the model
    value = given.get(key, ",")
    is_swept = "," in given.get(group, "") and "," not in value and not value.startswith("choice(")
    if not is_swept or REFUSED_WITH in str(error):
        return one_line(error, words)
    how = f"{key}=choice({value})" if (records.CONF / key).is_dir() else f"++{key}={value}"
    return f"{key} must fit the default {group}, which is composed first; if each swept {group} has it, give {how}"


def _of_missing_option(error: MissingConfigException, text: str) -> str:
    """The message for an option that does not exist, or whose package is not installed."""
    group, _, name = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
    extras = EXTRAS.get(group, {})
    if name in extras:
        return f"{group}={name} must be installed: {install(extras[name])}"
    options = sorted(error.options or ())
    more = [f"{option} with the extra {extra}" for option, extra in extras.items() if option not in options]
    own = "" if extras else " (the folder of your own options is named by --config-dir)"
    return f"{group} must be one of {', '.join([*options, *more])}, got {name!r}{own}" if options else text


# -- overrides that fit some values of a swept key --------------------------------------------------------------------


def misfit(
    error: Exception,
    choice: Sequence[str],
    axes: Sequence[Sequence[str]],
    compose: Callable[[Sequence[str]], object],
) -> Exception:
    """The error of one combination of a grid, with the swept values that cause it and those that would be accepted.

    Several keys cause it together if another value of each would be accepted with the other keys' values.  A
    :class:`ConfigError` that every combination causes stays the same.

    Args:
        error: one of :data:`REFUSED`.
        choice: the combination, one override of each swept key.
        axes: all overrides of each swept key.
        compose: composes a combination; it raises such an error if the combination is refused.
    """
    refused: list[list[str]] = []
    accepted: list[str] = []
    for place, values in enumerate(axes):
        others = [[*choice[:place], value, *choice[place + 1 :]] for value in values]
        fitting = [other[place] for other in others if not _is_refused(other, compose)]
        if fitting:
            refused.append([value for value in values if value not in fitting])
            accepted += fitting
    if not refused:
        return in_combination(error, choice)
    if len(refused) == 1:
        causes = " or ".join(refused[0])
    else:
        causes = f"{' and '.join(value for value in choice if any(value in each for each in refused))} together"
    return _narrowed(error, f"{REFUSED_WITH}{causes}, accepted with {' or '.join(accepted)})")


def in_combination(error: Exception, choice: Sequence[str]) -> Exception:
    """The error of one combination with its swept options, unless it names key and value itself.

    Args:
        error: one of :data:`REFUSED`.
        choice: overrides of the swept options.
    """
    names_itself = isinstance(error, ConfigError) or not choice
    return error if names_itself else _narrowed(error, f"{REFUSED_WITH}{' and '.join(choice)})")


def _is_refused(choice: Sequence[str], compose: Callable[[Sequence[str]], object]) -> bool:
    try:
        compose(choice)
    except REFUSED:
        return True
    return False


def _narrowed(error: Exception, where: str) -> Exception:
    if isinstance(error, ConfigError):
        return ConfigError(error.key, f"{error.rule} {where}", error.value)
    text = re.split(r"\n?To append to your config", one_line(error))[0].rstrip(" .")  # it would not fit all of them
    return ConfigCompositionException(f"{text} {where}")
