"""Images as they are: a grid of reconstructions, row by row with one component of a pose changed step by step."""

import textwrap
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle
from pydantic import AfterValidator, Field, model_validator

from capsexp.analysis.arrays import Array, ArrayError, classes, numbers, pixels
from capsexp.analysis.figures.base import Labelled, OfCell
from capsexp.analysis.figures.style import GREY, INK, RULE, Caption, Picture, blank, room, save, style
from capsexp.analysis.panels import Panel
from capsexp.analysis.single_run import Read, draw_chosen
from capsexp.errors import require

BESIDE, LINES = 18, 3
"""Characters in a line of the text beside a row, and lines of it at most."""
ROWS, COLUMNS = 32, 21
"""Images shown at most, down and across."""
TILE, GAP = 0.52, 0.1
"""Inches of an image, and the space between two as a share of it."""
GREYS: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255, "interpolation": "nearest"}
HEAD: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "annotation_clip": False}


def _not_empty(rows: list[str]) -> list[str]:
    require(bool(rows), "", "be a text for each row", rows)
    return rows


class Images(OfCell, Labelled):
    """A grid of images."""

    kind: Literal["images"] = "images"
    array: str = Field(description="array of images, uint8 [row, column, channel, y, x]")
    steps: str = Field(
        default="", description="array of numbers above the columns, that of 0 marked; default: 1, 2, 3, ..."
    )
    labels: str = Field(default="", description="array with the class of each column, above it; in place of steps")
    rows: Annotated[list[str], AfterValidator(_not_empty)] = Field(
        default=[], description="words beside the rows; default: 1, 2, 3, ..."
    )

    @model_validator(mode="after")
    def _labels_or_steps(self) -> "Images":
        rule = "be left out where steps stand above the columns"
        require(not (self.labels and self.steps), "labels", rule, self.labels)
        return self


def draw(panel: Panel) -> tuple[Picture | None, str]:
    """The chosen cell's picture, or a line saying what is missing."""
    return draw_chosen(panel, picture)


def picture(figure: Images, read: Read, caption: Caption) -> Picture:
    """The picture of the arrays that ``read`` gives by their names."""
    steps, labels = (read(name) if name else None for name in (figure.steps, figure.labels))
    across, beside = "class" if figure.labels else "change", "" if figure.rows else "component"
    texts = {"x_label": figure.x_label or across, "y_label": figure.y_label or beside}
    return draw_images(read(figure.array), caption, steps=steps, labels=labels, rows=figure.rows, **texts)


@style()
def draw_images(
    images: Array,
    caption: Caption,
    *,
    steps: Array | None = None,
    labels: Array | None = None,
    rows: Sequence[str] = (),
    x_label: str = "",
    y_label: str = "",
) -> Picture:
    """A grid of ``images`` [row, column, channel, y, x] (uint8; one channel is gray, three are red, green and blue).

    Args:
        images: a row for each component of a pose, a column for each step by which it is changed; or a column for
            each image of a data set, in as many forms as there are rows.
        caption: the text around them.
        steps: the numbers above the columns; the column of the step 0 is marked.  Default: 1, 2, 3, ...
        labels: the classes above the columns, where there are no steps.
        rows: the texts beside the rows.  Default: 1, 2, 3, ...
        x_label: above the columns.
        y_label: beside the rows.

    Raises:
        ArrayError: they are no such images, or there is not one step or class a column, or one text a row.
    """
    whole = pixels(images, "the grid", 5)
    heads = _heads(steps, labels, whole.shape[1])[:COLUMNS]
    names = _names(rows, len(whole))[:ROWS]
    shown = whole[:ROWS, :COLUMNS]
    sheet, corners = mosaic(shown)
    scale = TILE / max(shown.shape[-2:])
    tall, wide = (scale * length for length in sheet.shape[:2])
    left = _left(names, y_label) if rows else 0.8
    width = max(6.4, left + wide + 0.3)
    lines = caption.lines(width)
    top = 1.2 + room(lines)
    height = top + tall + 0.15
    canvas = blank(caption, width, height, 0.3 / width, lines)
    axes = canvas.add_axes((left / width, 0.15 / height, wide / width, tall / height))
    axes.imshow(sheet, **GREYS, aspect="auto")
    axes.set_axis_off()
    same = [steps is not None and head == "0" for head in heads]
    _frame(axes, corners, shown.shape, same)
    for column, head in enumerate(heads):
        at = (corners[0, column, 1] + (shown.shape[-1] - 1) / 2, -0.5)
        axes.annotate(head, at, (0, 3), ha="center", va="bottom", color=INK if same[column] else GREY, **HEAD)
    for row, name in enumerate(names):
        at = (-0.5, corners[row, 0, 0] + (shown.shape[-2] - 1) / 2)
        axes.annotate(name, at, (-4, 0), ha="right", va="center", color=GREY, **HEAD)
    canvas.text((left + wide / 2) / width, (height - top + 0.21) / height, x_label, ha="center", va="bottom")
    canvas.text(0.4 / width, (height - top - tall / 2) / height, y_label, ha="center", va="center", rotation=90)
    return save(canvas, caption, _left_out(whole))


def mosaic(images: Array) -> tuple[Array, Array]:
    """All images [row, column, channel, y, x] on a white sheet, and where (y, x) the upper left pixel of each is."""
    rows, columns, _, tall, wide = images.shape
    gap = max(1, round(GAP * max(tall, wide)))
    down, across = tall + gap, wide + gap
    corners = np.stack(np.meshgrid(np.arange(rows) * down, np.arange(columns) * across, indexing="ij"), axis=-1)
    planes = [[plane(image) for image in row] for row in images]
    sheet = np.full((rows * down - gap, columns * across - gap, *planes[0][0].shape[2:]), 255, dtype=np.uint8)
    for row in range(rows):
        for column in range(columns):
            y, x = corners[row, column]
            sheet[y : y + tall, x : x + wide] = planes[row][column]
    return sheet, corners


def _frame(axes: Axes, corners: Array, shape: tuple[int, ...], same: Sequence[bool]) -> None:
    """A line around each image, a strong one where nothing was changed."""
    tall, wide = shape[-2:]
    for strong in (False, True):
        places = [
            (x - 0.5, y - 0.5) for row in corners for (y, x), each in zip(row, same, strict=True) if each is strong
        ]
        boxes = [Rectangle(place, wide, tall) for place in places]
        colour, line = (INK, 1.4) if strong else (RULE, 0.5)
        axes.add_collection(PatchCollection(boxes, facecolor="none", edgecolor=colour, linewidth=line, clip_on=False))


def show(axes: Axes, image: Array) -> None:
    """An image [channel, y, x] in a frame."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=RULE)
    axes.imshow(plane(image), **GREYS)


def plane(image: Array) -> Array:
    """An image [channel, y, x] as matplotlib takes it: [y, x], or [y, x, channel] in colour."""
    return image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)


def step_texts(steps: Array) -> list[str]:
    """Steps with their signs, all with the decimals that the finest one needs: -.20, 0, +.05."""
    digits = max(len(f"{round(float(step), 4):g}".partition(".")[2]) for step in steps)
    texts = [f"{step:+.{digits}f}" for step in steps]
    zero = f"{0:.{digits}f}"
    return ["0" if text[1:] == zero else _typeset(text) for text in texts]


def _typeset(text: str) -> str:
    short = text[0] + text[2:] if text[1:3] == "0." else text
    return short.replace("-", "\N{MINUS SIGN}")


def _heads(steps: Array | None, labels: Array | None, columns: int) -> list[str]:
    if labels is not None:
        return [str(label) for label in classes(labels, "labels", columns)]
    if steps is None:
        return [str(column + 1) for column in range(columns)]
    found = numbers(steps, "steps", 1)
    if len(found) != columns:
        raise ArrayError(f"steps must be {columns} numbers, one a column, are {len(found)}")
    return step_texts(found)


def _names(texts: Sequence[str], rows: int) -> list[str]:
    """What stands beside each row."""
    if not texts:
        return [str(row + 1) for row in range(rows)]
    if len(texts) != rows:
        raise ArrayError(f"rows must be {rows} texts, one a row, are {len(texts)}")
    return ["\n".join(textwrap.wrap(text, BESIDE, max_lines=LINES, placeholder=" …")) for text in texts]


def _left(names: Sequence[str], y_label: str) -> float:
    """Inches left of the images: of the texts beside the rows, and of what stands beside those."""
    longest = max(len(line) for name in names for line in name.split("\n"))
    return 0.35 + 0.066 * longest + (0.25 if y_label else 0.0)


def _left_out(images: Array) -> str:
    rows, columns = images.shape[:2]
    if rows <= ROWS and columns <= COLUMNS:
        return ""
    return f"Shown: {min(rows, ROWS)} of {rows} rows, {min(columns, COLUMNS)} of {columns} columns."
