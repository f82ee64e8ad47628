"""Configs that differ from a resolved one in plain values alone, without resolving all of it again.

OmegaConf takes milliseconds to resolve a config, for each of a grid's hundreds of cells.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from capsexp import records
from capsexp.sweep.interpolations import functions, is_understood, overlap, references

HARMLESS = frozenset(("data_file", "network_size", "oc.env", "oc.select"))
"""Functions of interpolations that read no key but those in their arguments."""


def may_vary(config: DictConfig, keys: Iterable[str]) -> bool:
    """True if no interpolation of a config depends on these keys, outside Hydra's own part.

    Args:
        config: the composed config.
        keys: dotted keys that get other values.
    """
    plain = {key: value for key, value in cast("Any", OmegaConf.to_container(config)).items() if key != "hydra"}
    named = set(references(plain))
    known = is_understood(plain) and functions(plain) <= HARMLESS
    return known and not any(overlap(key, each) for key in keys for each in named)


def varied(plain: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """A copy of a resolved config with other values at dotted keys; None if a key does not lie within mappings."""
    found: dict[str, Any] = records.copied(plain)
    for dotted, value in values.items():
        *groups, last = dotted.split(".")
        node: Any = found
        for group in groups:
            node = node.get(group) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            return None
        node[last] = value
    return found
