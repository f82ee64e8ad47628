"""One array of each cell against another: accuracy against parameters, say, while a network becomes smaller."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from capsexp.analysis import ticks
from capsexp.analysis.arrays import ArrayError, load, numbers
from capsexp.analysis.captions import counted
from capsexp.analysis.cells import SEED, Cell, Point, hashable
from capsexp.analysis.compare import axis_text, select
from capsexp.analysis.curves import mean_and_spread
from capsexp.analysis.panels import Panel
from capsexp.analysis.series_lines import Curve, Keys, draw_series
from capsexp.analysis.spec import Figure
from capsexp.analysis.style import Drawn, Grid

Groups = dict[str, dict[tuple[str, str], Curve]]
"""By the words above a panel, and the words of colour and line style."""


def draw(panel: Panel) -> tuple[Drawn | None, str]:
    """The curves of the sweep's cells, and what is to be said of cells that have none."""
    figure, lost = panel.figure, list[str]()
    try:
        groups, reference = _read(panel, lost)
    except ArrayError as error:
        return None, f"{figure.name}: {error}"
    more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
    problem = f"{figure.name}: {lost[0]}{more}" if lost else ""
    if not any(groups.values()) and reference is None:
        return None, problem
    words = replace(panel.around, parts=(*panel.around.parts, _sizes(groups, reference)))
    keys = Keys(_title(panel, figure.by), _title(panel, figure.style), figure.reference_label)
    texts = {"x_label": figure.x_label or figure.arrays["x"], "y_label": figure.y_label or figure.arrays["y"]}
    return draw_series(groups, words, keys, reference=reference, **texts), problem


def _sizes(groups: Groups, reference: Curve | None) -> str:
    """Numbers of trainings behind the lines; that of the reference where it is another."""
    lines = counted(curve.n for group in groups.values() for curve in group.values())
    if reference is None or lines == counted([reference.n]):
        return lines
    return f"{lines} (dark line: {counted([reference.n])})" if any(groups.values()) else counted([reference.n])


def _title(panel: Panel, axis: str) -> str:
    return panel.spec.axis(axis).label if axis else ""


def _read(panel: Panel, lost: list[str]) -> tuple[Groups, Curve | None]:
    """The curves of each panel and the reference; what is said of cells without curves is added to ``lost``.

    Raises:
        ArrayError: the cells of a line have different ``x``, or differ in more than the seed.
    """
    figure = panel.figure
    dark = select(panel.points, figure.reference) if figure.reference else []
    shown = replace(panel, points=[point for point in panel.points if point not in dark])
    axes = (figure.panels, figure.by, figure.style)
    groups: Groups = {}
    for values in itertools.product(*(_texts(shown, axis).items() for axis in axes)):
        head, *key = (text for _, text in values)
        points = [
            point
            for point in shown.points
            if all(hashable(point.axes.get(axis)) == value for axis, (value, _) in zip(axes, values, strict=True))
        ]
        _refuse_mixture(points)
        curve = _curve(points, figure, lost)
        if curve:
            group = groups.setdefault(f"{_title(panel, figure.panels)} = {head}" if head else "", {})
            group[key[0], key[1]] = curve
    return groups, _curve(dark, figure, lost)


def _texts(panel: Panel, axis: str) -> dict[object, str]:
    """The values of an axis that occur, each with its text; without an axis there is one value without a text."""
    values = panel.values(axis)
    return dict(zip(map(hashable, values), ticks.texts(values), strict=True)) if values else {None: ""}


def _refuse_mixture(points: Sequence[Point]) -> None:
    """One line shows cells that differ in their seed alone, so one point."""
    done = [point for point in points if point.done]
    for axis in done[0].axes if len(done) > 1 else ():
        values = list(dict.fromkeys(axis_text(point.axes[axis]) for point in done))
        if len(values) > 1:
            ways = "name it in by, style or panels, or narrow it with where"
            raise ArrayError(f"one line would mix values of {axis} ({', '.join(values)}): {ways}")


def _curve(points: Sequence[Point], figure: Figure, lost: list[str]) -> Curve | None:
    """The points' curve of each seed: of several cells with one seed their mean."""
    name, x = figure.arrays["x"], np.empty(0)
    found: dict[object, list[Grid]] = {}
    for cell in (cell for point in points for cell in point.done):
        try:
            own, y = _arrays(cell, figure)
        except ArrayError as error:
            lost.append(f"{cell.name}: {error}")
            continue
        if found and not np.array_equal(own, x):
            raise ArrayError(f"{cell.name}: its {name} is not that of the other cells of its line")
        x = own
        found.setdefault(hashable(cell.axes.get(SEED)), []).append(y)
    return Curve(x, [mean_and_spread(ys)[0] for ys in found.values()]) if found else None


def _arrays(cell: Cell, figure: Figure) -> tuple[Grid, Grid]:
    """A cell's ``x`` and ``y``.

    Raises:
        ArrayError: one is missing or no row of numbers, they differ in length, or some ``x`` is not finite.
    """
    x, y = (numbers(load(cell, figure.arrays[end]), figure.arrays[end], 1) for end in ("x", "y"))
    if len(x) != len(y):
        raise ArrayError(f"{figure.arrays['x']} has {len(x)} values, {figure.arrays['y']} {len(y)}")
    if not np.isfinite(x).all():
        raise ArrayError(f"{figure.arrays['x']} has values that are not finite")
    return x, y
