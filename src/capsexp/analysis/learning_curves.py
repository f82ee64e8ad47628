"""The learning curves of all cells of a sweep, as small vector pictures for the page."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.ticker import MaxNLocator

from capsexp.analysis.arrays import ArrayError
from capsexp.analysis.cells import Cell, hashable
from capsexp.analysis.figures.style import Grid
from capsexp.analysis.figures.ticks import texts
from capsexp.analysis.history import read_history
from capsexp.analysis.results import Results
from capsexp.analysis.spec import Spec

METRICS = ("train/acc", "val/acc", "train/loss", "val/loss")
"""The columns of ``metrics.csv`` that the page shows."""

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BELOW = 46, 8, 8, 34
MOST_LINES = 40
"""Cells up to which each has a line of its own; of more cells, bands show how they are distributed."""

MOST_COLOURS = 6
"""The colours of page.css, Okabe and Ito's without black, which colour-blind readers can tell apart."""

Curves = dict[str, Grid]
"""A value per epoch (NaN = not recorded) by the metric's name."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in the picture and its text."""

    place: float
    text: str


@dataclass(frozen=True)
class CurvePicture:
    """One metric over the epochs, in the coordinates of an SVG of ``WIDTH`` by ``HEIGHT``.

    Attributes:
        metric: its name.
        lines: the name, the points and the colour of each cell's line; of a distribution, the medians alone.
        bands: the outlines of areas between two quantiles, and what each is, the wide one first.
        across: marks on the axis of epochs.
        upright: marks on the axis of values.
    """

    metric: str
    lines: Sequence[tuple[str, str, int | None]]
    bands: Sequence[tuple[str, str]]
    across: Sequence[Tick]
    upright: Sequence[Tick]


def read_curves(cell: Cell) -> Curves:
    """The learning curves of a finished cell; empty if it has none."""
    if not cell.done:
        return {}
    try:
        return read_history(cell.directory, METRICS)
    except ArrayError:
        return {}


@dataclass(frozen=True)
class Colours:
    """The axis whose values have a colour each.

    Attributes:
        title: its label; empty where no axis has few values.
        texts: its values.
        of_cell: the place of a cell's value among them, by the cell's id.
    """

    title: str = ""
    texts: Sequence[str] = ()
    of_cell: Mapping[str, int] = field(default_factory=dict)


def colours(spec: Spec, results: Results, ids: Collection[str]) -> Colours:
    """The first axis with few values, at least two, among some cells."""
    cells = [cell for cell in results.cells if cell.id in ids]
    for axis, every in results.axes.items():
        used = {hashable(cell.axes.get(axis)) for cell in cells}
        values = [value for value in every if hashable(value) in used]
        if 2 <= len(values) <= MOST_COLOURS:
            places = {hashable(value): place for place, value in enumerate(values)}
            of_cell = {cell.id: places[hashable(cell.axes.get(axis))] for cell in cells}
            return Colours(spec.axis(axis).label, texts(values), of_cell)
    return Colours()


Named = tuple[str, Grid, int | None]
"""The name, the values and the colour of a cell's line."""


def pictures(curves: Sequence[tuple[str, Curves, int | None]], key: Colours) -> list[CurvePicture]:
    """A picture for each metric that some cell has.

    Args:
        curves: the name, the curves and the colour of each cell.
        key: the meaning of the colours.
    """
    found = []
    for metric in METRICS:
        there = [each for each in curves if metric in each[1] and np.isfinite(each[1][metric]).any()]
        lines: list[Named] = [(name, each[metric], colour) for name, each, colour in there]
        if lines:
            found.append(_picture(metric, lines, key))
    return found


def _picture(metric: str, curves: Sequence[Named], key: Colours) -> CurvePicture:
    epochs = max(len(values) for _, values, _ in curves)
    finite = np.concatenate([values[np.isfinite(values)] for _, values, _ in curves])
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        low, high = low - 0.5, 1.0 if metric.endswith("/acc") and high > 0.5 else high + 0.5
    scale = _Scale(epochs, low, high)
    upright = [Tick(scale.y(value), f"{value:g}") for value in MaxNLocator(4).tick_values(low, high)]
    steps = MaxNLocator(5, integer=True).tick_values(1, max(epochs, 2))
    across = [Tick(scale.x(value), f"{value:g}") for value in steps if 1 <= value <= epochs]
    upright = [tick for tick in upright if TOP - 1 <= tick.place <= HEIGHT - BELOW + 1]
    if len(curves) <= MOST_LINES:
        lines = [(name, scale.line(values), colour) for name, values, colour in curves]
        return CurvePicture(metric, lines, [], across, upright)
    low_high, quartiles, _ = _quantiles([values for _, values, _ in curves], epochs)
    bands = [("all cells", scale.area(*low_high)), ("the middle half of the cells", scale.area(*quartiles))]
    medians = []
    for colour in sorted({colour for _, _, colour in curves}, key=lambda each: -1 if each is None else each):
        median = _quantiles([values for _, values, own in curves if own == colour], epochs)[2]
        name = "median" if colour is None else f"median, {key.title} = {key.texts[colour]}"
        medians.append((name, scale.line(median), colour))
    return CurvePicture(metric, medians, bands, across, upright)


def _quantiles(curves: Sequence[Grid], epochs: int) -> tuple[Sequence[Grid], Sequence[Grid], Grid]:
    """Extremes, quartiles and median of the cells that have a finite value at each epoch."""
    table = np.full((len(curves), epochs), np.nan)
    for row, values in zip(table, curves, strict=True):
        row[: len(values)] = values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an epoch without any finite value stays NaN
        found = np.nanquantile(table, [0, 0.25, 0.5, 0.75, 1], axis=0)
    return (found[0], found[4]), (found[1], found[3]), found[2]


class _Scale:
    """Epochs and values to the coordinates of the picture."""

    def __init__(self, epochs: int, low: float, high: float) -> None:
        self._epochs, self._low, self._high = max(epochs - 1, 1), low, high

    def x(self, epoch: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (epoch - 1) / self._epochs

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BELOW) * (self._high - value) / (self._high - self._low)

    def line(self, values: Grid) -> str:
        """The path of a line, interrupted where a value is not finite."""
        parts, apart = [], True
        for place, value in enumerate(values.tolist()):
            if np.isfinite(value):
                parts.append(f"{'M' if apart else 'L'}{self.x(place + 1):.1f} {self.y(value):.1f}")
            apart = not np.isfinite(value)
        return "".join(parts) + ("h.1" if len(parts) == 1 else "")  # a single epoch is a dot

    def area(self, low: Grid, high: Grid) -> str:
        """The outline of the area between two lines, where both are finite."""
        there = [place for place in range(len(low)) if np.isfinite(low[place]) and np.isfinite(high[place])]
        forth = [f"{self.x(place + 1):.1f} {self.y(float(high[place])):.1f}" for place in there]
        back = [f"{self.x(place + 1):.1f} {self.y(float(low[place])):.1f}" for place in reversed(there)]
        return f"M{'L'.join([*forth, *back])}Z" if there else ""
