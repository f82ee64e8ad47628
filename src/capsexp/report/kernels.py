"""A layer's filters as pictures, from the cell in which a metric is largest or smallest."""

import math
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from capsexp import records
from capsexp.report.canvas import GREY, RULE, Drawn, blank, head, save
from capsexp.report.cells import Cell
from capsexp.report.panels import Panel
from capsexp.report.tables import number

Kernels = NDArray[np.float32]
FILTERS, CHANNELS = 32, 8
"""Filters and input channels drawn at most."""
MAP = "RdBu_r"
TILE, PITCH = 1.25, 1.42
"""Inches from filter to filter, across and down."""


def draw(panel: Panel) -> tuple[Drawn | None, str]:
    """The chosen cell's filters on one symmetric scale, or a line saying what is missing."""
    cell = choose(panel)
    if cell is None:
        return None, f"{panel.figure.name}: no cell has {panel.figure.metric} yet"
    kernels = load(cell, panel.figure.layer)
    if kernels is None:
        return None, f"{panel.figure.name}: {cell.name} has no kernels/{panel.figure.layer} in {records.ARRAYS}"
    return _picture(panel, cell, kernels), ""


def choose(panel: Panel) -> Cell | None:
    """The finished cell with the largest or smallest value; the first of equals."""
    values = [(cell.value(panel.figure.metric), cell) for point in panel.points for cell in point.done]
    found = [(value, cell) for value, cell in values if value is not None and math.isfinite(value)]
    if not found:
        return None
    best = (max if panel.figure.pick == "max" else min)(value for value, _ in found)
    return next(cell for value, cell in found if value == best)


def load(cell: Cell, layer: str) -> Kernels | None:
    """A layer's kernels as [filter, input channel, row, column], or None where the cell kept none."""
    if cell.directory is None:
        return None
    try:
        with np.load(cell.directory / records.ARRAYS, allow_pickle=False) as arrays:
            kernels: Kernels = np.asarray(arrays[f"kernels/{layer}"], dtype=np.float32)
    except (OSError, KeyError, ValueError):
        return None
    return kernels if kernels.ndim == 4 and kernels.size else None


def _picture(panel: Panel, cell: Cell, kernels: Kernels) -> Drawn:
    shown = kernels[:FILTERS, :CHANNELS]
    rows, columns = _layout(shown)
    width = max(8.4, columns * TILE + 1.7)
    lines = [*head(panel, width), _words(panel, cell)]
    top = 0.85 + 0.2 * len(lines)
    height = top + (rows - 1) * PITCH + TILE + 0.1
    canvas = blank(panel, width, height, 0.3 / width, lines)
    limit = float(np.abs(shown).max()) or 1.0
    norm = Normalize(-limit, limit)
    image, left = None, 0.3 if shown.shape[1] == 1 else 0.45
    for place, tile in enumerate(_tiles(shown)):
        row, column = divmod(place, columns)
        box = (left + column * TILE, height - top - row * PITCH - TILE * 0.93, TILE * 0.93, TILE * 0.93)
        image = _tile(canvas, (box[0] / width, box[1] / height, box[2] / width, box[3] / height), tile, norm)
        if shown.shape[1] == 1 or row == 0:
            image.axes.set_title(f"filter {place % len(shown) + 1}", fontsize=8, color=GREY, pad=3)
        if shown.shape[1] > 1 and column == 0:
            image.axes.set_ylabel(f"channel {row + 1}", fontsize=8, color=GREY, labelpad=3)
    tall = min(2, rows) * PITCH - PITCH + TILE * 0.93
    _bar(
        canvas,
        image,
        ((left + 0.15 + columns * TILE) / width, (height - top - tall) / height, 0.13 / width, tall / height),
    )
    return save(canvas, panel, _left_out(kernels))


def _layout(shown: Kernels) -> tuple[int, int]:
    """Rows and columns of tiles: one row an input channel, or, with a single channel, filters wrapped in rows."""
    filters, channels = shown.shape[:2]
    if channels > 1:
        return channels, filters
    columns = min(filters, 8)
    return -(-filters // columns), columns


def _tiles(shown: Kernels) -> list[Kernels]:
    return [shown[filter_, channel] for channel in range(shown.shape[1]) for filter_ in range(len(shown))]


def _tile(canvas: Any, box: tuple[float, float, float, float], tile: Kernels, norm: Normalize) -> AxesImage:
    axes = canvas.add_axes(box)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=RULE)
    image: AxesImage = axes.imshow(tile, cmap=MAP, norm=norm, interpolation="nearest")
    return image


def _bar(canvas: Any, image: AxesImage | None, box: tuple[float, float, float, float]) -> None:
    bar = canvas.colorbar(image, cax=canvas.add_axes(box))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, labelsize=8.5)
    bar.set_label("weight")


def _words(panel: Panel, cell: Cell) -> str:
    measure, accuracy = panel.measure, cell.value("test/acc")
    which = "largest" if panel.figure.pick == "max" else "smallest"
    words = [cell.name, f"{measure.label} {number(cell.value(measure.key), measure.digits)} ({which})"]
    if accuracy is not None and measure.key != "test/acc":
        words.append(f"test accuracy {number(accuracy, panel.spec.measure('test/acc').digits)}")
    return "   ·   ".join(words)


def _left_out(kernels: Kernels) -> str:
    filters, channels = kernels.shape[:2]
    if filters <= FILTERS and channels <= CHANNELS:
        return ""
    return (
        f"Shown: {min(filters, FILTERS)} of {filters} filters, {min(channels, CHANNELS)} of {channels} input channels."
    )
