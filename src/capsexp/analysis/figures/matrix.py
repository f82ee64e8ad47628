"""A matrix as a heat map: correlations between images, between classes, or of the master matrix with classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from pydantic import BeforeValidator, Field, model_validator

from capsexp.analysis.arrays import Array, ArrayError, classes, numbers
from capsexp.analysis.figures import class_ticks, ticks
from capsexp.analysis.figures.base import Labelled, OfCell
from capsexp.analysis.figures.style import (
    DIVERGING,
    GREY,
    PAPER,
    RULE,
    SEQUENTIAL,
    Caption,
    Grid,
    Picture,
    blank,
    colour_bar,
    compact,
    font,
    room,
    save,
    style,
    write_fields,
)
from capsexp.analysis.panels import Panel
from capsexp.analysis.single_run import Read, draw_chosen
from capsexp.analysis.validation import span
from capsexp.errors import require

READABLE = 7.0
"""Points; numbers that would have to be smaller are left out."""
FINE = 40
"""Rows or columns from which on fields have no edges."""
FIELD, LEAST, MOST_TALL, MOST_WIDE = 0.52, 2.6, 6.8, 9.0
"""Inches of a field, and of the shortest and longest side of a map."""

Ends = tuple[float, float]


class Matrix(OfCell, Labelled):
    """A heat map of a two-dimensional array."""

    kind: Literal["matrix"] = "matrix"
    array: str = Field(description="name of the array in arrays.npz")
    labels: str = Field(default="", description="array with the class of each row, of a matrix over images")
    sort: bool = Field(default=False, description="images in order of their class")
    triangle: bool = Field(default=False, description="the lower half alone, with the diagonal")
    range: Annotated[tuple[float, float] | None, BeforeValidator(span)] = Field(
        default=None, description="values at the ends of the colours; default: the smallest and the largest"
    )
    value_label: str = Field(default="", description="beside the colours; default: the array's name up to the first /")

    @model_validator(mode="after")
    def _sort_by_labels(self) -> "Matrix":
        require(not self.sort or bool(self.labels), "labels", "be given with sort", self.labels or None)
        return self


def draw(panel: Panel) -> tuple[Picture | None, str]:
    """The chosen cell's picture, or a line saying what is missing."""
    return draw_chosen(panel, picture)


def picture(figure: Matrix, read: Read, caption: Caption) -> Picture:
    """The picture of the arrays that ``read`` gives by their names."""
    return draw_matrix(
        read(figure.array),
        caption,
        labels=read(figure.labels) if figure.labels else None,
        triangle=figure.triangle,
        sort=figure.sort,
        limits=figure.range,
        x_label=figure.x_label,
        y_label=figure.y_label,
        value_label=figure.value_label or figure.array.partition("/")[0],
    )


@dataclass(frozen=True)
class Map:
    """A matrix as it is drawn.

    Attributes:
        values: [row, column]; NaN stays white above the diagonal of a triangle and is marked elsewhere.
        triangle: whether the lower half alone is shown.
        mirrored: whether the other half is equal to that.
        classes: of each row and column, if they are images.
        runs: whether the images are in order of their class.
    """

    values: Grid
    triangle: bool = False
    mirrored: bool = False
    classes: Sequence[int] = ()
    runs: bool = False

    @property
    def fine(self) -> bool:
        """True if fields are too small for edges, numbers and hatching."""
        return bool(max(self.values.shape) >= FINE)

    @property
    def missing(self) -> Grid:
        """True in each field whose value is missing."""
        missing = np.isnan(self.values).astype(np.float64)
        return np.tril(missing) if self.triangle else missing


@style()
def draw_matrix(
    values: Array,
    caption: Caption,
    *,
    labels: Array | None = None,
    triangle: bool = False,
    sort: bool = False,
    limits: Ends | None = None,
    x_label: str = "",
    y_label: str = "",
    value_label: str = "",
) -> Picture:
    """A heat map of ``values`` [row, column], the first row at the top.

    Args:
        values: the matrix.
        caption: the text around it.
        labels: the class of each row, of a matrix whose rows and columns are the same images.
        triangle: whether to show the lower half alone, with the diagonal.
        sort: whether to order the images by class, with lines between the classes.
        limits: the values at the ends of the colours; default: the smallest and the largest.
        x_label: below the columns.
        y_label: beside the rows.
        value_label: beside the colours.

    Raises:
        ArrayError: it is no matrix of numbers, or the labels are not those of its rows.
    """
    shown = arrange(values, labels, triangle=triangle, sort=sort)
    rows, columns = shown.values.shape
    tall = min(MOST_TALL, max(LEAST, FIELD * rows))
    wide = tall if rows == columns else min(MOST_WIDE, max(LEAST, FIELD * columns))
    across, upright = (_marks(shown, inches, across) for inches, across in ((wide, True), (tall, False)))
    below, left = 0.3 + (across.inches if across else 0.22), 0.5 + (upright.inches if upright else 0.26)
    width = max(6.4, left + wide + 1.15)
    lines = caption.lines(width)
    height = below + tall + 0.82 + room(lines)
    canvas = blank(caption, width, height, 0.3 / width, lines)
    flat = canvas.add_axes((left / width, below / height, wide / width, tall / height))
    norm, colours, ends = scale(shown.values, limits)
    _draw_fields(flat, shown, norm, colours, (wide, tall))
    if across and upright:
        class_ticks.write(flat, rows, across, upright)
        flat.set(xticks=[], yticks=[])
    else:
        _write_ticks(flat, (columns, rows), (wide, tall))
    if shown.runs:
        class_ticks.rule(flat, shown.classes, triangle=triangle)
    flat.set_xlabel(x_label, labelpad=across.inches * 72 + 2 if across else 4)
    flat.set_ylabel(y_label, labelpad=upright.inches * 72 + 2 if upright else 4)
    right = (left + wide + 0.2) / width
    bar = colour_bar(canvas, norm, colours, value_label, (right, below / height, 0.18 / width, tall / height))
    bar.set_ylim(*ends)
    return save(canvas, caption, _note(shown, ends))


# -- what is drawn ----------------------------------------------------------------------------------------------------


def arrange(values: Array, labels: Array | None = None, *, triangle: bool = False, sort: bool = False) -> Map:
    """The fields of :func:`draw_matrix`, in the order in which it draws them; images of one class keep their order.

    Raises:
        ArrayError: as there.
    """
    grid = numbers(values, "the matrix", 2)
    rows, columns = grid.shape
    if (triangle or labels is not None) and rows != columns:
        raise ArrayError(f"the matrix must be square, is {rows} x {columns}")
    found = [] if labels is None else classes(labels, "labels", rows)
    mirrored = rows == columns and np.allclose(grid, grid.T, atol=1e-4, equal_nan=True)
    if sort and found:
        order = np.argsort(np.asarray(found), kind="stable")
        grid, found = grid[np.ix_(order, order)], [found[place] for place in order]
    if triangle:
        grid = np.where(np.tril(np.ones(grid.shape, dtype=bool)), grid, np.nan)
    return Map(numbers(grid, "the matrix", 2), triangle, mirrored, found, sort and bool(found))


def scale(values: Grid, limits: Ends | None) -> tuple[Normalize, str, Ends]:
    """The colours' scale, the colours, and the values at the ends that are shown.

    Values on both sides of zero get colours that change at zero, and equal distances from it equal strength.
    """
    low, high = limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    if low == high:
        low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
    if low < 0 < high:
        most = max(-low, high)
        return Normalize(-most, most), DIVERGING, (low, high)
    return Normalize(low, high), SEQUENTIAL, (low, high)


# -- drawing it -------------------------------------------------------------------------------------------------------


def _marks(shown: Map, inches: float, across: bool) -> class_ticks.Marks | None:
    return class_ticks.marks(shown.classes, inches, runs=shown.runs, across=across) if shown.classes else None


def _draw_fields(flat: Axes, shown: Map, norm: Normalize, colours: str, inches: Ends) -> None:
    rows, columns = shown.values.shape
    image = flat.imshow(shown.values, norm=norm, cmap=colours, interpolation="nearest", aspect="auto")
    if not shown.fine:
        flat.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        flat.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        flat.grid(which="minor", color="white", linewidth=0.6)
    texts = compact(shown.values)
    size = font(inches, texts)
    if size >= READABLE:
        write_fields(flat, texts, image.cmap(norm(shown.values)), size)
    look: Any = {"color": GREY} if shown.fine else {"facecolor": PAPER, "edgecolor": RULE, "hatch": "////"}
    for row, column in np.argwhere(shown.missing):
        flat.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, linewidth=0, **look))
    flat.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    flat.tick_params(which="both", length=0)
    flat.spines[:].set_visible(False)


def _write_ticks(flat: Axes, shape: tuple[int, int], inches: Ends) -> None:
    x, y = ticks.across(range(shape[0]), inches[0]), ticks.upright(range(shape[1]), inches[1])
    flat.set_xticks(range(0, shape[0], x.step), x.texts)
    flat.set_yticks(range(0, shape[1], y.step), y.texts)


def _note(shown: Map, ends: Ends) -> str:
    low, high = ends
    other = "is the same, mirrored" if shown.mirrored else "differs and is left out"
    parts = [f"The upper half {other}."] if shown.triangle else []
    parts += [f"{'Grey' if shown.fine else 'Hatched'}: no finite value."] if shown.missing.any() else []
    beyond = float(np.nanmin(shown.values)) < low or float(np.nanmax(shown.values)) > high
    parts += [f"Values below {low:g} or above {high:g} have the colour of that."] if beyond else []
    return " ".join(parts)
