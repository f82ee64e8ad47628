"""The kind ``activity``: the activity of each capsule, layer by layer, one cell per row."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure as Canvas
from pydantic import BeforeValidator, Field

from capsexp.analysis.arrays import Array, ArrayError, about, choose, facts, lacking, numbers, read_all
from capsexp.analysis.cells import Cell
from capsexp.analysis.figures import ticks
from capsexp.analysis.figures.base import OfCell
from capsexp.analysis.figures.style import (
    GREY,
    INK,
    RULE,
    SEQUENTIAL,
    Caption,
    Grid,
    Picture,
    blank,
    colour_bar,
    room,
    save,
    style,
)
from capsexp.analysis.panels import Panel
from capsexp.errors import require_number


class Activity(OfCell):
    """The arrays ``activity/<layer>`` [type, y, x] on one logarithmic scale: a panel per layer."""

    kind: Literal["activity"] = "activity"
    by: str = Field(default="", description="an axis: a row of panels for each of its values; default: a single row")
    layers: Literal["intermediate", "all"] = Field(
        default="intermediate", description="layer1, layer2, ...; or all that the cell has kept, primary first"
    )
    threshold: Annotated[float, Field(gt=0), BeforeValidator(partial(require_number, "", minimum=0, open_ends="<"))] = (
        Field(default=0.01, description="activity up to which a capsule is dead; marked beside the colours")
    )


LOW, HIGH = 1e-4, 1.0
"""The ends of the colours; what lies beyond has the colour of the end."""
MOST = 12
"""Panels side by side at most."""
LEFT, RIGHT, TALL, HEAD, BAR = 0.75, 1.85, 1.3, 0.32, 1.6
"""Inches: left of the first panel, right of the last one, a panel's height, the words above a row, the colour bar."""
SMALL = 7.5
"""Points of the texts around a panel."""

Layers = Mapping[str, Array]
"""By the name of a layer: its activities [type, y, x]."""


def dead(values: Grid, threshold: float) -> str:
    """The share of capsules that are at most as active as the threshold; 0 % is none and 100 % is all."""
    count, all_ = int((values <= threshold).sum()), values.size
    per_cent = round(100 * count / all_)
    text = "<1" if count and not per_cent else ">99" if count < all_ and per_cent == 100 else str(per_cent)
    return f"{text} % dead"


@dataclass(frozen=True)
class Layout:
    """Inches: where panels are.

    Attributes:
        counts: layers of each row; 0 where words stand in place of panels.
        heads: whether rows have words above them.
        varied: whether panels differ in their shape, so that each has numbers along its axes.
        longest: letters of the longest title.
    """

    counts: Sequence[int]
    heads: bool
    varied: bool
    longest: int

    @property
    def columns(self) -> int:
        """Panels side by side."""
        return min(MOST, max(self.counts))

    @property
    def gap(self) -> float:
        """Between two panels."""
        return 0.32 if self.varied else 0.12

    @property
    def wide(self) -> float:
        """Of a panel."""
        return min(2.3, 11.2 / self.columns - self.gap)

    @property
    def broken(self) -> bool:
        """True if titles take two lines."""
        return self.longest * 0.0075 * SMALL > self.wide

    @property
    def pitch(self) -> float:
        """From one line of panels to the next."""
        return TALL + (0.36 if self.broken else 0.24) + (0.16 if self.varied else 0)

    @property
    def tops(self) -> list[float]:
        """The top of each row, and the end of the last one, from the top of the first."""
        ends = [0.0]
        for count in self.counts:
            lines = -(-count // self.columns)
            ends.append(ends[-1] + self.head + (lines * self.pitch + 0.2 if count else 0.3))
        return ends

    @property
    def end(self) -> float:
        """The end of the last row."""
        return self.tops[-1]

    @property
    def head(self) -> float:
        """For the words above a row."""
        return HEAD if self.heads else 0.0

    @property
    def right(self) -> float:
        """The end of the last panel of a line."""
        return LEFT + self.columns * (self.wide + self.gap) - self.gap

    def corner(self, row: int, place: int) -> tuple[float, float]:
        """Lower left corner of a panel: from the left, and down from the top of the first row."""
        line, column = divmod(place, self.columns)
        down = self.tops[row] + self.head + (line + 1) * self.pitch - (0.16 if self.varied else 0)
        return LEFT + column * (self.wide + self.gap), down


@style()
def draw_activity(rows: Mapping[str, Layers | str], caption: Caption, *, threshold: float = 0.01) -> Picture:
    """A row of panels for each network: types of capsules downwards, their places across, on one logarithmic scale.

    Args:
        rows: by the words above a row: its layers [type, y, x] in their order, or what to say in place of them.
        caption: the text around them.
        threshold: activity up to which a capsule is dead.
    """
    maps = {head: {} if isinstance(row, str) else row for head, row in rows.items()}
    layout = _layout(maps, threshold)
    width = max(6.4, layout.right + RIGHT)
    lines = caption.lines(width)
    top = 0.72 + room(lines)
    height = top + max(layout.end, BAR + 0.2) + 0.32
    canvas = blank(caption, width, height, 0.3 / width, lines)
    norm = LogNorm(LOW, HIGH)
    for row, (head, said) in enumerate(rows.items()):
        up = height - top - layout.tops[row] - 0.2
        canvas.text(LEFT / width, up / height, head, color=INK, va="center", parse_math=False)
        if isinstance(said, str):
            canvas.text(LEFT / width, (up - 0.24) / height, said, color=GREY, va="center", parse_math=False)
        for place, (name, values) in enumerate(maps[head].items()):
            left, down = layout.corner(row, place)
            box = (left / width, (height - top - down) / height, layout.wide / width, TALL / height)
            axes = canvas.add_axes(box)
            _draw_layer(axes, values, norm)
            _write(axes, values.shape, layout, row, place)
            title = f"{spelt(name)}:{chr(10) if layout.broken else ' '}{dead(values, threshold)}"
            axes.set_title(title, fontsize=SMALL, color=GREY, pad=3, linespacing=1.1)
    below, beside = (height - top - layout.end - 0.06) / height, (height - top - layout.end / 2) / height
    canvas.text((LEFT + layout.right) / 2 / width, below, "place, row by row", ha="center", va="top")
    canvas.text(0.28 / width, beside, "type of capsule", rotation=90, ha="center", va="center")
    corner = ((layout.right + 0.22) / width, (height - top - 0.15 - BAR) / height)
    _bar(canvas, norm, threshold, (*corner, 0.16 / width, BAR / height))
    return save(canvas, caption, _note([values for row in maps.values() for values in row.values()]))


def _layout(maps: Mapping[str, Layers], threshold: float) -> Layout:
    found = [(name, values) for row in maps.values() for name, values in row.items()]
    titles = [f"{spelt(name)}: {dead(values, threshold)}" for name, values in found]
    varied = len({values.shape for _, values in found}) > 1
    return Layout([len(row) for row in maps.values()], any(maps), varied, max(map(len, titles)))


def spelt(layer: str) -> str:
    """``layer3`` as people read it."""
    return re.sub(r"(?<=[a-z])(\d+)$", r" \1", layer)


def _draw_layer(axes: Axes, values: Grid, norm: LogNorm) -> None:
    colours = mpl.colormaps[SEQUENTIAL].with_extremes(bad=RULE)
    flat = np.clip(values.reshape(len(values), -1), LOW, HIGH)
    axes.imshow(flat, norm=norm, cmap=colours, interpolation="nearest", aspect="auto")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=SMALL - 1, pad=2)


def _write(axes: Axes, shape: tuple[int, ...], layout: Layout, row: int, place: int) -> None:
    """Numbers along the axes: at the left and the lower edge of a row, or everywhere if shapes differ."""
    types, places = shape[0], int(np.prod(shape[1:]))
    x, y = ticks.across(range(places), layout.wide / 2), ticks.upright(range(types), TALL / 2)
    lowest, first = place + layout.columns >= layout.counts[row], place % layout.columns == 0
    axes.set_xticks(range(0, places, x.step), x.texts if lowest or layout.varied else [""] * len(x.texts))
    axes.set_yticks(range(0, types, y.step), y.texts if first or layout.varied else [""] * len(y.texts))


def _bar(canvas: Canvas, norm: LogNorm, threshold: float, place: tuple[float, float, float, float]) -> None:
    bar = colour_bar(canvas, norm, SEQUENTIAL, "norm of the mean output", place)
    decades = [10.0**power for power in range(-4, 1)]
    marks = {value: f"{value:g}" for value in decades if not 0.4 < value / threshold < 2.5}
    marks |= {threshold: f"≤ {threshold:g}: dead"}
    bar.set_yticks(list(marks), list(marks.values()))
    bar.set_yticks([], minor=True)
    bar.yaxis.labelpad = 8
    bar.axhline(threshold, color="white", linewidth=2.4)
    bar.axhline(threshold, color=INK, linewidth=1.1)


def _note(shown: Sequence[Grid]) -> str:
    parts = []
    if any((values < LOW).any() for values in shown):
        parts.append(f"Activities below {LOW:g}, zero among them, have the colour of that.")
    if any(np.isnan(values).any() for values in shown):
        parts.append("Light grey: no finite value.")
    return " ".join(parts)


# -- the cells -------------------------------------------------------------------------------------------------------

PREFIX = "activity/"


def draw(panel: Panel) -> tuple[Picture | None, str]:
    """The activities of one cell for each value of ``by``, or a line saying why there are none."""
    figure = panel.figure
    chosen = [(head, part, choose(part)) for head, part in _parts(panel)]
    rows = {_heading(head, part, cell): _row(part, cell) for head, part, cell in chosen}
    cells = [cell for _, _, cell in chosen if cell]
    if not cells:
        return None, lacking(panel)
    said = [row for row, (_, _, cell) in zip(rows.values(), chosen, strict=True) if cell and isinstance(row, str)]
    if len(said) == len(cells):
        return None, f"{figure.name}: {cells[0].name}: {said[0]}"
    return draw_activity(rows, _caption(panel, cells), threshold=figure.threshold), ""


def _heading(head: str, part: Panel, cell: Cell | None) -> str:
    return "   ·   ".join([head, *(facts(part, cell) if cell else [])]) if head else ""


def _caption(panel: Panel, cells: list[Cell]) -> Caption:
    """What is said around the picture: of a single cell above it, of several below, since their names are long."""
    figure = panel.figure
    among = max(sum(len(point.done) for point in part.points) for _, part in _parts(panel))
    parts = [*panel.caption.parts, *([f"one of {among} trainings"] if among > 1 else [])]
    if not figure.by:
        return replace(panel.caption, parts=(*parts, about(panel, cells[0])))
    note = f"Shown: {', '.join(cell.name for cell in cells)}."
    return replace(panel.caption, parts=tuple(parts), note=" ".join(text for text in (note, figure.note) if text))


def _parts(panel: Panel) -> list[tuple[str, Panel]]:
    """The points of each row, with the words that tell it from the others."""
    return [(head, replace(panel, points=points)) for head, points in panel.split(panel.figure.by)]


def _row(part: Panel, cell: Cell | None) -> Layers | str:
    """A cell's layers, or why there are none to be drawn."""
    if cell is None:
        metric, done = part.figure.metric, any(point.done for point in part.points)
        return f"no cell has {metric}" if done else f"no cell has finished ({part.points[0].state})"
    try:
        return layers(read_all(cell.directory, PREFIX), part.figure.layers) if cell.directory else "it has no folder"
    except ArrayError as error:
        return str(error)


def layers(found: Layers, which: str) -> dict[str, Grid]:
    """The layers to be drawn, the primary capsules first and then in the order of their numbers.

    Args:
        found: arrays [type, y, x], by their names in ``arrays.npz``.
        which: ``all``, or ``intermediate``: those called ``layer`` and a number.

    Raises:
        ArrayError: there is none, or one holds no numbers in three dimensions.
    """
    if not found:
        raise ArrayError(f"no {PREFIX} in arrays.npz")
    names = {name: name.removeprefix(PREFIX) for name in found}
    chosen = [name for name, short in names.items() if which == "all" or re.fullmatch(r"layer\d+", short)]
    if not chosen:
        raise ArrayError("no intermediate capsule layer")
    chosen.sort(key=lambda name: (names[name] != "primary", _natural(names[name])))
    return {names[name]: numbers(found[name], name, 3) for name in chosen}


def _natural(name: str) -> list[tuple[int, str]]:
    """So that layer2 comes before layer10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
