"""Configs of cells, without the keys that change nothing of their work, and values looked up in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capsexp import records
from capsexp.analysis.cells import Cell

ABSENT = object()
"""The value of a key that a config does not have."""


def read_config(cell: Path) -> dict[str, Any]:
    """The part of a cell's config that counts for its work; empty if the cell has no readable config.

    Args:
        cell: the cell's directory.
    """
    import yaml  # not needed for a folder with a plan

    try:
        with (cell / records.CONFIG).open(encoding="utf-8") as stream:
            config = yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return _counting(config) if isinstance(config, dict) else {}


def configs_of(directory: Path, cells: list[Cell]) -> dict[str, dict[str, Any]]:
    """The configs of a sweep's cells by cell id; of a cell that has not started, the one that the launch froze.

    Args:
        directory: the sweep's folder.
        cells: the planned cells.
    """
    read = {cell.id: read_config(cell.directory) if cell.directory else {} for cell in cells}
    frozen = records.read_configs(directory) if not all(read.values()) else {}
    return {key: config or _counting(frozen[key].config if key in frozen else {}) for key, config in read.items()}


def _counting(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the present names of its classes, without the keys that change nothing."""
    made = records.present_targets(config)
    for volatile in records.VOLATILE:
        records.drop(made, volatile)
    return made


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, which may be a mapping; :data:`ABSENT` where there is none."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return ABSENT
        node = node[part]
    return node
