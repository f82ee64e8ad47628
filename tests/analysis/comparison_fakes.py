"""Made-up sweeps to compare: each cell with a config, and with a result that a function of its axes gives."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from report_fakes import body, sweep

from capsexp import records

BASE = {"seed": 0, "optimizer": {"lr": 0.1}, "model": {"c2": 4, "c3": 8}, "paths": {"output": "multirun"}, "threads": 1}
"""The config of a cell before its axes are set."""


def config(axes: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The base with the axes set; a value that is a name in ``groups`` of the base becomes the group's content."""
    made: dict[str, Any] = yaml.safe_load(yaml.safe_dump(base))
    groups = made.pop("groups", {})
    for key, value in axes.items():
        *path, last = key.split(".")
        node = made
        for part in path:
            node = node.setdefault(part, {})
        node[last] = groups.get(value, value) if isinstance(value, str) else value
    return made


def written(
    root: Path,
    axes: dict[str, list[Any]],
    value: Callable[..., float | None],
    *,
    name: str = "",
    base: dict[str, Any] | None = None,
    missing: Callable[[dict[str, Any]], bool] = lambda _: False,
    ids: str = "",
    **block_and_changes: Any,
) -> Path:
    """A sweep in ``root``, called as its folder; ``value`` gives a cell's accuracy by its axes.

    Args:
        root: its folder.
        axes: the swept keys.
        value: takes the axes as a dictionary.
        name: its name.
        base: what is other than in :data:`BASE`.
        missing: true for the axes of cells that have not started.
        ids: cells of equal axes are the same ones in sweeps that share it; by default each sweep has its own.
        **block_and_changes: ``block`` is the ``report:`` block; the others are changes of the results.
    """
    changes = dict(block_and_changes)
    sweep(root, axes, changes.pop("block", {"figures": []}))
    planned = records.read_sweep(root)
    assert planned is not None
    command = [f"{key}={','.join(map(str, values))}" for key, values in axes.items()]
    cells = [_own(cell, ids or f"{root.parent.name}/{root.name}") for cell in planned.cells]
    records.write_sweep(root, replace(planned, name=name or root.name, overrides=command, cells=cells))
    for cell in cells:
        if not missing(cell.axes):
            records.write_result(root / cell.name, body(cell, value(cell.axes), **changes))
            made = config(cell.axes, {**BASE, **(base or {})})
            (root / cell.name / records.CONFIG).write_text(yaml.safe_dump(made, sort_keys=False))
    return root


def _own(cell: records.PlannedCell, ids: str) -> records.PlannedCell:
    made = records.cell_id({"axes": cell.axes, "ids": ids})
    return records.PlannedCell(made, records.cell_name(cell.axes, made), cell.axes)


def plain(axes: dict[str, Any]) -> float:
    """A number that differs from cell to cell."""
    return 0.5 + axes.get("model.c2", 0) / 64 + axes.get("model.c3", 0) / 512 + axes.get("seed", 0) / 1024
