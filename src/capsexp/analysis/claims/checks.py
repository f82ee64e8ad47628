"""Plain checks of a file of claims; an error names the key that is wrong, in one line."""

from collections.abc import Collection, Mapping
from typing import Any

from capsexp.analysis.conditions import Condition
from capsexp.errors import ConfigError, require, require_number


def mapping(
    key: str, value: object, known: Collection[str] | None = None, needed: Collection[str] = ()
) -> dict[str, Any]:
    """A mapping with no other keys than the ``known`` ones (None: any) and with all ``needed`` ones."""
    if not isinstance(value, Mapping):
        raise ConfigError(key, "be a mapping", value)
    for name in value:
        require(known is None or name in known, f"{key}.{name}", f"be one of {', '.join(sorted(known or ()))}", name)
    for name in sorted(needed):
        require(value.get(name) is not None, f"{key}.{name}", "be given", value.get(name))
    return {str(name): item for name, item in value.items()}


def items(key: str, value: object) -> list[tuple[str, object]]:
    """The items of a list, each with its key; none is an empty list."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConfigError(key, "be a list", value)
    return [(f"{key}[{index}]", item) for index, item in enumerate(value)]


def text(key: str, value: object) -> str:
    """A text."""
    if not isinstance(value, str):
        raise ConfigError(key, "be a text", value)
    return value


def file_name(key: str, value: object) -> str:
    """The stem of a file's name that every system allows."""
    name = text(key, value)
    plain = bool(name) and all(char.isascii() and (char.isalnum() or char in "_-") for char in name)
    require(plain, key, "be a file name of letters, digits, - and _", name)
    return name


def rules(key: str, value: object) -> dict[str, Condition]:
    """The condition on each axis."""
    return {axis: _condition(f"{key}.{axis}", item) for axis, item in mapping(key, value).items()}


def _condition(key: str, value: object) -> Condition:
    if isinstance(value, Mapping):
        raw = mapping(key, value, {"min", "max"})
        require(bool(raw), key, "name min, max or both", value)
        low, high = (require_number(f"{key}.{end}", raw[end]) if end in raw else None for end in ("min", "max"))
        return Condition(None, low, high)
    return Condition(tuple(value) if isinstance(value, list) else (value,))
