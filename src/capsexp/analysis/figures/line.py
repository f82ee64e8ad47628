"""The kind ``line``: a metric along one axis; lines over numbers, points over words, with the deviation over seeds."""

import math
import textwrap
from typing import Any, Literal

from matplotlib.axes import Axes
from pydantic import Field

from capsexp.analysis.cells import Point, Stat, hashable, is_number
from capsexp.analysis.conditions import axis_text
from capsexp.analysis.figures import ticks
from capsexp.analysis.figures.base import OverAxes
from capsexp.analysis.figures.style import GREY, PALETTE, RULE, SPREAD, Picture, blank, room, save, shares_end_at_one
from capsexp.analysis.measures import interval
from capsexp.analysis.panels import Panel, missing_text

MARKERS = "osD^vPX"

LEGEND_CHARACTERS, LABEL_CHARACTERS = 22, 14
"""The number of characters in a line beside the axes, and of one that has a line's sign before it."""


class Line(OverAxes):
    """Mean and deviation of a metric along one axis."""

    kind: Literal["line"] = "line"
    by: str = Field(default="", description="a second axis: one line for each of its values")


def draw(panel: Panel) -> tuple[Picture, str]:
    """One line (or row of points) for each value of the second axis, if there is one."""
    x, by = _axes(panel)
    values, series = panel.values(x), panel.values(by) if by else [None]
    wide = 6.0 if by else 7.4
    below = ticks.across(values, wide).inches
    lines_below = panel.caption.lines(8.6, *([_words(panel)] if _spread(panel) else []))
    height = 5.2 + room(lines_below) + below
    canvas = blank(panel.caption, 8.6, height, 0.04, lines_below)
    axes = canvas.add_axes((0.86 / 8.6, (0.65 + below) / height, wide / 8.6, 3.64 / height))
    for place, (value, text) in enumerate(zip(series, ticks.texts(series), strict=True)):
        points = [point for point in panel.points if not by or hashable(point.axes.get(by)) == hashable(value)]
        label = textwrap.fill(text, LABEL_CHARACTERS) if by else ""
        _series(axes, panel, {hashable(p.axes.get(x)): p for p in points}, values, place, len(series), label)
    _dress(axes, panel, x, values, wide)
    if by:
        title = textwrap.fill(panel.spec.axis(by).label, LEGEND_CHARACTERS)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, title=title, alignment="left")
    note = " ".join(part for part in (_mark_missing(axes, panel, x, values), _uneven(panel, x, values)) if part)
    return save(canvas, panel.caption, note), ""


def _spread(panel: Panel) -> bool:
    stats = [point.stat(panel.figure.metric) for point in panel.points]
    return any(stat.n if panel.measure.binary else stat.std for stat in stats)


def _words(panel: Panel) -> str:
    """The meaning of the bars."""
    return "share of cells, 95 % interval (Wilson)" if panel.measure.binary else SPREAD


def _axes(panel: Panel) -> tuple[str, str]:
    """The axis to go along, and the one that makes several lines; a grid with one long axis goes along that."""
    figure = panel.figure
    by = getattr(figure, "by", "")
    by = by if len(panel.values(by)) > 1 else ""
    return (figure.x if figure.kind == "line" or len(panel.values(figure.x)) > 1 else figure.y), by


def _series(
    axes: Axes, panel: Panel, found: dict[object, Point], values: list[Any], place: int, of: int, label: str
) -> None:
    stats = [found[hashable(v)].stat(panel.figure.metric) if hashable(v) in found else None for v in values]
    drawn = [(x, s) for x, s in zip(ticks.places(values), stats, strict=True) if s]
    # A line breaks where a value is missing.
    means = [math.nan if stat.mean is None else float(stat.mean) for _, stat in drawn]
    spread = [_spread_of(panel, stat) for _, stat in drawn]
    words = not all(is_number(value) for value in values)
    aside = (place - (of - 1) / 2) * min(0.12, 0.6 / of) if words else 0.0
    look = {"linestyle": "none", "markersize": 7} if words else {"linewidth": 1.6, "markersize": 5}
    made = axes.errorbar(
        [x + aside for x, _ in drawn], means, _bars(spread), color=PALETTE[place % len(PALETTE)],
        marker=MARKERS[place % len(MARKERS)], capsize=3, label=label, **look,
    )  # fmt: skip
    made[0].set_clip_on(False)  # a marker on the edge is whole


def _spread_of(panel: Panel, stat: Stat) -> tuple[float, float]:
    """How far a mean's bar reaches down and up: one deviation, or to the ends of the interval of a share."""
    if panel.measure.binary and stat.mean is not None:
        low, high = interval(list(stat.values.values()))
        return max(0.0, stat.mean - low), max(0.0, high - stat.mean)
    return float(stat.std or 0.0), float(stat.std or 0.0)


def _bars(spread: list[tuple[float, float]]) -> list[list[float]] | None:
    return [[low for low, _ in spread], [high for _, high in spread]] if any(map(any, spread)) else None


def _dress(axes: Axes, panel: Panel, x: str, values: list[Any], wide: float) -> None:
    shown, at = ticks.across(values, wide), ticks.places(values)
    if ticks.scale(values) == "log":
        axes.set_xscale("log")
        axes.set_xticks([], minor=True)
    axes.set_xticks(at[:: shown.step], shown.texts, **shown.look)
    if not all(is_number(value) for value in values):
        axes.set_xlim(-0.5, len(values) - 0.5)  # words have no distances: half a step of room at both ends
    elif ticks.scale(values) != "log":
        margin = 0.05 * (at[-1] - at[0])  # missing values at the ends too
        axes.set_xlim(at[0] - margin, at[-1] + margin)
    axes.set_xlabel(panel.spec.axis(x).title)
    axes.set_ylabel(panel.measure.title)
    means = (point.stat(panel.figure.metric).mean for point in panel.points)
    shares_end_at_one(axes, [panel.measure], max((mean for mean in means if mean is not None), default=math.inf))
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)


def _uneven(panel: Panel, x: str, values: list[Any]) -> str:
    """What must be said where numbers do not stand at their distances."""
    label, scale = panel.spec.axis(x).label, ticks.scale(values)
    if not all(is_number(value) for value in values) or scale == "linear":
        return ""
    return f"Logarithmic in {label}." if scale == "log" else f"The values of {label} stand in even steps, not to scale."


def _mark_missing(axes: Axes, panel: Panel, x: str, values: list[Any]) -> str:
    """A grey line where a point has no value, named in the note."""
    metric = panel.figure.metric
    missing = [point for point in panel.points if not point.stat(metric).n]
    places = dict(zip(map(hashable, values), ticks.places(values), strict=True))
    for at in sorted({places[hashable(point.axes.get(x))] for point in missing}):
        axes.axvline(at, color=GREY, linestyle=":", linewidth=1)
    return f"Dotted: no value at {', '.join(_named(panel, x, missing))}." if missing else ""


def _named(panel: Panel, x: str, missing: list[Point]) -> list[str]:
    """Each place without a value and why; also in which lines, where not all of them lack one there."""
    metric, by = panel.figure.metric, _axes(panel)[1]
    named: dict[str, None] = {}
    for point in missing:
        place = hashable(point.axes.get(x))
        points = [p for p in panel.points if hashable(p.axes.get(x)) == place]
        every = {missing_text(p, metric) for p in points if not p.stat(metric).n}
        alone = len(every) > 1 or any(p.stat(metric).n for p in points)
        line = f"{panel.spec.axis(by).label} = {axis_text(point.axes.get(by))}: " if by and alone else ""
        named[f"{axis_text(point.axes.get(x))} ({line}{missing_text(point, metric)})"] = None
    return list(named)
