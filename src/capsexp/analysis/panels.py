"""The pictures of a figure: one for each protocol and for each value of the axes that it does not name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from capsexp.analysis.cells import Point, Protocol, grouped, hashable
from capsexp.analysis.conditions import asked, axis_text, select, unswept
from capsexp.analysis.figures import ticks
from capsexp.analysis.figures.base import Figure
from capsexp.analysis.figures.style import Caption, Grid, counted
from capsexp.analysis.measures import Labels, Measure
from capsexp.analysis.results import Results

MOST = 12
"""Pictures drawn of one figure at most; more would bury the page."""


@dataclass(frozen=True)
class Panel:
    """The content of one picture.

    Attributes:
        figure: the figure it belongs to, a model of any kind.
        spec: how metrics and axes are labelled.
        results: the whole sweep.
        points: the points that are drawn.
        suffix: what is added to the figure's file name.
        others: values of the axes that the figure does not name.
        limits: smallest and largest mean of this picture and of those that differ in the axes it does not name alone.
        remarks: those values, the paper's result, and the data of the numbers.
    """

    figure: Any
    spec: Labels
    results: Results
    points: list[Point]
    suffix: str = ""
    remarks: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    limits: tuple[float, float] = (0.0, 1.0)

    @property
    def measure(self) -> Measure:
        """The metric that is drawn."""
        return self.spec.measure(self.figure.metric)

    @property
    def caption(self) -> Caption:
        """The text around the picture."""
        figure = self.figure
        return Caption(figure.name + self.suffix, figure.title, (self.results.partial, *self.remarks), figure.note)

    @property
    def n(self) -> str:
        """Number of trainings of a drawn value."""
        return counted(point.stat(self.figure.metric).n for point in self.points)

    def values(self, axis: str) -> list[Any]:
        """An axis' values that occur among the points, in order."""
        used = {hashable(point.axes.get(axis)) for point in self.points}
        return [value for value in self.results.axes.get(axis, []) if hashable(value) in used]

    def split(self, axis: str) -> list[tuple[str, list[Point]]]:
        """The points of each value of an axis, with the words for it; all points where no axis is named."""
        if not axis:
            return [("", self.points)]
        values, label, found = self.values(axis), self.spec.axis(axis).label, grouped(self.points, [axis])
        shown = zip(values, ticks.texts(values), strict=True)
        return [(f"{label} = {text}", found[(hashable(value),)]) for value, text in shown]

    def places(self, points: Sequence[Point] | None = None) -> list[tuple[tuple[int, int], Point]]:
        """Each point with its row (its value of y) and column (of x) in a grid."""
        points = self.points if points is None else points
        x, y = self.figure.x, self.figure.y
        columns = {hashable(value): place for place, value in enumerate(self.values(x))}
        rows = {hashable(value): place for place, value in enumerate(self.values(y))}
        return [((rows[hashable(p.axes.get(y))], columns[hashable(p.axes.get(x))]), p) for p in points]

    def grid(self, points: Sequence[Point] | None = None) -> tuple[Grid, dict[tuple[int, int], str]]:
        """Means of the points (all by default) as [y, x] with NaN where one is missing, and why each is missing."""
        metric, states = self.figure.metric, {}
        grid = self._empty()
        for place, point in self.places(points):
            mean = point.stat(metric).mean
            if mean is not None:
                grid[place] = mean
            states[place] = missing_text(point, metric)
        return grid, {place: state for place, state in states.items() if math.isnan(grid[place])}

    def spread(self, points: Sequence[Point] | None = None) -> Grid:
        """Sample standard deviations as [y, x], with NaN where there are fewer than two values."""
        grid = self._empty()
        for place, point in self.places(points):
            std = point.stat(self.figure.metric).std
            grid[place] = np.nan if std is None else std
        return grid

    def _empty(self) -> Grid:
        return np.full((len(self.values(self.figure.y)), len(self.values(self.figure.x))), np.nan)

    def short(self, points: Sequence[Point] | None = None) -> list[tuple[int, int]]:
        """The fields of the grid whose mean is of fewer trainings than planned."""
        found = ((place, point.stat(self.figure.metric).n, len(point.cells)) for place, point in self.places(points))
        return [place for place, n, planned in found if 0 < n < planned]


def missing_text(point: Point, metric: str) -> str:
    """The reason for which a point has no value."""
    if point.done:
        return "not finite" if point.stat(metric).lost else "no value"
    return point.cells[0].state


def metric_of(figure: Figure) -> str:
    """The metric that a figure shows or chooses a cell by; empty where it has none."""
    metric: str = getattr(figure, "metric", "")
    return metric


def count(figure: Figure, point: Point) -> int:
    """The trainings of a point that a figure can use: those with its metric, or all finished ones if it has none."""
    metric = metric_of(figure)
    return point.stat(metric).n if metric else len(point.done)


def panels(figure: Figure, spec: Labels, results: Results) -> tuple[list[Panel], str]:
    """The pictures of a figure, and what is to be said about those that are not drawn."""
    every, said = all_panels(figure, spec, results)
    drawn, left = first_panels(figure, every)
    return drawn, "; ".join(filter(None, (said, left)))


def first_panels(figure: Figure, every: Sequence[Panel]) -> tuple[list[Panel], str]:
    """The pictures that a page can show, and how many more there are."""
    left = len(every) - MOST
    more = "tables are not shown" if figure.kind == "grid" else "pictures are not drawn"
    return list(every[:MOST]), f"{figure.name}: {left} more {more}; narrow it with where" if left > 0 else ""


def all_panels(figure: Figure, spec: Labels, results: Results) -> tuple[list[Panel], str]:
    """The pictures of a figure, however many there are, and which named axes they lack or why there is none."""
    unknown = unswept(figure.conditions, results)
    if unknown:
        return [], f"{figure.name}: {unknown} was not swept"
    rest = [axis for axis in results.axes if axis not in figure.shown_axes]
    chosen = select(results.points, figure.where)
    if figure.whole_sweep:
        rest, apart = [], [points for _, points in results.by_protocol(chosen)]
    else:
        apart = results.apart(chosen)
    every = [group for points in apart for group in grouped(points, rest).values()]
    groups = [group for group in every if any(count(figure, point) for point in group)]
    if figure.kind == "grid":
        groups = groups or every[:1]  # the paper's numbers stand there before ours do
    made = [_panel(figure, spec, results, group, rest, len(groups) > 1) for group in groups]
    drawn = [panel for panel in made if shape(panel)]
    without = "; ".join(f"{key}: {line}" for key, line in figure.unswept(results.axes).items())
    if not drawn:
        lacking = without or "too few swept values to draw" if made else _lacking(figure, spec, results, chosen)
        return [], f"{figure.name}: {lacking}"
    if figure.over_axes:
        drawn = _on_one_scale(drawn, results.mixed())
    return drawn, f"{figure.name}: {without}" if without else ""


def _lacking(figure: Figure, spec: Labels, results: Results, chosen: Sequence[Point]) -> str:
    """Why nothing can be drawn of the chosen points; of those without a finished cell, whether others have one."""
    if results.protocols and not any(point.done for point in chosen):
        return f"no finished cell at {asked(figure.where, spec)}"
    metric = metric_of(figure)
    return results.lacks(metric) if metric else "no cell has finished yet"


def _on_one_scale(drawn: Sequence[Panel], mixed: Sequence[str]) -> list[Panel]:
    """The pictures with equal limits, so that equal colours are equal values; of mixed data those of equal data."""
    groups: dict[object, list[Panel]] = {}
    for panel in drawn:
        groups.setdefault(_mixed_parts(panel, mixed), []).append(panel)
    limits = {key: _limits(group) for key, group in groups.items()}
    return [replace(panel, limits=limits[_mixed_parts(panel, mixed)]) for panel in drawn]


def _mixed_parts(panel: Panel, mixed: Sequence[str]) -> object:
    """The values of the mixed parts of the protocol, which all finished points of a picture share."""
    protocol = next((point.protocol for point in panel.points if point.protocol), None)
    return tuple(getattr(protocol, part, None) for part in mixed)


def _limits(pictures: Sequence[Panel]) -> tuple[float, float]:
    stats = [point.stat(panel.figure.metric).mean for panel in pictures for point in panel.points]
    means = [mean for mean in stats if mean is not None]
    return min(means), max(means)


def _panel(
    figure: Figure,
    spec: Labels,
    results: Results,
    group: list[Point],
    rest: Sequence[str],
    several: bool,
) -> Panel:
    found = {point.protocol for point in group}
    protocols = [each for each in results.protocols if each in found]
    values = [axis_text(group[0].axes.get(axis)) for axis in rest]
    others = tuple(f"{spec.axis(axis).label} = {value}" for axis, value in zip(rest, values, strict=True))
    remarks = [*others]
    if figure.paper:
        remarks.append(f"paper{f' ({spec.paper_data})' if spec.paper_data else ''}: {figure.paper}")
    if protocols:
        remarks.append(f"here: {origin(protocols)}")
    if protocols and (results.mixed() or (figure.whole_sweep and len(results.protocols) > 1)):
        # Two files may have one name, so the place among the protocols keeps the pictures' names apart.
        values.append(f"{protocols[0].data}{results.protocols.index(protocols[0]) + 1}")
    suffix = "".join("_" + _file_name(value) for value in values) if several else ""
    panel = Panel(figure, spec, results, group, suffix)  # knows its n
    remarks += [panel.n] if figure.over_axes else []
    return replace(panel, remarks=tuple(remarks), others=others)


def origin(protocols: Sequence[Protocol]) -> str:
    """The data that numbers come from, and the split on which their models were chosen."""
    data, chosen = (list(dict.fromkeys(getattr(each, part) for each in protocols)) for part in ("data", "select_on"))
    return f"data {' / '.join(data)}, model chosen on {' / '.join(chosen)}"


def _file_name(text: str) -> str:
    return "".join(char if char.isascii() and (char.isalnum() or char in "-.") else "-" for char in text)


def shape(panel: Panel) -> str:
    """The kind that can be drawn: the figure's own, a line where one axis alone varies, or none."""
    figure, kind = panel.figure, str(panel.figure.kind)
    if not figure.over_axes:
        return kind
    axes = [figure.x, *([figure.y] if hasattr(figure, "y") else [])]
    long = [axis for axis in axes if len(panel.values(axis)) > 1]
    return kind if len(long) == len(axes) else "line" if long else ""
