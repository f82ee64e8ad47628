"""Keys of a config that nothing reads: they would change a cell's id and nothing else, so they are refused.

Most groups become objects, whose constructors refuse what they do not take.  This module knows the others: the root,
the groups that are read key by key, and the keys that only interpolations or the report mention.
"""

import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from capsexp.errors import ConfigError
from capsexp.sweep.interpolations import overlap, references

ROOT = frozenset(
    (
        *("augment", "callbacks", "data", "filter", "logger", "model", "optimizer", "paths", "pruning", "recipe"),
        *("report", "seed", "study", "sweep", "threads", "trainer"),
    )
)
"""Keys of the root that the code reads."""

CLOSED: Mapping[str, frozenset[str]] = {
    "": ROOT,
    "logger": frozenset(("wandb",)),
    "logger.wandb": frozenset(("entity", "mode", "project", "timeout_s")),
    "paths": frozenset(("cache", "output", "stages", "sweep")),
    "study": frozenset(("net",)),
    "sweep": frozenset(("cell", "name", "rerun")),
}
"""Groups that are read key by key, with the keys that the code reads."""

LIKE, ALIKE = 0.8, 0.85
"""Least similarity, from 0 to 1, of two names of which one may be the other misspelt: in one group, and elsewhere."""


def check_read(config: DictConfig, plain: dict[str, Any]) -> None:
    """Refuse a config with a key that nothing reads: no code, no constructor, no interpolation, no report.

    Args:
        config: the composed config.
        plain: the same, resolved, without Hydra's part.

    Raises:
        ConfigError: for the first such key, with the nearest key that is read.
    """
    unknown = {dotted: value for dotted, value in _in_closed_groups(plain) if not _is_known(dotted)}
    if not unknown:
        return
    raw = _unresolved(config)
    read = {*references(raw), *_shown(raw.get("report")), *_groups_of_parts(plain.get("recipe"))}
    for dotted, value in unknown.items():
        for key, given in [(dotted, value), *_leaves(dotted, value)]:
            if not _is_among(key, read) and not _is_among(key, _read_before_overrides(raw, key)):
                raise unread(key, given, raw)


def unread(dotted: str, value: object, config: Mapping[str, Any]) -> ConfigError:
    """The error for a key that nothing reads, with the key of ``config`` that is the most like it."""
    near = nearest(dotted, config)
    there = ", ".join(_siblings(dotted))
    advice = f"{near} is the most like it" if near else f"there are {there}" if there else "nothing mentions it"
    return ConfigError(dotted, f"be a key that something reads ({advice})", value)


def is_closed(dotted: str) -> bool:
    """True if the code reads no other keys than the known ones where this key stands, and this is none of them."""
    return dotted.rpartition(".")[0] in CLOSED and not _is_known(dotted)


def nearest(dotted: str, config: Mapping[str, Any]) -> str | None:
    """The key of a config whose last part, or whose whole name, is the most like a key's; None if none is."""
    closed = (f"{group}.{key}" for group in CLOSED if group for key in CLOSED[group])
    there = dict.fromkeys(key for key in [*_keys(config), *closed] if not key.endswith("_"))
    known = [key for key in there if not key.startswith("hydra") and not overlap(key, dotted)]
    group, _, last = dotted.rpartition(".")
    same = [key for key in known if key.rpartition(".")[2] == last]
    beside = {key.rpartition(".")[2]: key for key in [*known, *ROOT] if key.rpartition(".")[0] == group}
    parts = {key.rpartition(".")[2]: key for key in reversed(known)}
    by_part = [beside[each] for each in difflib.get_close_matches(last, beside, 1, LIKE)]
    by_part += difflib.get_close_matches(dotted, known, 1, ALIKE)
    by_part += [parts[each] for each in difflib.get_close_matches(last, parts, 1, ALIKE)]
    return next(iter([*same, *by_part]), None)


def _siblings(dotted: str) -> list[str]:
    group = dotted.rpartition(".")[0]
    return sorted(f"{group}.{key}" if group else key for key in CLOSED.get(group, ()))


def _is_known(dotted: str) -> bool:
    group, _, key = dotted.rpartition(".")
    return key in CLOSED[group]


def _in_closed_groups(plain: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The keys of the groups that are read key by key, with their values."""
    for group in CLOSED:
        node: Any = plain
        for part in filter(None, group.split(".")):
            node = node.get(part) if isinstance(node, Mapping) else None
        for key, value in node.items() if isinstance(node, Mapping) else ():
            yield f"{group}.{key}" if group else str(key), value


# -- what interpolations, reports and recipes read --------------------------------------------------------------------


def _unresolved(config: DictConfig) -> dict[str, Any]:
    """A composed config with its interpolations, and with Hydra's part, which a job's config lacks."""
    raw = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))
    if "hydra" not in raw and HydraConfig.initialized():
        raw["hydra"] = OmegaConf.to_container(cast("DictConfig", HydraConfig.instance().cfg).hydra, resolve=False)
    return raw


def _shown(node: Any) -> Iterator[str]:
    """The keys of ``study`` that a report names: they name the cells in it."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _shown(str(key))
            yield from _shown(value)
    elif isinstance(node, list):
        for value in node:
            yield from _shown(value)
    elif isinstance(node, str) and node.startswith("study."):
        yield node


def _groups_of_parts(recipe: Any) -> list[str]:
    """The groups from which a recipe's parts are made; a recipe of one's own may have further ones."""
    module, _, name = str((recipe or {}).get("_target_", "")).rpartition(".")
    try:
        parts = getattr(getattr(importlib.import_module(module), name), "parts", {})
    except (ImportError, AttributeError, ValueError):  # reported when the recipe is made
        return []
    return [part.group for part in parts.values()]


def _read_before_overrides(raw: dict[str, Any], dotted: str) -> Iterator[str]:
    """What the chosen files read before the command sets other values: such a key is another's default, no mistake."""
    words = list((raw.get("hydra") or {}).get("overrides", {}).get("task", []))
    given = OverridesParser.create().parse_overrides(words)
    if any(overlap(each.get_key_element().lstrip("+~"), dotted) for each in given):
        return
    loader: ConfigLoader = GlobalHydra.instance().config_loader()
    fixed = [each for each in given if not each.is_sweep_override()]
    choices = [str(each.input_line) for each in fixed if loader.get_group_options(each.key_or_group)]
    chosen = loader.load_configuration("config", choices, run_mode=RunMode.RUN)
    yield from references(OmegaConf.to_container(chosen, resolve=False))


def _is_among(dotted: str, read: Iterable[str]) -> bool:
    return any(overlap(dotted, each) for each in read)


def _leaves(dotted: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(f"{dotted}.{key}", each)
    else:
        yield dotted, value


def _keys(tree: Mapping[Any, Any], before: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{before}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{before}{key}.")
