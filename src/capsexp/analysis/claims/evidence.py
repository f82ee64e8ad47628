"""The tables of cells as evidence: finished cells by protocol, and points, which average over seeds.

``cells.csv``, as a report writes it, has one row per planned cell.  Cells of different protocols are never mixed.
"""

import csv
import functools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from capsexp.analysis.cells import SEED
from capsexp.analysis.conditions import Condition
from capsexp.errors import CommandError

NAME = "cells.csv"
FACTS = ("state", "kind", "cause", "retried")
"""Columns between what a cell is and its numbers; tables of older reports lack some."""
PROTOCOL, KEY = "(protocol)", "(key)"
"""Columns that are made here: a finished cell's protocol, and the values of a cell's axes as one text."""

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


@dataclass(frozen=True, order=True)
class Protocol:
    """The data set and the split on which the models were chosen; numbers must share both to be compared."""

    data: str
    select_on: str = "val"


# -- one table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Table:
    """A table of a report.

    Attributes:
        folder: where it lies.
        axes: swept keys, the seed among them where it was swept.
        metrics: heads of the columns of numbers.
        cells: one row per planned cell: ``cell``, ``state``, the axes (any values), the metrics (NaN where there is no
            finite number), PROTOCOL (None for a cell that has not finished) and KEY.
    """

    folder: Path
    axes: tuple[str, ...]
    metrics: tuple[str, ...]
    cells: pd.DataFrame

    def finished(self, protocol: Protocol) -> pd.DataFrame:
        """The finished cells of a protocol."""
        return self.cells[self.cells[PROTOCOL] == protocol]


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
            lines = list(csv.reader(stream, strict=True))  # pandas would fill up a line that was cut short
    except (csv.Error, UnicodeDecodeError) as error:
        raise TableError(f"{path} is no CSV: {error}") from error
    header = lines[0] if lines else []
    data = "data.name" if "data.name" in header else "data"
    _check(path, header, data, lines)
    text = pd.DataFrame(lines[1:], columns=header, dtype=object)
    axes, done = header[1 : header.index(data)], text["state"] == "done"
    metrics = header[max(place for place, head in enumerate(header) if head in FACTS) + 1 :]
    unnamed = done & ((text[data] == "") | (text["select_on"] == ""))
    if unnamed.any():
        raise TableError(f"{path}, line {unnamed.argmax() + 2}: a finished cell without its data set or select_on")
    protocols = [Protocol(*row) if end else None for *row, end in zip(text[data], text["select_on"], done, strict=True)]
    columns = {PROTOCOL: pd.Series(protocols, dtype=object)}
    columns |= {axis: pd.Series([value_of(each) for each in text[axis]], dtype=object) for axis in axes}
    columns |= {metric: _numbers(path, text[metric]) for metric in metrics}
    cells = text[["cell", "state"]].assign(**columns)
    cells[KEY] = pd.Series([key_of(each) for each in _coordinates(cells, axes)], dtype=object)
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


def _numbers(path: Path, column: pd.Series) -> pd.Series:
    """A metric's values; NaN where a cell has no finite one."""
    numbers = []
    for place, text in enumerate(column, 2):
        try:
            numbers.append(float(text or "nan"))
        except ValueError as error:
            raise TableError(f"{path}, line {place}: {column.name} must be a number, got {text!r}") from error
    return pd.Series(numbers, dtype=float).where(np.isfinite)


# -- cells by their axes ----------------------------------------------------------------------------------------------


def _coordinates(cells: pd.DataFrame, axes: Sequence[str]) -> list[dict[str, Value]]:
    """Each cell's values on some axes; None on an axis that was not swept."""
    columns = [cells[axis].tolist() if axis in cells else [None] * len(cells) for axis in axes]
    return (
        [dict(zip(axes, values, strict=True)) for values in zip(*columns, strict=True)] if axes else [{}] * len(cells)
    )


def key_of(axes: Mapping[str, Value]) -> str:
    """Values of axes as one text, equal for equal values."""
    return json.dumps({axis: axes[axis] for axis in sorted(axes)})


def order(value: Value) -> tuple[bool, float, str]:
    """Sorts the values of an axis: numbers by size, then everything else by its text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return False, value, ""
    return True, 0.0, str(value)


def grouped(cells: pd.DataFrame, axes: Sequence[str]) -> list[tuple[dict[str, Value], pd.DataFrame]]:
    """Cells apart by their values on some axes, in order of these values: numbers by size, before texts."""
    places = _coordinates(cells, axes)
    # By text, since pandas takes True and 1 for equal.
    groups = cells.groupby(np.array([key_of(place) for place in places], dtype=object), sort=False).indices.values()
    found = [(places[rows[0]], cells.iloc[rows]) for rows in groups]
    return sorted(found, key=lambda group: [order(value) for value in group[0].values()])


def numbers(cells: pd.DataFrame, name: str) -> list[float]:
    """The values of a metric or of an axis, in order of the cells; NaN where one is not a number."""
    column = cells[name].tolist()
    return [value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan for value in column]


def mean_of(cells: pd.DataFrame, name: str) -> float:
    """Mean of a metric, or of an axis, over cells that have it; equal values stay as they are."""
    values = [value for value in numbers(cells, name) if not math.isnan(value)]
    # The exact mean: that of pandas depends on the order of the cells in the last digit.
    return values[0] if min(values) == max(values) else statistics.fmean(values)


@dataclass(frozen=True, eq=False)
class Point:
    """The cells that differ in their seed alone."""

    axes: dict[str, Value]
    cells: pd.DataFrame

    def mean(self, metric: str) -> float:
        """Mean over the seeds."""
        return mean_of(self.cells, metric)


@dataclass(frozen=True, eq=False)
class Sample:
    """The cells of one source that a claim uses.

    Attributes:
        cells: finished cells that satisfy the conditions and have every number asked for.
        lost: finished cells that satisfy the conditions and lack a number.
    """

    part: "Part"
    cells: pd.DataFrame
    lost: int

    @functools.cached_property
    def points(self) -> list[Point]:
        """The cells, those of different seeds together."""
        return [Point(*group) for group in grouped(self.cells, self.part.axes)]

    @property
    def complete(self) -> bool:
        """True if no cell is lacking: none of the source, and none for want of a number."""
        return self.part.complete and not self.lost


# -- the cells of all tables ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Part:
    """The finished cells of one source under one protocol.

    Attributes:
        axes: swept keys but the seed.
        swept: the same with the seed, where it was swept.
        metrics: columns of numbers.
        cells: one row per finished cell, as in a table.
        planned: number of cells in the tables, without those that finished under another protocol.
        values: those of each axis, of all planned cells, in order.
        grid: size of the paper's grid; 0 = not stated.
        replaced: number of cells of earlier folders for which those of later ones count.
    """

    source: str
    axes: tuple[str, ...]
    swept: frozenset[str]
    metrics: frozenset[str]
    cells: pd.DataFrame
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
        found = self.cells
        for axis, rule in where.items():
            found = found[np.array([rule.holds(value) for value in found[axis].tolist()], dtype=bool)]
        kept = found
        for metric in metrics:
            kept = kept[~np.isnan(np.array(numbers(kept, metric), dtype=float))]
        if kept.empty:
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
    found = {each for of in tables.values() for table in of for each in table.cells[PROTOCOL] if each is not None}
    own = {each for each in found if each.data.lower() == paper_data.lower()} or {Protocol(paper_data)}
    evidence = {}
    for protocol in [*sorted(own), *sorted(found - own)]:
        parts = [_part(source, of, protocol, grids.get(source, 0)) for source, of in tables.items()]
        evidence[protocol] = Evidence({part.source: part for part in parts if part}, protocol in own)
    return evidence


def _part(source: str, tables: Sequence[Table], protocol: Protocol, grid: int) -> Part | None:
    used = [table for table in tables if len(table.finished(protocol))]
    if not used:
        return None
    for table in used:
        if set(table.axes) != set(used[0].axes):
            raise TableError(f"{source}: {used[0].folder} and {table.folder} swept different axes; give one of them")
    finished = pd.concat([_once(source, protocol, table) for table in used], ignore_index=True)
    open_cells = pd.concat([table.cells[table.cells["state"] != "done"] for table in used])
    planned = pd.concat([finished, open_cells]).drop_duplicates(KEY)
    names = finished["cell"].str.rpartition("-")[2]
    before = names.groupby(finished[KEY]).shift()
    cells = finished.drop_duplicates(KEY, keep="last").set_index(KEY).loc[finished[KEY].unique()].copy()
    axes = tuple(axis for axis in used[0].axes if axis != SEED)
    return Part(
        source=source,
        axes=axes,
        swept=frozenset(used[0].axes),
        metrics=frozenset(metric for table in used for metric in table.metrics),
        cells=cells,
        planned=len(planned),
        values={axis: _different(planned[axis].tolist()) for axis in axes},
        folders=tuple(table.folder for table in used),
        grid=grid,
        replaced=int((before.notna() & (before != names)).sum()),
    )


def _once(source: str, protocol: Protocol, table: Table) -> pd.DataFrame:
    """A table's finished cells; two of one point and seed are a contradiction."""
    cells = table.finished(protocol)
    twice = cells[cells.duplicated(KEY, keep=False)]
    if len(twice):
        first, second = twice.loc[twice[KEY] == twice[KEY].iloc[0], "cell"].iloc[:2]
        raise TableError(
            f"{source}: {first} and {second} ({table.folder}) are two trainings of one place on {protocol.data}"
        )
    return cells


def _different(values: Iterable[Value]) -> tuple[Value, ...]:
    """Each value once, in order."""
    return tuple(sorted({json.dumps(value): value for value in values}.values(), key=order))
