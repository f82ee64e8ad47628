"""A cell's identity: the part of its config that determines its result."""

import functools
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
"""Keys that do not change a cell's result, but only its place, its output or its speed.

The two guards among the callbacks do not change the numbers of a cell that passes, and a cell that they stop has no
result.
"""

FILES = ("data.path", "data.source.path", "routing.coupling", "model.routing.coupling")
"""Keys that may name a file which determines a cell's result: the content of the file counts, not its path."""

FORMER_TARGETS = {"capsexp.callbacks.collapse.CollapseGuard": "capsexp.callbacks.broken.BrokenGuard"}
"""The name of a renamed class in ids, by its present name: a cell keeps its id after a rename."""

IMPLIED: dict[str, Any] = {
    "routing.bias": False,
    "routing.epsilon": 0.0,
    "model.routing.bias": False,
    "model.routing.epsilon": 0.0,
    "model.epsilon": 0.0,
    "model.normaliser": "squash",
    "model.activation": "length",
    "model.depthwise": False,
    "model.head": "activations",
    "model.intermediate_normaliser": "none",
    "model.module.loss": "margin",
}
"""Dotted keys that a later version added, with the value that a config without them implies.

Such a key counts in an id only if it has another value, so that finished cells keep their ids.
"""

_ONE_PASS = {"iterations": 1, "gradient": "full"}
IMPLIED_BY_TARGET: dict[str, dict[str, Any]] = {
    "capsexp.callbacks.lr_decay.LearningRateDecay": {"staircase": True},
    "capsexp.lightning_modules.capsnet.CapsNetModule": {"reduction": "sum"},
    "capsexp.routing.self_routing.SelfRouting": _ONE_PASS,
    "capsexp.routing.self_attention.SelfAttention": _ONE_PASS,
    "capsexp.routing.inverted_attention.InvertedAttention": {"gradient": "full"},
    "capsexp.routing.optimised.Optimised": {"gradient": "full"},
    "capsexp.models.layered_capsnet.LayeredCapsNet": {
        "primary.stride": 1,
        "primary.padding": 0,
        "primary.squash": "classic",
        "primary.epsilon": 0.0,
        "primary.normaliser": "squash",
        "primary.activation": "length",
        "primary.depthwise": False,
        "layer_normaliser": "none",
        "concurrent": False,
    },
}
"""As :data:`IMPLIED`, within a mapping with this ``_target_``; in those of other classes the key counts as ever."""

ID_LENGTH = 10


def is_volatile(key: str) -> bool:
    """True if an override's key or group changes nothing that a cell computes; see :data:`VOLATILE`."""
    return any(key == each or key.startswith((f"{each}.", f"{each}/")) for each in VOLATILE)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cached_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, computed once per process for each version of the file."""
    stat = path.stat()
    return _sha256_of_version(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=16)
def _sha256_of_version(path: Path, _mtime_ns: int, _size: int) -> str:
    return file_sha256(path)


def named_files(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The keys of :data:`FILES` that are set: the dotted key, the dict that holds it, and its key in that dict."""
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
    """A copy of a resolved config in which the path of every file is replaced by the digest of its content.

    ``data.path`` overrides ``data.source``; if it is set, ``data.source.path`` is not read and becomes None.

    Args:
        config: the resolved config as plain dicts, lists and scalars.
        digest: computes a digest from the dotted key and the path.
    """
    kept: dict[str, Any] = copied(config)
    named = list(named_files(kept))
    has_own_data = any(dotted == "data.path" for dotted, _, _ in named)
    for dotted, node, key in named:
        if dotted == "data.source.path" and has_own_data:
            node[key] = None
        elif isinstance(node[key], str):
            node[key] = digest(dotted, Path(node[key]))
    return kept


def identity(config: Mapping[str, Any], data_sha256: str | None = None) -> dict[str, Any]:
    """The part of a resolved config that determines the cell's result.

    Args:
        config: the resolved config as plain dicts, lists and scalars.
        data_sha256: digest of the data file, which replaces ``data.path``.  The paths of other files must be replaced
            before: see :func:`digested`.
    """
    kept = cast("dict[str, Any]", _with_targets(json.loads(json.dumps(config)), FORMER_TARGETS))
    for dotted in VOLATILE:
        drop(kept, dotted)
    for dotted, implied in IMPLIED.items():
        if _canonical(_at(kept, dotted)) == _canonical([implied]):
            drop(kept, dotted)
    _drop_implied_by_targets(kept)
    if isinstance(kept.get("data"), dict):
        kept["data"]["path"] = data_sha256
    return kept


def _drop_implied_by_targets(tree: Any) -> None:
    for each in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        _drop_implied_by_targets(each)
    target = tree.get("_target_") if isinstance(tree, dict) else None
    for dotted, implied in IMPLIED_BY_TARGET.get(target, {}).items() if isinstance(target, str) else ():
        if _canonical(_at(tree, dotted)) == _canonical([implied]):
            drop(tree, dotted)


def present_targets(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config that an older version may have written, with the present names of its classes."""
    return cast("dict[str, Any]", _with_targets(config, {former: now for now, former in FORMER_TARGETS.items()}))


def _with_targets(value: Any, names: Mapping[str, str]) -> Any:
    """The same tree with each ``_target_`` replaced that is a key of ``names``."""
    if isinstance(value, Mapping):
        replaced = {key: _with_targets(item, names) for key, item in value.items()}
        target = replaced.get("_target_")
        return replaced | ({"_target_": names[target]} if isinstance(target, str) and target in names else {})
    return [_with_targets(item, names) for item in value] if isinstance(value, list) else value


def copied(tree: Any) -> Any:
    """A copy of nested mappings and lists of scalars, made of dicts and lists; much faster than ``copy.deepcopy``."""
    if isinstance(tree, Mapping):
        return {key: copied(value) for key, value in tree.items()}
    return [copied(value) for value in tree] if isinstance(tree, list) else tree


def _at(tree: Any, dotted: str) -> list[Any]:
    """A list with the value of a dotted key; empty if there is no such key."""
    for key in dotted.split("."):
        if not isinstance(tree, Mapping) or key not in tree:
            return []
        tree = tree[key]
    return [tree]


def _canonical(value: Any) -> str:
    return json.dumps(_one_spelling(value), sort_keys=True, separators=(",", ":"))


def _one_spelling(value: Any) -> Any:
    """The value with whole floats as integers, since 0 and 0.0 mean the same."""
    if isinstance(value, dict):
        return {key: _one_spelling(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_one_spelling(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def drop(tree: dict[str, Any], dotted: str) -> None:
    """Remove a dotted key from nested dictionaries, if it exists."""
    *groups, last = dotted.split(".")
    for key in groups:
        tree = tree.get(key) or {}
        if not isinstance(tree, dict):
            return
    tree.pop(last, None)


def cell_id(config: Mapping[str, Any], data_sha256: str | None = None) -> str:
    """The cell's id, ten hexadecimal digits: equal identities have the same id on any machine."""
    return hashlib.sha256(_canonical(identity(config, data_sha256)).encode()).hexdigest()[:ID_LENGTH]


def config_digest(config: Mapping[str, Any]) -> str:
    """The digest of what a resolved config says of a cell's work; the paths of files do not count."""
    return cell_id(digested(config, lambda _key, _path: ""))
