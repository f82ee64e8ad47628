"""Lengths of the class capsules for single images, one way of routing beside another."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from pydantic import AfterValidator, Field

from capsexp.analysis.arrays import Array, ArrayError, classes, numbers, pixels
from capsexp.analysis.figures import ticks
from capsexp.analysis.figures.base import Labelled, OfCell, few_arrays
from capsexp.analysis.figures.images import show
from capsexp.analysis.figures.style import GREY, PALETTE, RULE, Caption, Grid, Picture, blank, room, save, style
from capsexp.analysis.panels import Panel
from capsexp.analysis.single_run import Read, draw_chosen
from capsexp.analysis.validation import Named

ROWS = 10
"""Images shown at most."""
WIDTH, LEFT, WIDE, TALL, PITCH = 9.6, 2.05, 7.25, 0.92, 1.32
"""Inches: of the figure, of what is left of the bars, of the bars, and from row to row."""
SHADE = "#e4e9ee"


class Bars(OfCell, Labelled):
    """For each image a bar per class, one array beside the other."""

    kind: Literal["bars"] = "bars"
    arrays: Annotated[dict[str, str], Named, AfterValidator(few_arrays)] = Field(
        description="1 to 4 arrays of lengths [image, class], by the names shown"
    )
    labels: str = Field(description="array with the true class of each image")
    images: str = Field(description="array of images, uint8 [image, channel, y, x]")


def draw(panel: Panel) -> tuple[Picture | None, str]:
    """The chosen cell's picture, or a line saying what is missing."""
    return draw_chosen(panel, picture)


def picture(figure: Bars, read: Read, caption: Caption) -> Picture:
    """The picture of the arrays that ``read`` gives by their names."""
    lengths = {name: read(array) for name, array in figure.arrays.items()}
    texts = {"x_label": figure.x_label or "class", "y_label": figure.y_label or "length of the class capsule"}
    return draw_bars(lengths, read(figure.images), read(figure.labels), caption, **texts)


@style()
def draw_bars(
    lengths: Mapping[str, Array],
    images: Array,
    labels: Array,
    caption: Caption,
    *,
    x_label: str = "",
    y_label: str = "",
) -> Picture:
    """A row for each image: the image, and for each class a bar for each way of routing.

    Args:
        lengths: by the name of the way: a length for each image and class.
        images: [image, channel, y, x], uint8.
        labels: the true class of each image, which is marked.
        caption: the text around them.
        x_label: below the classes.
        y_label: what a bar shows.

    Raises:
        ArrayError: the arrays are not such, or do not belong together.
    """
    shown = same_shape({name: numbers(values, name, 2) for name, values in lengths.items()})
    count, kinds = next(iter(shown.values())).shape
    truths = classes(labels, "labels", count, kinds)
    if len(pixels(images, "images", 4)) != count:
        raise ArrayError(f"images must be {count}, one a row of lengths, are {len(images)}")
    rows = min(count, ROWS)
    lines = caption.lines(WIDTH)
    top = 1.35 + room(lines)
    height = top + (rows - 1) * PITCH + TALL + 0.62
    canvas = blank(caption, WIDTH, height, 0.3 / WIDTH, lines)
    highest = max(1.0, *(float(np.nanmax(values)) for values in shown.values()))
    for row in range(rows):
        bottom = height - top - row * PITCH - TALL
        tile = canvas.add_axes((0.3 / WIDTH, bottom / height, TALL / WIDTH, TALL / height))
        show(tile, images[row])
        bars = canvas.add_axes((LEFT / WIDTH, bottom / height, WIDE / WIDTH, TALL / height))
        _row(bars, {name: values[row] for name, values in shown.items()}, truths[row], highest)
        if row == rows - 1:
            bars.set_xlabel(x_label)
    middle = height - top - ((rows - 1) * PITCH + TALL) / 2
    canvas.text(1.52 / WIDTH, middle / height, y_label, rotation=90, ha="center", va="center")
    _legend(canvas, list(shown), (height - top + 0.36) / height)
    return save(canvas, caption, _note(shown, rows, count))


def same_shape(arrays: Mapping[str, Grid]) -> dict[str, Grid]:
    """The arrays themselves.

    Raises:
        ArrayError: they differ in their shape, or there is none.
    """
    shapes = {name: " x ".join(map(str, values.shape)) for name, values in arrays.items()}
    if len(set(shapes.values())) != 1:
        raise ArrayError("arrays of one shape are needed: " + ", ".join(f"{n} is {s}" for n, s in shapes.items()))
    return dict(arrays)


def verdict(lengths: Mapping[str, Grid], truth: int) -> str:
    """The class that each way of routing gives an image: ``true class 7 · dynamic: 7 (.93) · fast: 1 (.55), wrong``."""
    parts = [f"true class {truth}"]
    for name, values in lengths.items():
        if np.isfinite(values).any():
            found = int(np.nanargmax(values))
            length = f"{values[found]:.2f}".removeprefix("0")
            parts.append(f"{name}: {found} ({length})" + ("" if found == truth else ", wrong"))
    return "   ·   ".join(parts)


def _row(bars: Axes, lengths: Mapping[str, Grid], truth: int, highest: float) -> None:
    kinds = len(next(iter(lengths.values())))
    bars.axvspan(truth - 0.5, truth + 0.5, color=SHADE, linewidth=0)
    wide = 0.78 / len(lengths)
    for place, values in enumerate(lengths.values()):
        at = np.arange(kinds) + (place - (len(lengths) - 1) / 2) * wide
        bars.bar(at, np.nan_to_num(values), wide, color=PALETTE[place % len(PALETTE)])
    bars.set(xlim=(-0.6, kinds - 0.4), ylim=(0, highest), yticks=[0, 0.5, 1])
    shown = ticks.across(range(kinds), WIDE)
    bars.set_xticks(range(0, kinds, shown.step), shown.texts)
    bars.tick_params(length=0, labelsize=8, pad=2)
    bars.grid(axis="y", color=RULE, linewidth=0.7)
    bars.set_axisbelow(True)
    bars.set_title(verdict(lengths, truth), loc="left", fontsize=8.5, color=GREY, pad=4)


def _legend(canvas: Canvas, names: Sequence[str], up: float) -> None:
    keys = [Rectangle((0, 0), 1, 1, color=PALETTE[place % len(PALETTE)]) for place in range(len(names))]
    keys.append(Rectangle((0, 0), 1, 1, color=SHADE))
    canvas.legend(
        keys, [*names, "true class"], loc="lower left", bbox_to_anchor=(LEFT / WIDTH, up), ncols=len(keys),
        frameon=False, borderpad=0, borderaxespad=0, handlelength=1.2, columnspacing=1.4,
    )  # fmt: skip


def _note(shown: Mapping[str, Grid], rows: int, count: int) -> str:
    missing = any(np.isnan(values[:rows]).any() for values in shown.values())
    parts = ["A missing bar has no finite value."] if missing else []
    parts += [f"Shown: {rows} of {count} images."] if rows < count else []
    return " ".join(parts)
