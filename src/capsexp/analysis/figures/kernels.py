"""The kind ``kernels``: a layer's filters as pictures, from the cell in which a metric is largest or smallest."""

from typing import Any, ClassVar, Literal

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from pydantic import Field

from capsexp.analysis.arrays import ArrayError, about, choose, lacking, load, numbers
from capsexp.analysis.cells import Cell
from capsexp.analysis.figures.base import OfCell
from capsexp.analysis.figures.style import DIVERGING, GREY, RULE, Picture, blank, colour_bar, save
from capsexp.analysis.panels import Panel
from capsexp.analysis.validation import Extreme

Kernels = NDArray[np.float32]
FILTERS, CHANNELS = 32, 8
"""Filters and input channels drawn at most."""
TILE, PITCH = 1.25, 1.42
"""Inches from filter to filter, across and down."""


class KernelsOfLayer(OfCell):
    """The filters of one layer."""

    whole_sweep: ClassVar[bool] = True

    kind: Literal["kernels"] = "kernels"
    layer: str = Field(description="name of the layer, such as conv1")
    metric: str = Field(description="the metric that chooses the cell")
    pick: Extreme = Field(description="the cell whose metric is largest or smallest")


def draw(panel: Panel) -> tuple[Picture | None, str]:
    """The chosen cell's filters on one symmetric scale, or a line saying what is missing."""
    cell = choose(panel)
    if cell is None:
        return None, lacking(panel)
    try:
        return _picture(panel, cell, load_kernels(cell, panel.figure.layer)), ""
    except ArrayError as error:
        return None, f"{panel.figure.name}: {cell.name}: {error}"


def load_kernels(cell: Cell, layer: str) -> Kernels:
    """A layer's kernels as [filter, input channel, row, column].

    Raises:
        ArrayError: the cell kept none, or no such ones.
    """
    kernels = numbers(load(cell, f"kernels/{layer}"), f"kernels/{layer}", 4)
    return kernels.astype(np.float32)


def _picture(panel: Panel, cell: Cell, kernels: Kernels) -> Picture:
    shown = kernels[:FILTERS, :CHANNELS]
    rows, columns = _layout(shown)
    width = max(8.4, columns * TILE + 1.7)
    lines = [*panel.caption.lines(width), about(panel, cell)]
    top = 0.85 + 0.2 * len(lines)
    height = top + (rows - 1) * PITCH + TILE + 0.1
    canvas = blank(panel.caption, width, height, 0.3 / width, lines)
    limit = float(np.nan_to_num(np.abs(shown)).max()) or 1.0
    norm = Normalize(-limit, limit)
    left = 0.3 if shown.shape[1] == 1 else 0.45
    for place, tile in enumerate(_tiles(shown)):
        row, column = divmod(place, columns)
        box = (left + column * TILE, height - top - row * PITCH - TILE * 0.93, TILE * 0.93, TILE * 0.93)
        image = _tile(canvas, (box[0] / width, box[1] / height, box[2] / width, box[3] / height), tile, norm)
        if shown.shape[1] == 1 or row == 0:
            image.axes.set_title(f"filter {place % len(shown) + 1}", fontsize=8, color=GREY, pad=3)
        if shown.shape[1] > 1 and column == 0:
            image.axes.set_ylabel(f"channel {row + 1}", fontsize=8, color=GREY, labelpad=3)
    tall = min(2, rows) * PITCH - PITCH + TILE * 0.93
    bar = ((left + 0.15 + columns * TILE) / width, (height - top - tall) / height, 0.13 / width, tall / height)
    colour_bar(canvas, norm, DIVERGING, "weight", bar)
    return save(canvas, panel.caption, _left_out(kernels))


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
    image: AxesImage = axes.imshow(tile, cmap=DIVERGING, norm=norm, interpolation="nearest")
    return image


def _left_out(kernels: Kernels) -> str:
    filters, channels = kernels.shape[:2]
    if filters <= FILTERS and channels <= CHANNELS:
        return ""
    return (
        f"Shown: {min(filters, FILTERS)} of {filters} filters, {min(channels, CHANNELS)} of {channels} input channels."
    )
