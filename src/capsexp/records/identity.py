"""A cell's identity: what of its config decides what it computes."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

VOLATILE = (
    "callbacks.divergence",
    "callbacks.memory_check",
    "callbacks.resume",
    "data.source.cache",
    "hydra",
    "launcher",
    "logger",
    "model.recompute",
    "paths",
    "report",
    "sweep",
    "threads",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.log_every_n_steps",
    "trainer.progress",
)
"""Keys that do not change what a cell computes, only where, how visibly or how fast it does.

The two guards among the callbacks change no number of a cell that they let pass, and one that they stop has no result.
"""

FILES = ("data.path", "data.source.path", "routing.coupling", "model.routing.coupling")
"""Keys that may name a file which decides what a cell computes: the file counts by its content, not by its path."""

FORMER_TARGETS = {"capsexp.callbacks.collapse.CollapseGuard": "capsexp.callbacks.broken.BrokenGuard"}
"""The name by which a renamed class counts in ids, by its present name: a cell keeps its id whatever is renamed."""

IMPLIED: dict[str, Any] = {}
"""Dotted keys that a later version added, with the value that a config without them stands for.

Such a key counts in an id only where it holds something else, so that finished cells keep theirs.
"""

ID_LENGTH = 10


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def named_files(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The keys of :data:`FILES` that hold something: dotted key, the dict that holds it, and its key there."""
    for dotted in FILES:
        *groups, key = dotted.split(".")
        node: Any = config
        for group in groups:
            node = node.get(group) if isinstance(node, Mapping) else None
        if isinstance(node, dict) and node.get(key) is not None:
            yield dotted, node, key


def digested(
    config: Mapping[str, Any], digest: Callable[[str, Path], str] = lambda _key, path: file_sha256(path)
) -> dict[str, Any]:
    """A copy of a resolved config in which every file that it names is replaced by the digest of its content.

    ``data.path`` takes the place of ``data.source``, so beside it ``data.source.path`` is not read and becomes None.

    Args:
        config: the resolved config as plain dicts, lists and scalars.
        digest: makes a digest from the dotted key and the path.
    """
    kept = copy.deepcopy(dict(config))
    named = list(named_files(kept))
    has_own_data = any(dotted == "data.path" for dotted, _, _ in named)
    for dotted, node, key in named:
        if dotted == "data.source.path" and has_own_data:
            node[key] = None
        elif isinstance(node[key], str):
            node[key] = digest(dotted, Path(node[key]))
    return kept


def identity(config: Mapping[str, Any], data_sha256: str | None = None) -> dict[str, Any]:
    """The part of a resolved config that decides what the cell computes.

    Args:
        config: the resolved config as plain dicts, lists and scalars.
        data_sha256: digest of the data file, which takes the place of ``data.path``.  Other files must have been
            replaced before: see :func:`digested`.
    """
    kept = cast("dict[str, Any]", _with_targets(json.loads(json.dumps(config)), FORMER_TARGETS))
    for dotted in VOLATILE:
        drop(kept, dotted)
    for dotted, implied in IMPLIED.items():
        if _canonical(_at(kept, dotted)) == _canonical([implied]):
            drop(kept, dotted)
    if isinstance(kept.get("data"), dict):
        kept["data"]["path"] = data_sha256
    return kept


def present_targets(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as an older version may have written it, with the present names of the classes that it names."""
    return cast("dict[str, Any]", _with_targets(config, {former: now for now, former in FORMER_TARGETS.items()}))


def _with_targets(value: Any, names: Mapping[str, str]) -> Any:
    """The same tree with each ``_target_`` replaced that ``names`` has a name for."""
    if isinstance(value, Mapping):
        replaced = {key: _with_targets(item, names) for key, item in value.items()}
        target = replaced.get("_target_")
        return replaced | ({"_target_": names[target]} if isinstance(target, str) and target in names else {})
    return [_with_targets(item, names) for item in value] if isinstance(value, list) else value


def _at(tree: Any, dotted: str) -> list[Any]:
    """The value of a dotted key, alone in a list; an empty one where there is no such key."""
    for key in dotted.split("."):
        if not isinstance(tree, Mapping) or key not in tree:
            return []
        tree = tree[key]
    return [tree]


def _canonical(value: Any) -> str:
    return json.dumps(_one_spelling(value), sort_keys=True, separators=(",", ":"))


def _one_spelling(value: Any) -> Any:
    """0 and 0.0 are the same dropout."""
    if isinstance(value, dict):
        return {key: _one_spelling(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_one_spelling(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def drop(tree: dict[str, Any], dotted: str) -> None:
    """Take a dotted key out of nested dictionaries, if it is there."""
    *groups, last = dotted.split(".")
    for key in groups:
        tree = tree.get(key) or {}
        if not isinstance(tree, dict):
            return
    tree.pop(last, None)


def cell_id(config: Mapping[str, Any], data_sha256: str | None = None) -> str:
    """The cell's identity as ten hexadecimal digits: the same work has the same id on any machine."""
    return hashlib.sha256(_canonical(identity(config, data_sha256)).encode()).hexdigest()[:ID_LENGTH]
