"""The tables of cells as evidence: finished cells by protocol, and points, which average over seeds.

``cells.csv``, as a report writes it, has one row per planned cell.  Cells of different protocols are never mixed.
"""

import csv
import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from capsexp.analysis.cells import (
    SEED,
    Cell,
    Point,
    Protocol,
    average,
    grouped,
    in_order,
    is_number,
    points_of,
)
from capsexp.analysis.conditions import Condition
from capsexp.errors import CommandError

NAME = "cells.csv"
FACTS = ("state", "kind", "cause", "retried")
"""Columns between what a cell is and its numbers; tables of older reports lack some."""

Value = str | int | float | bool | None
Where = Mapping[str, Condition]
"""Conditions on the values of axes, as ``where`` in a ``report:`` block."""


class TableError(CommandError):
    """A table cannot be used; the message says why, in one line."""


class LackingError(Exception):
    """A claim cannot be decided.

    Attributes:
        source: where cells are lacking.
    """

    def __init__(self, source: str, why: str) -> None:
        super().__init__(why)
        self.source = source


# -- one table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Table:
    """A table of a report.

    Attributes:
        folder: where it lies.
        axes: swept keys, the seed among them where it was swept.
        metrics: heads of the columns of numbers.
        cells: the planned cells, without directories.  The values of one that is done are the numbers among its metrics
            and axes: NaN where a metric is not finite or empty.
    """

    folder: Path
    axes: tuple[str, ...]
    metrics: tuple[str, ...]
    cells: list[Cell]

    def finished(self, protocol: Protocol) -> list[Cell]:
        """The finished cells of a protocol."""
        return [cell for cell in self.cells if cell.protocol == protocol]


def find(folder: Path) -> Path | None:
    """The table in a folder, or in the ``report`` of a sweep's folder; None where there is none."""
    return next((path for path in (folder / NAME, folder / "report" / NAME) if path.is_file()), None)


def read(path: Path) -> Table:
    """Read a table.

    Raises:
        TableError: it is not what a report writes.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            lines = list(csv.reader(stream, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise TableError(f"{path} is no CSV: {error}") from error
    header = lines[0] if lines else []
    data = "data.name" if "data.name" in header else "data"
    _check(path, header, data, lines)
    axes = header[1 : header.index(data)]
    metrics = header[max(place for place, head in enumerate(header) if head in FACTS) + 1 :]
    cells = []
    for place, line in enumerate(lines[1:], 2):
        row = dict(zip(header, line, strict=True))
        if row["state"] == "done" and not (row[data] and row["select_on"]):
            raise TableError(f"{path}, line {place}: a finished cell without its data set or select_on")
        values = {axis: value_of(row[axis]) for axis in axes}
        numbers = {axis: value for axis, value in values.items() if is_number(value)}
        numbers |= {metric: _number(f"{path}, line {place}: {metric}", row[metric]) for metric in metrics}
        result = {"metrics": numbers, "data": {"name": row[data]}, "training": {"select_on": row["select_on"]}}
        name, known = row["cell"], result if row["state"] == "done" else None
        cells.append(Cell(name.rpartition("-")[2], name, values, row["state"], None, None, known))
    return Table(path.parent, tuple(axes), tuple(metrics), cells)


def _check(path: Path, header: Sequence[str], data: str, lines: Sequence[Sequence[str]]) -> None:
    """Every column that a report writes must be there, once, and the cell's name first; no line may be cut short."""
    lacking = [head for head in ("cell", data, "select_on", "state") if head not in header]
    if lacking:
        raise TableError(f"{path} has no column {lacking[0]}: a report's {NAME} is needed")
    if header[0] != "cell" or len(set(header)) < len(header):
        raise TableError(f"{path} must begin with the column cell and have every column once")
    for place, line in enumerate(lines, 1):
        if len(line) != len(header):
            raise TableError(f"{path}, line {place}: {len(line)} fields under {len(header)} heads")


def value_of(text: str) -> Value:
    """An axis' value from its text: numbers and YAML's words as what they are, anything else as text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    plain = value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    return value if plain else text


def _number(what: str, text: str) -> float:
    """A metric's value; NaN where a cell has no finite one."""
    try:
        value = float(text or "nan")
    except ValueError as error:
        raise TableError(f"{what} must be a number, got {text!r}") from error
    return value if math.isfinite(value) else math.nan


# -- the cells of all tables ------------------------------------------------------------------------------------------


def number_of(cell: Cell, name: str) -> float:
    """A cell's value of a metric, or of an axis; NaN where it has no number."""
    value = cell.value(name)
    return math.nan if value is None else value


def mean_of(cells: Iterable[Cell], name: str) -> float:
    """Mean of a metric, or of an axis, over cells of a sample with that number."""
    mean = average([number_of(cell, name) for cell in cells])
    assert mean is not None, "a sample's groups have cells"
    return mean


@dataclass(frozen=True, eq=False)
class Sample:
    """The cells of one source that a claim uses.

    Attributes:
        cells: finished cells that satisfy the conditions and have every number asked for.
        lost: finished cells that satisfy the conditions and lack a number.
    """

    part: "Part"
    cells: list[Cell]
    lost: int

    @functools.cached_property
    def points(self) -> list[Point]:
        """The cells, those of different seeds together, in order of the axes' values."""
        return points_of(in_order(self.cells, self.part.axes), self.part.axes)

    @property
    def complete(self) -> bool:
        """True if no cell is lacking: none of the source, and none for want of a number."""
        return self.part.complete and not self.lost


@dataclass(frozen=True, eq=False)
class Part:
    """The finished cells of one source under one protocol.

    Attributes:
        axes: swept keys but the seed.
        swept: the same with the seed, where it was swept.
        metrics: columns of numbers.
        cells: the finished cells.
        planned: number of cells in the tables, without those that finished under another protocol.
        values: those of each axis, of all planned cells, in order.
        grid: size of the paper's grid; 0 = not stated.
        replaced: number of cells of earlier folders for which those of later ones count.
    """

    source: str
    axes: tuple[str, ...]
    swept: frozenset[str]
    metrics: frozenset[str]
    cells: list[Cell]
    planned: int
    values: Mapping[str, tuple[Value, ...]]
    folders: tuple[Path, ...]
    grid: int = 0
    replaced: int = 0

    @functools.cached_property
    def beyond(self) -> int:
        """Size of the paper's grid where fewer points than it has have finished; else 0."""
        return self.grid if len(grouped(self.cells, self.axes)) < self.grid else 0

    @property
    def complete(self) -> bool:
        """True if every cell that was planned has finished, and every point of the paper's grid."""
        return self.planned == len(self.cells) and not self.beyond

    def sample(self, where: Where, *metrics: str) -> Sample:
        """The cells that satisfy every condition and have every number.

        Args:
            where: conditions on axes.
            metrics: columns of numbers; axes may be among them.

        Raises:
            LackingError: a condition's axis was not swept, the table has no such column, or no cell is left.
        """
        unknown = [axis for axis in where if axis not in self.swept]
        unknown += [metric for metric in metrics if metric not in self.swept | self.metrics]
        if unknown:
            raise LackingError(self.source, f"the cells of {self.source} have no {unknown[0]}")
        found = [cell for cell in self.cells if all(rule.holds(cell.axes[axis]) for axis, rule in where.items())]
        kept = [cell for cell in found if not any(math.isnan(number_of(cell, metric)) for metric in metrics)]
        if not kept:
            raise LackingError(self.source, f"no finished cell of {self.source} there")
        return Sample(self, kept, len(found) - len(kept))


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence of one protocol.

    Attributes:
        parts: what each source has of it.
        papers: True if the data set is the paper's.
    """

    parts: Mapping[str, Part]
    papers: bool

    def part(self, source: str) -> Part:
        """The cells of a source.

        Raises:
            LackingError: it has nothing of this protocol.
        """
        if source not in self.parts:
            raise LackingError(source, f"no finished cell of {source}")
        return self.parts[source]


def gather(
    tables: Mapping[str, Sequence[Table]], grids: Mapping[str, int], paper_data: str
) -> dict[Protocol, Evidence]:
    """The evidence by protocol: those of the paper's data (an empty one for want of any), then others, by name.

    Where two tables of a source have a point and seed in common, the finished cell of the later one counts.

    Args:
        tables: the tables of each source.
        grids: size of the paper's grid, by source.
        paper_data: the paper's data set.

    Raises:
        TableError: two tables of a source swept different axes, or one table has two trainings of one point and seed.
    """
    found = {cell.protocol for of in tables.values() for table in of for cell in table.cells if cell.protocol}
    own = {each for each in found if each.data.lower() == paper_data.lower()}
    own = own or {Protocol(paper_data, select_on="val")}
    evidence = {}
    for protocol in sorted(own | found, key=lambda each: (each not in own, each.data, each.select_on)):
        parts = [_part(source, of, protocol, grids.get(source, 0)) for source, of in tables.items()]
        evidence[protocol] = Evidence({part.source: part for part in parts if part}, protocol in own)
    return evidence


def _part(source: str, tables: Sequence[Table], protocol: Protocol, grid: int) -> Part | None:
    used = [table for table in tables if table.finished(protocol)]
    if not used:
        return None
    for table in used:
        if set(table.axes) != set(used[0].axes):
            raise TableError(f"{source}: {used[0].folder} and {table.folder} swept different axes; give one of them")
    swept = used[0].axes
    axes = tuple(axis for axis in swept if axis != SEED)
    finished = [cell for table in used for cell in _once(source, protocol, table)]
    places = grouped(finished, swept)
    open_cells = [cell for table in used for cell in table.cells if not cell.done]
    planned = [cells[0] for cells in grouped([*finished, *open_cells], swept).values()]
    return Part(
        source=source,
        axes=axes,
        swept=frozenset(swept),
        metrics=frozenset(metric for table in used for metric in table.metrics),
        cells=[cells[-1] for cells in places.values()],
        planned=len(planned),
        values={axis: _values(planned, axis) for axis in axes},
        folders=tuple(table.folder for table in used),
        grid=grid,
        replaced=sum(one.id != later.id for cells in places.values() for one, later in pairwise(cells)),
    )


def _once(source: str, protocol: Protocol, table: Table) -> list[Cell]:
    """A table's finished cells; two of one point and seed are a contradiction."""
    cells = table.finished(protocol)
    for first, *others in grouped(cells, table.axes).values():
        if others:
            raise TableError(
                f"{source}: {first.name} and {others[0].name} ({table.folder}) are two trainings of one place on"
                f" {protocol.data}"
            )
    return cells


def _values(cells: Sequence[Cell], axis: str) -> tuple[Value, ...]:
    """The values of an axis, each once, in order."""
    return tuple(same[0].axes[axis] for same in grouped(in_order(cells, [axis]), [axis]).values())
