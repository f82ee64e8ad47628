"""The kind ``heatmap``: every point's raw mean as a coloured field with its number, one map or several on one scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from pydantic import Field

from capsexp.analysis.cells import Point, is_number
from capsexp.analysis.conditions import axis_text
from capsexp.analysis.figures import ticks
from capsexp.analysis.figures.base import OverAxes
from capsexp.analysis.figures.style import (
    GREY,
    PAPER,
    RULE,
    SEQUENTIAL,
    SPREAD,
    Area,
    Grid,
    Picture,
    blank,
    colour_bar,
    compact,
    font,
    room,
    save,
    write_fields,
)
from capsexp.analysis.measures import number
from capsexp.analysis.panels import Panel, missing_text

READABLE = 4.5
"""Points; numbers that would have to be smaller are left out of a heat map."""
COMFORTABLE = 7.0
"""Points; deviations that would make the numbers smaller are left out."""


class Heatmap(OverAxes):
    """The raw values over two axes."""

    kind: Literal["heatmap"] = "heatmap"
    y: str = Field(description="the axis from bottom to top")
    by: str = Field(default="", description="a third axis: one map for each of its values")


@dataclass(frozen=True)
class Layout:
    """Inches: of one map, of the texts left of and below it, and of the space for the words above it."""

    wide: float
    tall: float
    left: float
    below: float
    above: float
    columns: int
    rows: int

    @property
    def width(self) -> float:
        """Of the whole figure: maps, colour bar and its texts."""
        return max(6.4, self.left + self.columns * (self.wide + 0.2) + 1.2)

    @property
    def height(self) -> float:
        """Of all maps with their words, without the title."""
        return self.rows * (self.tall + self.above) + self.below

    def corner(self, place: int) -> tuple[float, float]:
        """Lower left corner of a map, from the lower left corner of the figure."""
        row, column = divmod(place, self.columns)
        up = self.below + (self.rows - 1 - row) * (self.tall + self.above)
        return self.left + column * (self.wide + 0.2), up


def draw(panel: Panel) -> tuple[Picture, str]:
    """One map, or one for each value of the figure's third axis, all with the same colours for the same values."""
    maps = groups(panel)
    layout = _layout(panel, len(maps))
    norm = normalise(panel)
    small = any(texts(panel, points, (layout.wide, layout.tall))[1] for points in maps.values())
    lines = panel.caption.lines(layout.width, *([SPREAD] if small else []))
    height = layout.height + 0.75 + room(lines)
    canvas = blank(panel.caption, layout.width, height, 0.3 / layout.width, lines)
    seen: dict[tuple[int, int, int], str] = {}
    fields: list[Area] = []
    for place, (words, points) in enumerate(maps.items()):
        left, up = layout.corner(place)
        box = (left / layout.width, up / height, layout.wide / layout.width, layout.tall / height)
        flat = canvas.add_axes(box)
        flat.set_title(words, fontsize=9.5, color=GREY, pad=5)
        values, states = panel.grid(points)
        draw_map(flat, panel, values, states, norm, points)
        _trim(flat, layout, place, len(maps))
        seen |= {(place, *at): state for at, state in states.items()}
        fields += areas(canvas, flat, panel, points)
    _bar_beside(canvas, panel, layout, norm, height)
    return save(canvas, panel.caption, legend(panel, seen.values()), fields), ""


def groups(panel: Panel) -> dict[str, list[Point]]:
    """The points of each map, by the words above it."""
    by = panel.figure.by
    return dict(panel.split(by if len(panel.values(by)) > 1 else ""))


def _layout(panel: Panel, maps: int) -> Layout:
    xs, ys = panel.values(panel.figure.x), panel.values(panel.figure.y)
    columns = maps if maps <= 3 else 2 if maps == 4 else 3
    most_wide, most_tall = (7.0, 4.9) if maps == 1 else (4.2, 3.6) if columns == 2 else (3.3, 3.0)
    wide = min(most_wide, max(1.45 * len(xs), most_wide / 2))
    tall = min(most_tall, max(0.8 * len(ys), 2.0))
    below = 0.62 + ticks.across(xs, wide).inches
    left = 0.65 + ticks.upright(ys, tall).inches
    return Layout(wide, tall, left, below, 0.0 if maps == 1 else 0.35, columns, math.ceil(maps / columns))


def _trim(flat: Axes, layout: Layout, place: int, maps: int) -> None:
    """Texts along an axis stand at the outer maps alone."""
    if place % layout.columns:
        flat.set(ylabel="", yticks=[])
    if place + layout.columns < maps:
        flat.set(xlabel="", xticks=[])


def _bar_beside(canvas: Canvas, panel: Panel, layout: Layout, norm: Normalize, height: float) -> None:
    right = layout.left + layout.columns * (layout.wide + 0.2)
    tall = min(5.0, layout.rows * (layout.tall + layout.above) - layout.above)
    top = layout.height - layout.above
    place = (right / layout.width, (top - tall) / height, 0.18 / layout.width, tall / height)
    colour_bar(canvas, norm, SEQUENTIAL, panel.measure.title, place)


def normalise(panel: Panel) -> Normalize:
    """The colours' scale, from the smallest to the largest value of all pictures that are to be compared."""
    return between(*panel.limits)


def between(low: float, high: float) -> Normalize:
    """The colours' scale between two values, with some room around equal ones."""
    margin = 0.0 if high > low else abs(high) * 0.05 or 0.5
    return Normalize(low - margin, high + margin)


def draw_map(
    flat: Axes,
    panel: Panel,
    values: Grid,
    states: dict[tuple[int, int], str],
    norm: Normalize,
    points: Sequence[Point] | None = None,
) -> bool:
    """Draw one map of the panel's ``points`` (all of them by default); whether it also shows deviations."""
    x, y = panel.figure.x, panel.figure.y
    numbers, small = texts(panel, points, _inches(flat))
    draw_fields(flat, values, numbers, states, norm)
    write_axes(flat, panel.values(x), panel.values(y), (panel.spec.axis(x).title, panel.spec.axis(y).title))
    return small


def draw_fields(
    flat: Axes,
    values: Grid,
    numbers: list[list[str]],
    states: Mapping[tuple[int, int], str],
    norm: Normalize,
    colours: str = SEQUENTIAL,
) -> None:
    """The fields [y, x] of one map in their colours, with numbers that can be read, and its missing ones."""
    rows, columns = values.shape
    edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    flat.pcolormesh(*edges, values, norm=norm, cmap=colours, edgecolors="white", linewidth=0.6)
    size = font(_inches(flat), numbers)
    if size >= READABLE:
        write_fields(flat, numbers, mpl.colormaps[colours](norm(values)), size)
    for (row, column), state in states.items():
        flat.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=PAPER, edgecolor=RULE, hatch="////", lw=0))
        flat.text(column, row, _letter(state), ha="center", va="center", fontsize=max(size, READABLE), color=GREY)


def areas(canvas: Canvas, flat: Axes, panel: Panel, points: Sequence[Point] | None = None) -> list[Area]:
    """The fields of a map that is drawn, each with its point's cells."""
    share = flat.transData - canvas.transFigure
    found = []
    for (row, column), point in panel.places(points):
        (left, low), (right, high) = np.sort(share.transform([(column - 0.5, row - 0.5), (column + 0.5, row + 0.5)]), 0)
        box = (float(left), float(1 - high), float(right - left), float(high - low))
        found.append(Area(box, tuple(cell.id for cell in point.cells), _place_and_value(panel, point)))
    return found


def _place_and_value(panel: Panel, point: Point) -> str:
    metric, measure = panel.figure.metric, panel.measure
    place = ", ".join(f"{panel.spec.axis(axis).label} = {axis_text(value)}" for axis, value in point.axes.items())
    stat = point.stat(metric)
    value = f"{number(stat.mean, measure.digits)} (n = {stat.n})" if stat.n else missing_text(point, metric)
    return f"{place}: {measure.label} {value}"


def write_axes(flat: Axes, xs: Sequence[Any], ys: Sequence[Any], labels: tuple[str, str]) -> None:
    """The values along both axes of a map, and what they are."""
    wide, tall = _inches(flat)
    x, y = ticks.across(xs, wide), ticks.upright(ys, tall)
    flat.set_xticks(range(0, len(xs), x.step), x.texts, **x.look)
    flat.set_yticks(range(0, len(ys), y.step), y.texts)
    if not all(is_number(value) for value in ys):
        flat.invert_yaxis()  # words are read from the top, in the order of the tables
    flat.tick_params(length=0)
    flat.spines[:].set_visible(False)
    flat.set_xlabel(labels[0])
    flat.set_ylabel(labels[1])


def texts(panel: Panel, points: Sequence[Point] | None, inches: tuple[float, float]) -> tuple[list[list[str]], bool]:
    """The numbers in the fields of a map of that size, and whether deviations stand below them."""
    values, spread = panel.grid(points)[0], panel.spread(points)
    one = compact(values)
    for row, column in panel.short(points):
        one[row][column] += "*"
    pairs = [zip(*rows, strict=True) for rows in zip(one, compact(spread, values), strict=True)]
    two = [[f"{text}\n± {small}" if small else text for text, small in row] for row in pairs]
    fits = bool(np.any(spread > 0)) and font(inches, two) >= COMFORTABLE
    return (two, True) if fits else (one, False)


def _inches(flat: Axes) -> tuple[float, float]:
    box, dpi = flat.get_window_extent(), flat.figure.dpi
    return box.width / dpi, box.height / dpi


def _letter(state: str) -> str:
    return "∅" if state in ("not finite", "no value") else state[0].upper()


def legend(panel: Panel, states: Any) -> str:
    """The meaning of letters in hatched fields and of stars."""
    letters = ", ".join(f"{_letter(state)} {state}" for state in sorted(set(states)))
    parts = [f"Hatched fields have no value: {letters}."] if letters else []
    parts += ["* mean of fewer trainings than planned."] if panel.short() else []
    return " ".join(parts)
