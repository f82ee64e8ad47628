"""A plan for a folder that has none, such as ``multirun/adhoc``: its cells, and the keys in which they differ."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capsexp import records
from capsexp.analysis.comparison.configs import read_config


def plan_of_cells(directory: Path) -> records.Sweep | None:
    """The plan that the cells of a folder amount to; None if there is no cell.

    The axes are the keys of the cells' configs whose values differ.  Of several keys that differ alike, such as
    ``routing.iterations`` and its copy ``model.routing.iterations``, the shortest one stays.

    Args:
        directory: a folder with directories of cells.
    """
    found = records.cell_directories(directory)
    if not found:
        return None
    configs = {identifier: dict(records.leaves(read_config(path))) for identifier, path in found.items()}
    keys = dict.fromkeys(key for config in configs.values() for key in config)
    values = {key: [config.get(key) for config in configs.values() if config] for key in keys}
    axes = without_copies({key: column for key, column in values.items() if _differ(column)})
    cells = [
        records.PlannedCell(identifier, path.name, {key: configs[identifier].get(key) for key in axes})
        for identifier, path in found.items()
    ]
    swept = {key: list({repr(value): value for value in column}.values()) for key, column in axes.items()}
    return records.Sweep(directory.resolve().name, swept, cells, [], {})


def _differ(values: list[Any]) -> bool:
    return len({repr(value) for value in values}) > 1


def without_copies(axes: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The keys without those that have the same last part and the same values as a shorter one."""
    shortest: dict[tuple[str, str], str] = {}
    for key, column in axes.items():
        same = (key.rpartition(".")[2], repr(column))
        shortest[same] = min(shortest.get(same, key), key, key=lambda each: each.count("."))
    return {key: column for key, column in axes.items() if key in shortest.values()}
