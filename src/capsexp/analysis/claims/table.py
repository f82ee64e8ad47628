"""Reads ``cells.csv``, the table of a report in which nothing is averaged: one row a planned cell."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from capsexp.errors import CommandError

NAME = "cells.csv"
FACTS = ("state", "kind", "cause", "retried")
"""Columns between what a cell is and its numbers; tables of older reports lack some."""
Value = str | int | float | bool | None


class TableError(CommandError):
    """A table cannot be used; the message says why, in one line."""


@dataclass(frozen=True)
class Row:
    """One planned cell.

    Attributes:
        name: of its directory; it ends with the cell's id.
        axes: swept values, the seed among them where it was swept.
        data: data set; empty for a hole.
        select_on: split on which its model was chosen; empty for a hole.
        metrics: finite values alone.
    """

    name: str
    axes: dict[str, Value]
    data: str
    select_on: str
    state: str
    metrics: dict[str, float]

    @property
    def id(self) -> str:
        """The cell's id."""
        return self.name.rpartition("-")[2]


@dataclass(frozen=True)
class Table:
    """A whole table; ``folder`` is where it lies, ``metrics`` the heads of its columns of numbers."""

    folder: Path
    axes: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]


def find(folder: Path) -> Path | None:
    """The table in a folder, or in the ``report`` of a sweep's folder; None where there is none."""
    places = (folder / NAME, folder / "report" / NAME)
    return next((path for path in places if path.is_file()), None)


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
    _check(path, header, data)
    start = header.index(data)
    first = max(place for place, head in enumerate(header) if head in FACTS) + 1
    axes, metrics = header[1:start], header[first:]
    rows = [_row(f"{path}, line {place}", header, line, axes, metrics) for place, line in enumerate(lines[1:], 2)]
    return Table(path.parent, tuple(axes), tuple(metrics), tuple(rows))


def _check(path: Path, header: Sequence[str], data: str) -> None:
    """Every column that a report writes must be there, once, and the cell's name first."""
    lacking = [head for head in ("cell", data, "select_on", "state") if head not in header]
    if lacking:
        raise TableError(f"{path} has no column {lacking[0]}: a report's {NAME} is needed")
    if header[0] != "cell" or len(set(header)) < len(header):
        raise TableError(f"{path} must begin with the column cell and have every column once")


def _row(where: str, header: Sequence[str], line: Sequence[str], axes: Sequence[str], metrics: Sequence[str]) -> Row:
    if len(line) != len(header):
        raise TableError(f"{where}: {len(line)} fields under {len(header)} heads")
    text = dict(zip(header, line, strict=True))
    data = text.get("data.name", text.get("data", ""))
    if text["state"] == "done" and not (data and text["select_on"]):
        raise TableError(f"{where}: a finished cell without its data set or select_on")
    numbers = {metric: _number(where, metric, text[metric]) for metric in metrics}
    return Row(
        name=text["cell"],
        axes={axis: value_of(text[axis]) for axis in axes},
        data=data,
        select_on=text["select_on"],
        state=text["state"],
        metrics={metric: number for metric, number in numbers.items() if math.isfinite(number)},
    )


def value_of(text: str) -> Value:
    """An axis' value from its text: numbers and YAML's words as what they are, anything else as text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    plain = value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    return value if plain else text


def _number(where: str, metric: str, text: str) -> float:
    """A metric's value, NaN where the cell has none."""
    try:
        return float(text) if text else math.nan
    except ValueError as error:
        raise TableError(f"{where}: {metric} must be a number, got {text!r}") from error
