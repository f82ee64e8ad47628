"""Arrays that a finished cell has kept: which cell, reading them, and checking that they are what a picture needs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capsexp import records
from capsexp.analysis.cells import Cell
from capsexp.analysis.figures.style import Grid
from capsexp.analysis.measures import number
from capsexp.analysis.panels import Panel

Array = NDArray[Any]


class ArrayError(Exception):
    """An array is missing, or is not what a picture needs; the message says so in one line."""


# -- which cell -------------------------------------------------------------------------------------------------------


def choose(panel: Panel) -> Cell | None:
    """The finished cell whose metric is largest or smallest, or just the first one (that of the first seed).

    The first of equals; None where no cell has finished or none has the metric.
    """
    done = [cell for point in panel.points for cell in point.done]
    if not panel.figure.metric:
        return next(iter(done), None)
    values = [(cell.value(panel.figure.metric), cell) for cell in done]
    found = [(value, cell) for value, cell in values if value is not None and math.isfinite(value)]
    if not found:
        return None
    best = (max if panel.figure.pick == "max" else min)(value for value, _ in found)
    return next(cell for value, cell in found if value == best)


def lacking(panel: Panel) -> str:
    """The line that says why no cell could be chosen."""
    metric = panel.figure.metric
    return f"{panel.figure.name}: {panel.results.lacks(metric) if metric else 'no cell has finished'}"


def about(panel: Panel, cell: Cell) -> str:
    """The chosen cell, why it was chosen, and how accurate it is."""
    return "   ·   ".join([cell.name, *facts(panel, cell)])


def facts(panel: Panel, cell: Cell) -> list[str]:
    """The reason for which a cell was chosen, and its accuracy."""
    measure, accuracy = panel.measure, cell.value("test/acc")
    words = []
    if measure.key:
        which = "largest" if panel.figure.pick == "max" else "smallest"
        words.append(f"{measure.label} {number(cell.value(measure.key), measure.digits)} ({which})")
    if accuracy is not None and measure.key != "test/acc":
        words.append(f"test accuracy {number(accuracy, panel.spec.measure('test/acc').digits)}")
    return words


# -- reading ----------------------------------------------------------------------------------------------------------


def load(cell: Cell, name: str) -> Array:
    """An array of a cell.

    Raises:
        ArrayError: the cell has no such array.
    """
    if cell.directory is None:
        raise ArrayError("it has no folder")
    return read(cell.directory, name)


def read(directory: Path, name: str) -> Array:
    """An array from the ``arrays.npz`` in a cell's directory.

    Raises:
        ArrayError: there is no such file, it is damaged, or it holds no such array.
    """
    file = directory / records.ARRAYS
    _require_whole(directory)
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return np.asarray(arrays[name]) if name in arrays else _refuse(f"no {name} in {records.ARRAYS}")
    except ArrayError:
        raise
    except Exception as error:  # what numpy and zipfile make of damaged bytes has no common class
        raise ArrayError(f"{name} in {records.ARRAYS} cannot be read") from error


def _require_whole(directory: Path) -> None:
    if not (directory / records.ARRAYS).is_file():
        raise ArrayError(f"no {records.ARRAYS}")
    if records.is_damaged(directory, records.ARRAYS):
        raise ArrayError(f"{records.ARRAYS} is damaged: its checksum does not match")


def read_all(directory: Path, prefix: str = "") -> dict[str, Array]:
    """All arrays in a cell's directory whose names begin with ``prefix``, by name.

    Raises:
        ArrayError: there is no ``arrays.npz``, or it is damaged.
    """
    _require_whole(directory)
    try:
        with np.load(directory / records.ARRAYS, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name]) for name in arrays.files if name.startswith(prefix)}
    except Exception as error:  # what numpy and zipfile make of damaged bytes has no common class
        raise ArrayError(f"{records.ARRAYS} cannot be read") from error


def _refuse(message: str) -> Array:
    raise ArrayError(message)


# -- checks -----------------------------------------------------------------------------------------------------------


def numbers(values: Array, name: str, dimensions: int) -> Grid:
    """The values as floats; those that are not finite become NaN.

    Raises:
        ArrayError: they are no numbers, have another number of dimensions, or none of them is finite.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise ArrayError(f"{name} holds no numbers")
    if values.ndim != dimensions:
        raise ArrayError(f"{name} must have {dimensions} dimensions, has {values.ndim}")
    floats: Grid = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    if not np.isfinite(floats).any():
        raise ArrayError(f"{name} has no finite value")
    return floats


def classes(labels: Array, name: str, count: int, kinds: int | None = None) -> list[int]:
    """The class of each of ``count`` images; ``kinds`` is the number of classes, where it is known.

    Raises:
        ArrayError: they are not that many whole numbers, or no such classes.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise ArrayError(f"{name} must be {count} whole numbers, is {labels.dtype} of shape {labels.shape}")
    if kinds is not None and not ((labels >= 0) & (labels < kinds)).all():
        raise ArrayError(f"{name} must lie between 0 and {kinds - 1}")
    return [int(label) for label in labels]


def pixels(images: Array, name: str, dimensions: int) -> Array:
    """Images as they came, the last three dimensions being channels (1 or 3), rows and columns.

    Raises:
        ArrayError: they are no bytes, have another number of dimensions or of channels, or there are none.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != dimensions or not images.size or images.shape[-3] not in (1, 3):
        shape = f"{images.dtype} of shape {images.shape}"
        raise ArrayError(f"{name} must be uint8 images of 1 or 3 channels in {dimensions} dimensions, is {shape}")
    return images
