"""The heat map of the swept axes as text, within a terminal's width."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from capsexp.analysis.cells import SEED, Cell, hashable
from capsexp.analysis.measures import STANDARD, usual
from capsexp.analysis.results import ordered
from capsexp.status.read import Snapshot
from capsexp.status.squares import Scale, Square, marks_legend, painted, scale, square
from capsexp.text import plain

MOST_ROWS = 40
LONGEST_HEAD = 8
"""Maximum length of a column's head in characters."""


@dataclass(frozen=True)
class Axis:
    """A swept key with its values; an axis without a key gives a map of a single row."""

    key: str = ""
    values: list[Any] = field(default_factory=lambda: [""])

    def of(self, cell: Cell) -> object:
        """A cell's value."""
        return hashable(cell.axes.get(self.key)) if self.key else ""


@dataclass(frozen=True)
class Map:
    """The content of a heat map, and the axes that are averaged over."""

    metric: str
    rows: Axis
    columns: Axis
    averaged: list[str]
    squares: dict[tuple[object, object], Square]

    def at(self, row: object, column: object) -> Square | None:
        """The square of two values."""
        return self.squares.get((hashable(row), hashable(column)))


def heat_map(snapshot: Snapshot, width: int, colour: bool = False) -> list[str]:
    """The map's lines, at most ``width`` characters each; empty if no axis has two values."""
    axes = _axes(snapshot)
    shown = [axis for axis in axes if axis.key != SEED][:2] or axes
    if not shown:
        return []
    averaged = [axis.key for axis in axes if axis not in shown]
    rows, columns = shown if len(shown) == 2 else (Axis(), shown[0])
    return _lines(_map(snapshot, rows, columns, averaged), width, colour)


def _axes(snapshot: Snapshot) -> list[Axis]:
    """The axes with more than one value, with their values in order."""
    every = snapshot.sweep.axes.items()
    axes = [Axis(key, ordered([cell.axes.get(key) for cell in snapshot.cells], values)) for key, values in every]
    return [axis for axis in axes if len(axis.values) > 1]


def _map(snapshot: Snapshot, rows: Axis, columns: Axis, averaged: list[str]) -> Map:
    metric = first_metric(snapshot.sweep.report)
    groups: dict[tuple[object, object], list[Cell]] = {}
    for cell in snapshot.cells:
        groups.setdefault((rows.of(cell), columns.of(cell)), []).append(cell)
    return Map(metric, rows, columns, averaged, {place: square(group, metric) for place, group in groups.items()})


def first_metric(block: object) -> str:
    """The first metric in a ``report:`` block; the first standard metric if the block names none."""
    named: list[object] = []
    for key in ("columns", "metrics"):
        found = block.get(key) if isinstance(block, Mapping) else None
        named += list(found) if isinstance(found, list | Mapping) else []
    return next((name for name in named if isinstance(name, str)), STANDARD[0])


# -- lines ------------------------------------------------------------------------------------------------------------


def _lines(drawn: Map, width: int, colour: bool) -> list[str]:
    room = _room(drawn.rows, drawn.columns, width)
    title = _wrapped([_title(drawn)], width)
    if room < 1:
        return [*title, *_wrapped(["This terminal is too narrow for the map."], width)]
    rows = drawn.rows.values[:MOST_ROWS]
    bands = max(MOST_ROWS // (len(rows) + 1), 1)  # columns that do not fit continue below, while there is room
    columns = drawn.columns.values[: room * bands]
    measure = scale(drawn.squares.values())
    grid: list[str] = []
    for start in range(0, len(columns), room):
        band = columns[start : start + room]
        grid += [_head(drawn, band, width), *(_row(drawn, row, band, measure, width, colour) for row in rows)]
    cut = [*_cut(drawn.rows, len(rows)), *_cut(drawn.columns, len(columns))]
    return [*title, *grid, *_wrapped([*_legend(drawn, measure), *cut], width)]


def _title(drawn: Map) -> str:
    label = usual(drawn.metric).label
    what = drawn.metric if label == drawn.metric else f"{label} ({drawn.metric})"
    down = f"{drawn.rows.key} down, " if drawn.rows.key else ""
    averaged = f"; averaged over {', '.join(drawn.averaged)}" if drawn.averaged else ""
    return f"{what}: {down}{drawn.columns.key} across{averaged}"


def _legend(drawn: Map, measure: Scale | None) -> list[str]:
    squares = list(drawn.squares.values())
    marks = marks_legend(squares)
    shared = any(each.mark and each.mean is not None for each in squares)
    note = "; after a number: some of its cells" if shared else ""
    return [line for line in (measure.legend() if measure else "", marks + note) if line]


def _cut(axis: Axis, shown: int) -> list[str]:
    count = len(axis.values)
    return [f"cut: the first {shown} of {count} values of {axis.key}"] if shown < count else []


def _head(drawn: Map, columns: Sequence[object], width: int) -> str:
    size = _column(drawn.columns)
    heads = [f"{_label(value, LONGEST_HEAD):>{size - 1}} " for value in columns]
    return (" " * (_margin(drawn.rows, width) + 1) + "".join(heads)).rstrip()


def _row(drawn: Map, row: object, columns: Sequence[object], measure: Scale | None, width: int, colour: bool) -> str:
    margin = _margin(drawn.rows, width)
    squares = [painted(drawn.at(row, column), measure, _column(drawn.columns), colour) for column in columns]
    return f"{_label(row, margin):>{margin}} {''.join(squares)}".rstrip()


# -- sizes ------------------------------------------------------------------------------------------------------------


def _label(value: object, longest: int) -> str:
    text = "null" if value is None else plain(str(value))
    return text if len(text) <= longest else text[: max(longest - 1, 0)] + "…"[:longest]


def _margin(rows: Axis, width: int) -> int:
    """Characters for the rows' labels, at most a third of the width."""
    return min(max(len(_label(value, width)) for value in rows.values), width // 3)


def _column(columns: Axis) -> int:
    """Width of a column in characters: its head or two digits, and a mark or a blank."""
    return max(2, *(len(_label(value, LONGEST_HEAD)) for value in columns.values)) + 1


def _room(rows: Axis, columns: Axis, width: int) -> int:
    """Number of columns that fit; a blank follows the rows' labels."""
    return (width - _margin(rows, width) - 1) // _column(columns)


def _wrapped(texts: Sequence[str], width: int) -> list[str]:
    return [line for text in texts for line in textwrap.wrap(plain(text), max(width, 1))]
