"""A cell's identity: what of its config decides what it computes."""

import hashlib
import json
from collections.abc import Mapping
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

ID_LENGTH = 10


def identity(config: Mapping[str, Any], data_sha256: str | None = None) -> dict[str, Any]:
    """The part of a resolved config that decides what the cell computes.

    Args:
        config: the resolved config as plain dicts, lists and scalars.
        data_sha256: digest of the data file, which takes the place of ``data.path``.
    """
    kept = cast("dict[str, Any]", json.loads(json.dumps(config)))
    for dotted in VOLATILE:
        _drop(kept, dotted.split("."))
    if isinstance(kept.get("data"), dict):
        kept["data"]["path"] = data_sha256
    return kept


def _one_spelling(value: Any) -> Any:
    """0 and 0.0 are the same dropout."""
    if isinstance(value, dict):
        return {key: _one_spelling(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_one_spelling(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _drop(tree: dict[str, Any], path: list[str]) -> None:
    for key in path[:-1]:
        tree = tree.get(key) or {}
        if not isinstance(tree, dict):
            return
    tree.pop(path[-1], None)


def cell_id(config: Mapping[str, Any], data_sha256: str | None = None) -> str:
    """The cell's identity as ten hexadecimal digits: the same work has the same id on any machine."""
    canonical = json.dumps(_one_spelling(identity(config, data_sha256)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:ID_LENGTH]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
