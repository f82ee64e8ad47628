"""The points of a table of results: means over seeds, and over nothing else."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from capsexp.analysis.cells import SEED, Cell, Point, in_order, is_number, points_of
from capsexp.analysis.table import AXIS
from capsexp.errors import ConfigError, require

SWEEP, STATE = "sweep", "state"
PROTOCOL = {
    "data": "data.name",
    "sha256": "data.sha256",
    "test_split": "data.test_split",
    "generated": "data.generated",
    "select_on": "training.select_on",
}
"""The column of each part of a protocol."""


def average_seeds(table: pd.DataFrame, *metrics: str) -> pd.DataFrame:
    """The means over seeds of a table of :func:`capsexp.load_sweep`.

    There is one row per point: per sweep, protocol and combination of the axes' values but the seed's.  Numbers of
    different protocols, which are the data set, its file, test part and origin, and the split on which models were
    chosen, are never averaged together.  A cell that is not done counts with the finished cells of its place; where
    these have several protocols, it is in a row without one.  A point without a finished cell keeps its row.

    ================================== ================================================================================
    column                             content
    ================================== ================================================================================
    ``sweep``                          the sweep's name
    ``data.<key>``, ``training.<key>`` the protocol, in the columns of the table; missing where no cell is done
    ``axes.<key>``                     the value of each swept key but the seed
    ``planned``, ``done``              number of cells that were planned, and of those that are done
    ``<metric>``                       mean of the finite values, in the metric's unit; missing where there is none
    ``<metric>:std``                   sample standard deviation (ddof=1), in the same unit; missing for fewer than two
    ``<metric>:n``                     number of finite values
    ``<metric>:lost``                  number of cells that are done and have no finite value
    ================================== ================================================================================

    Rows are sorted by sweep and axes (numbers by size, then all else by its text); the order of the table's rows does
    not matter.

    Args:
        table: all or some rows of ``load_sweep``.
        *metrics: columns of numbers, such as ``test/acc`` or ``params``.

    Raises:
        ConfigError: a column is missing or has values that are no numbers, or two finished cells of a point have one
            seed, as when a sweep was loaded twice.
        TypeError: no metric is given.
    """
    if not metrics:
        raise TypeError("average_seeds() takes at least one metric")
    for name in (SWEEP, STATE, *metrics):
        require(name in table.columns, "a column of the table", "be there", name)
    places = [SWEEP, *(name for name in table.columns if name.startswith(AXIS) and name != AXIS + SEED)]
    points = points_of(in_order(_cells(table, places, metrics), places), places)
    rows = [_row(point, metrics) for point in points]
    ends = [f"{metric}{end}" for metric in metrics for end in ("", ":std", ":n", ":lost")]
    return pd.DataFrame(rows, columns=[SWEEP, *PROTOCOL.values(), *places[1:], "planned", "done", *ends])


def _cells(table: pd.DataFrame, places: Sequence[str], metrics: Sequence[str]) -> list[Cell]:
    """The rows as cells; the sweep is an axis more."""
    names = [
        name for name in dict.fromkeys([*places, AXIS + SEED, STATE, *PROTOCOL.values(), *metrics]) if name in table
    ]
    cells = []
    for values in zip(*(table[name].tolist() for name in names), strict=True):
        row = {name: value for name, value in zip(names, values, strict=True) if not _is_missing(value)}
        axes = {name: row.get(name) for name in places} | {SEED: row.get(AXIS + SEED)}
        for name in metrics:
            require(is_number(row.get(name, math.nan)), name, "be a column of numbers", row.get(name))
        data = {part: row[name] for part, name in PROTOCOL.items() if name in row}
        result = {
            "metrics": {name: row.get(name) for name in metrics},
            "data": {"name": data.pop("data", "unknown"), **data},
            "training": {"select_on": data.get("select_on", "unknown")},
        }
        cells.append(Cell("", "", axes, row[STATE], None, None, result))
    return cells


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _row(point: Point, metrics: Sequence[str]) -> dict[str, Any]:
    stats = {metric: point.stat(metric) for metric in metrics}
    for stat in stats.values():
        if stat.n + stat.lost < len(point.done):
            raise ConfigError("the finished cells of a point", "have a seed each", point.axes)
    row = {name: getattr(point.protocol, part, None) for part, name in PROTOCOL.items()} | point.axes
    row |= {"planned": len(point.cells), "done": len(point.done)}
    for metric, stat in stats.items():
        row |= {metric: stat.mean, f"{metric}:std": stat.std, f"{metric}:n": stat.n, f"{metric}:lost": stat.lost}
    return row
