"""The keys on which the interpolations of a config depend, found in its texts without resolving them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

REFERENCE = re.compile(r"\$\{\s*([A-Za-z_][\w.-]*)(?![\w.-]*\s*:)")
RELATIVE = re.compile(r"\$\{(\.+)([\w.-]*)")
FUNCTION = re.compile(r"\$\{\s*([\w.-]+)\s*:")
SELECTED = re.compile(r"\$\{\s*(?!oc\.env)[\w.-]+:\s*([A-Za-z_][\w.-]*)")
"""Interpolations of a key from the root, of one relative to where they stand, the name of a function, and what it gets
first, which may be a key (``oc.select``)."""


def references(node: Any, place: tuple[str, ...] = ()) -> Iterator[str]:
    """The dotted keys that interpolations in a tree may depend on; a name that holds another interpolation ends there.

    Of a text that this module does not understand, every word counts.
    """
    if isinstance(node, Mapping | list):
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from references(value, (*place, str(key)))
    elif isinstance(node, str) and "${" in node:
        text = re.sub(r"\[(\w+)\]", r".\1", node)
        yield from (found.rstrip(".") for form in (REFERENCE, SELECTED) for found in form.findall(text))
        for dots, rest in RELATIVE.findall(text):
            yield ".".join([*place[: -len(dots)], rest])
        yield from [] if is_understood(node) else re.findall(r"[\w.-]+", node)


def functions(node: Any) -> set[str]:
    """The names of the functions that interpolations in a tree call."""
    if isinstance(node, Mapping | list):
        return {each for value in (node.values() if isinstance(node, Mapping) else node) for each in functions(value)}
    return set(FUNCTION.findall(node)) if isinstance(node, str) else set()


def is_understood(node: Any) -> bool:
    """True if every interpolation in a tree has one of the forms above, and every ``oc.select`` a plain key."""
    if isinstance(node, Mapping | list):
        return all(map(is_understood, node.values() if isinstance(node, Mapping) else node))
    if not isinstance(node, str):
        return True
    forms = sum(len(form.findall(node)) for form in (REFERENCE, RELATIVE, FUNCTION))
    return node.count("${") == forms and len(SELECTED.findall(node)) >= node.count("oc.select:")


def overlap(key: str, other: str) -> bool:
    """True if one of two dotted keys is the other one or lies within it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
