"""The table of results: one row for each planned cell of one or more sweeps, nothing averaged and nothing hidden."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from capsexp import records
from capsexp.analysis import results
from capsexp.analysis.cells import Cell
from capsexp.analysis.results import Results

ABOUT = ("sweep", "name", "id", "path", "state", "kind", "cause", "retried")
"""The first columns: the cell and what became of it."""

AXIS = "axes."
"""Prefix of the columns of swept keys, the seed among them."""

IN_OTHER_COLUMNS = {"id", "name", "axes", "metrics"}
"""Keys of a result that are not facts."""


def load_sweep(*directories: str | Path) -> pd.DataFrame:
    """The cells of sweeps as a table.

    There is one row per planned cell, in the order of the axes' values, whatever became of the cell; no number is
    averaged.  A folder without a plan, such as ``multirun/adhoc``, has one row per cell directory, and its axes are the
    keys in which the cells' configs differ.

    ===================================== =============================================================================
    column                                content
    ===================================== =============================================================================
    ``sweep``, ``name``, ``id``, ``path`` the sweep's name, the cell's directory name, its id, and the directory's path
                                          (missing if there is no directory yet)
    ``state``                             done, failed, interrupted, running, pending, missing, corrupt or stale
    ``kind``, ``cause``                   of a cell that is not done: the kind of its failure, and the cause in one line
    ``retried``                           number of earlier attempts
    ``axes.<key>``                        the value of each swept key: ``axes.model.c2``, ``axes.seed``
    ``<metric>``                          each metric by its own name: ``test/acc``; NaN where a value is not finite
    all others                            the facts of the result by their dotted keys: ``params``, ``training.epochs``,
                                          ``data.select_on``, ``environment.torch``, ``clocks.fit_s``
    ===================================== =============================================================================

    Only a cell that is done has numbers: those of a stale cell come from older code and are left out.

    Args:
        *directories: folders of sweeps, such as ``multirun/cnn_prune``.

    Raises:
        ReportError: a directory is no sweep's folder.
        TypeError: no directory is given.
    """
    if not directories:
        raise TypeError("load_sweep() takes at least one directory")
    return table_of([results.read(Path(directory)) for directory in directories])


def table_of(sweeps: Sequence[Results]) -> pd.DataFrame:
    """The table of sweeps that are read already; its columns are those of :func:`load_sweep`."""
    rows = [_row(each.sweep.name, cell) for each in sweeps for cell in each.cells]
    axes = dict.fromkeys(AXIS + axis for each in sweeps for axis in _axes(each))
    # Stale cells have no numbers, but the columns for them.
    bodies = (cell.result or {} for each in sweeps for cell in each.cells)
    metrics = dict.fromkeys(name for body in bodies for name in body.get("metrics", {}))
    facts = dict.fromkeys(key for row in rows for key in row)
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*ABOUT, *axes, *metrics, *facts])))


def _row(sweep: str, cell: Cell) -> dict[str, Any]:
    path = None if cell.directory is None else str(cell.directory)
    about = (sweep, cell.name, cell.id, path, cell.state, cell.kind, cell.cause, cell.retried)
    row = dict(zip(ABOUT, about, strict=True)) | {AXIS + axis: value for axis, value in cell.axes.items()}
    body = cell.result if cell.done and cell.result is not None else {}
    facts = {key: value for key, value in body.items() if key not in IN_OTHER_COLUMNS}
    return row | _metrics(cell) | dict(records.leaves(facts))


def _metrics(cell: Cell) -> dict[str, float | None]:
    found = cell.result.get("metrics", {}) if cell.done and cell.result is not None else {}
    return {name: math.nan if value is None else value for name, value in found.items()}


def _axes(read: Results) -> Iterator[str]:
    yield from dict.fromkeys([*read.sweep.axes, *(axis for cell in read.cells for axis in cell.axes)])
