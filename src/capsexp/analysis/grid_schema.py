"""The paper's tables in a ``report:`` block, checked; what they may say is in :mod:`capsexp.analysis.schema`."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from capsexp.analysis import checks
from capsexp.analysis.compare import axis_text
from capsexp.analysis.spec import Figure, Measure, PaperTable, usual
from capsexp.errors import ConfigError, require, require_int, require_number

NEEDED = {"name", "rows", "columns", "metric"}
KNOWN = NEEDED | {"title", "scale", "unit", "digits", "where", "at", "paper", "paper_columns", "paper_data", "note"}
TAKEN = ("results", "comparison", "cells", "timings")
"""Names of the files that every report has."""
NUMBER = re.compile(r"-?(0|[1-9]\d*)?(\.\d*)?(?<=[\d.])(e[-+]?\d+)?", re.IGNORECASE)
"""A text that YAML and people read as a number; 08 is a name."""


def grids(value: object, measures: Mapping[str, Measure], paper_data: str | None) -> list[PaperTable]:
    """The checked tables.

    Args:
        value: the list as it was given.
        measures: the checked ``metrics`` of the block.
        paper_data: the block's own.

    Raises:
        ConfigError: a key is unknown or missing, or has a wrong value.
    """
    found: list[PaperTable] = []
    for key, item in checks.items("report.grids", value):
        grid = _grid(key, item, measures, paper_data)
        taken = {*TAKEN, *(other.figure.name for other in found)}
        require(grid.figure.name not in taken, f"{key}.name", "be the name of no other table", grid.figure.name)
        found.append(grid)
    return found


def _grid(key: str, value: object, measures: Mapping[str, Measure], paper_data: str | None) -> PaperTable:
    raw = checks.mapping(key, value, KNOWN, NEEDED)
    measure = measures.get(checks.text(f"{key}.metric", raw["metric"])) or usual(raw["metric"])
    scale = require_number(f"{key}.scale", raw.get("scale", 1), 0, open_ends="<")
    columns, paper = _paper(key, raw)
    return PaperTable(
        figure=_figure(key, raw),
        scale=scale,
        unit=checks.text(f"{key}.unit", raw.get("unit", measure.unit if scale == 1 else "")),
        digits=require_int(f"{key}.digits", raw.get("digits", measure.digits), 0, 12),
        paper=paper,
        paper_columns=columns,
        paper_data=checks.optional_text(f"{key}.paper_data", raw.get("paper_data", paper_data)),
    )


def _figure(key: str, raw: Mapping[str, Any]) -> Figure:
    """Which of our numbers are shown, as a figure would ask for them."""
    rows, columns = (checks.text(f"{key}.{name}", raw[name]) for name in ("rows", "columns"))
    require(rows != columns, f"{key}.columns", "be another axis than rows", columns)
    name = checks.file_name(f"{key}.name", raw["name"])
    return Figure(
        kind="grid",
        name=name,
        title=checks.text(f"{key}.title", raw.get("title") or name),
        metric=raw["metric"],
        x=columns,
        y=rows,
        where=checks.conditions(key, raw),
        note=checks.text(f"{key}.note", raw.get("note") or ""),
    )


# -- the paper's numbers ----------------------------------------------------------------------------------------------


def canonical(text: str) -> str:
    """One text for equal numbers, however they were written (0.5, .50, 5e-1); words stay as they are."""
    number = NUMBER.fullmatch(text) and any(char.isdigit() for char in text)
    return axis_text(float(text)) if number else text


def _paper(key: str, raw: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, dict[str, float]]]:
    """The paper's columns, and its numbers by row and column."""
    given = [_head(item_key, item) for item_key, item in checks.items(f"{key}.paper_columns", raw.get("paper_columns"))]
    _refuse_twins(f"{key}.paper_columns", given)
    rows = checks.mapping(f"{key}.paper", raw.get("paper") or {})
    require(bool(rows) or not given, f"{key}.paper", "be given with paper_columns", raw.get("paper"))
    _refuse_twins(f"{key}.paper", rows)
    found = {canonical(row): _row(f"{key}.paper.{row}", value, given) for row, value in rows.items()}
    columns = tuple(dict.fromkeys([*map(canonical, given), *(column for row in found.values() for column in row)]))
    numbers = [number for row in found.values() for number in row.values() if number is not None]
    kind = int if all(isinstance(number, int) for number in numbers) else float  # 75 is 75.0 beside 77.4
    return columns, {row: {at: kind(x) for at, x in each.items() if x is not None} for row, each in found.items()}


def _head(key: str, value: object) -> str:
    require(not isinstance(value, Mapping | list), key, "be a number or a word", value)
    return axis_text(value)


def _refuse_twins(key: str, texts: Collection[str]) -> None:
    """Two names for one value of an axis."""
    seen: set[str] = set()
    for text in texts:
        require(canonical(text) not in seen, key, "name each value once", text)
        seen.add(canonical(text))


def _row(key: str, value: object, columns: Sequence[str]) -> dict[str, Any]:
    """A row's numbers by column; null where the paper has none."""
    if isinstance(value, list):
        fits = bool(columns) and len(value) == len(columns)
        rule = f"have a number or null for each of the {len(columns)} paper_columns"
        require(fits, key, rule if columns else "be given with paper_columns, or be a mapping", value)
        value = dict(zip(columns, value, strict=True))
    elif not isinstance(value, Mapping):
        raise ConfigError(key, "be a list of numbers, or a mapping from columns to numbers", value)
    named = {str(column): number for column, number in value.items()}
    _refuse_twins(key, named)
    for column, number in named.items():
        if number is not None:
            require_number(f"{key}.{column}", number)
    return {canonical(column): number for column, number in named.items()}
