"""Several sweeps as one: each cell has a value of every axis that any of them swept, and the name of its sweep."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from capsexp import records
from capsexp.analysis import results
from capsexp.analysis.cells import SEED, Cell, Point, hashable
from capsexp.analysis.comparison.configs import ABSENT, configs_of, value_at
from capsexp.analysis.results import ReportError, Results, ordered
from capsexp.analysis.table import AXIS, table_of

SWEEP = "sweep"
"""The axis that tells the sweeps apart."""

UNKNOWN = "not known"
"""The value of an axis at a cell whose config does not show it; such a cell is at no point of another sweep."""


@dataclass(frozen=True)
class Member:
    """One of several sweeps.

    Attributes:
        name: its name, distinct among the sweeps.
        directory: its folder, as it was given.
        read: the sweep as it is.
        filled: the same with a value of every axis that any of the sweeps swept, and of the seed.
        configs: the cells' configs by cell id.
    """

    name: str
    directory: Path
    read: Results
    filled: Results
    configs: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Joined:
    """Several sweeps, and all of them as the results of a single one with the further axis :data:`SWEEP`."""

    members: list[Member]
    results: Results

    @property
    def names(self) -> list[str]:
        """The names of the sweeps."""
        return [member.name for member in self.members]

    def table(self) -> pd.DataFrame:
        """The cells as :func:`load_joined` gives them."""
        return _table(self.members)


def load_joined(*directories: str | Path) -> pd.DataFrame:
    """The cells of several sweeps as one table, in which every cell has a value of every swept axis.

    The columns are those of :func:`~capsexp.load_sweep`.  Where a sweep did not sweep an axis, its cells have the value
    in their configs, NaN if it is not known there; None is the value null.  Names of sweeps are distinct.

    Args:
        *directories: folders of sweeps, such as ``multirun/cnn_prune``.

    Raises:
        ReportError: a directory is no sweep's folder, or is given twice.
        TypeError: no directory is given.
    """
    if not directories:
        raise TypeError("load_joined() takes at least one directory")
    return _table(_members([Path(directory) for directory in directories]))


def read_joined(directories: Sequence[Path]) -> Joined:
    """Read the folders of several sweeps.

    Raises:
        ReportError: a directory is no sweep's folder, or is given twice.
    """
    members = _members(directories)
    return Joined(members, _joined(members))


def _table(members: Sequence[Member]) -> pd.DataFrame:
    table = table_of([member.filled for member in members])
    cells = [cell for member in members for cell in member.filled.cells]
    for column in [name for name in table.columns if str(name).startswith(AXIS)]:
        values = [cell.axes.get(column.removeprefix(AXIS), UNKNOWN) for cell in cells]
        known = [math.nan if value == UNKNOWN else value for value in values]
        table[column] = pd.Series(known, index=table.index, dtype=object)  # numbers would turn None into NaN
    return table


# -- the sweeps -------------------------------------------------------------------------------------------------------


def _members(directories: Sequence[Path]) -> list[Member]:
    _refuse_twice(directories)
    read = [results.read(directory) for directory in directories]
    names = _distinct([each.sweep.name for each in read])
    configs = [configs_of(directory, each.cells) for directory, each in zip(directories, read, strict=True)]
    axes = list(dict.fromkeys(axis for each in read for axis in each.axes))
    known = _known(axes, read, configs)
    filled = [_filled(name, axes, each, config, known) for name, each, config in zip(names, read, configs, strict=True)]
    parts = zip(names, directories, read, filled, configs, strict=True)
    return [Member(*each) for each in parts]


def _refuse_twice(directories: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for directory in directories:
        first = seen.setdefault(directory.resolve(), directory)
        if first is not directory:
            raise ReportError(f"DIR must name each sweep once, got {str(directory)!r}, the folder of {str(first)!r}")


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, those that occur more than once with a number: ``name (1)``, ``name (2)``."""
    counts, used, made = Counter(names), set(names), []
    for name in names:
        if counts[name] > 1:
            name = next(each for i in range(1, len(names) + len(used) + 1) if (each := f"{name} ({i})") not in used)
            used.add(name)
        made.append(name)
    return made


# -- the values of axes -----------------------------------------------------------------------------------------------

Known = Mapping[tuple[str, str], Mapping[object, Any]]
"""For an axis that is a group of the config, and the content of the group: the values under which sweeps had it."""


def _known(axes: Sequence[str], read: Sequence[Results], configs: Sequence[Mapping[str, Any]]) -> Known:
    """The names of groups by their content, which stands in a config in place of the name."""
    found: dict[tuple[str, str], dict[object, Any]] = {}
    for each, mine in zip(read, configs, strict=True):
        for cell in each.cells:
            for axis in axes:
                content = value_at(mine[cell.id], axis)
                if axis in cell.axes and isinstance(content, Mapping):
                    value = cell.axes[axis]
                    found.setdefault((axis, _text(content)), {})[hashable(value)] = value
    return found


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, default=str)


def _value(axis: str, cell: Cell, config: Mapping[str, Any], known: Known) -> Any:
    """The value of an axis at a cell: the swept one, else that in the config."""
    if axis in cell.axes:
        return cell.axes[axis]
    value = value_at(config, axis)
    if isinstance(value, Mapping):
        names = known.get((axis, _text(value)), {})
        return next(iter(names.values())) if len(names) == 1 else UNKNOWN
    if value is ABSENT and axis == SEED:
        return ((cell.result or {}).get("training") or {}).get("seed", UNKNOWN)
    return UNKNOWN if value is ABSENT else value


def _filled(name: str, axes: Sequence[str], read: Results, configs: Mapping[str, Any], known: Known) -> Results:
    """A sweep with a value of every axis at each cell, and of the seed."""
    every = list(dict.fromkeys([*axes, SEED]))
    cells = [
        replace(cell, axes={axis: _value(axis, cell, configs[cell.id], known) for axis in every}) for cell in read.cells
    ]
    made = {cell.id: cell for cell in cells}
    only = read.protocols[0] if len(read.protocols) == 1 else None
    points = [
        replace(each, protocol=point.protocol or only)
        for point in read.points
        for each in _points([made[cell.id] for cell in point.cells], axes)
    ]
    values = {axis: ordered([cell.axes[axis] for cell in cells], read.sweep.axes.get(axis, ())) for axis in every}
    return replace(
        read,
        sweep=replace(read.sweep, name=name, axes=values),
        cells=cells,
        points=points,
        axes={axis: each for axis, each in values.items() if axis != SEED},
    )


def _points(cells: Sequence[Cell], axes: Sequence[str]) -> list[Point]:
    """The points of cells that were one: more than one only if a config ties an axis to the seed."""
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(hashable(cell.axes[axis]) for axis in axes), []).append(cell)
    return [Point({axis: group[0].axes[axis] for axis in axes}, tuple(group), None) for group in groups.values()]


def _once(values: Sequence[Any]) -> list[Any]:
    """Each value once, numbers from small to large."""
    return ordered(values, list({hashable(value): value for value in values}.values()))


def _joined(members: Sequence[Member]) -> Results:
    """All sweeps as the results of a single one."""
    every = [member.filled for member in members]
    axes: dict[str, list[Any]] = {SWEEP: [member.name for member in members]}
    for axis in every[0].axes:
        values = [value for each in every for value in each.axes[axis]]
        axes[axis] = _once(values)
    seeds = [value for each in every for value in each.sweep.axes[SEED]]
    sweep = records.Sweep(
        ", ".join(member.name for member in members),
        {**axes, SEED: _once(seeds)},
        [],
        [],
        every[0].sweep.report,
    )
    return Results(
        sweep=sweep,
        cells=[replace(cell, axes={SWEEP: m.name, **cell.axes}) for m in members for cell in m.filled.cells],
        points=[
            Point(
                {SWEEP: m.name, **point.axes},
                tuple(replace(cell, axes={SWEEP: m.name, **cell.axes}) for cell in point.cells),
                point.protocol,
            )
            for m in members
            for point in m.filled.points
        ],
        axes=axes,
        protocols=sorted({protocol for each in every for protocol in each.protocols}, key=repr),
        orphans=[],
    )
