"""A metric along one axis: lines over numbers, bars over words, with the deviation over seeds."""

from typing import Any

from matplotlib.axes import Axes

from capsexp.report.canvas import GREY, PALETTE, RULE, Drawn, blank, head, room, save
from capsexp.report.cells import Point, hashable, is_number
from capsexp.report.compare import axis_text
from capsexp.report.panels import Panel, hole

MARKERS = "osD^vPX"


def draw(panel: Panel) -> Drawn:
    """One line (or group of bars) for each value of the second axis, if there is one."""
    x, by = _axes(panel)
    lines_below = head(panel, 8.6)
    height = 5.2 + room(lines_below)
    canvas, up = blank(panel, 8.6, height, 0.04, lines_below), 5.2 / height
    axes = canvas.add_axes((0.1, 0.125 * up, 0.7 if by else 0.87, 0.7 * up))
    values = panel.values(x)
    series = panel.values(by) if by else [None]
    for place, value in enumerate(series):
        points = [point for point in panel.points if not by or hashable(point.axes.get(by)) == hashable(value)]
        label = f"{panel.spec.axis(by).label} = {axis_text(value)}" if by else ""
        _series(axes, panel, {hashable(p.axes.get(x)): p for p in points}, values, place, len(series), label)
    _dress(axes, panel, x, values)
    if by:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    note = _mark_holes(axes, panel, x, values)
    return save(canvas, panel, note)


def _axes(panel: Panel) -> tuple[str, str]:
    """The axis to go along, and the one that makes several lines; a surface with one long axis goes along that."""
    figure = panel.figure
    if figure.kind == "line":
        return figure.x, figure.by if len(panel.values(figure.by)) > 1 else ""
    return (figure.x if len(panel.values(figure.x)) > 1 else figure.y), ""


def _series(
    axes: Axes, panel: Panel, found: dict[object, Point], values: list[Any], place: int, of: int, label: str
) -> None:
    stats = [found[hashable(v)].stat(panel.figure.metric) if hashable(v) in found else None for v in values]
    drawn = [(x, s) for x, s in zip(_places(values), stats, strict=True) if s and s.n]
    means = [float(stat.mean or 0.0) for _, stat in drawn]
    spread = [float(stat.std or 0.0) for _, stat in drawn]
    error = spread if any(spread) else None
    colour = PALETTE[place % len(PALETTE)]
    if all(is_number(value) for value in values):
        axes.errorbar([x for x, _ in drawn], means, error, color=colour, marker=MARKERS[place % 7], capsize=3,
                      lw=1.6, markersize=5, label=label)  # fmt: skip
        return
    width = 0.7 / of
    centres = [x + (place - (of - 1) / 2) * width for x, _ in drawn]
    axes.bar(centres, means, width * 0.92, yerr=error, color=colour, capsize=3, label=label)


def _places(values: list[Any]) -> list[float]:
    numeric = all(is_number(value) for value in values)
    return [float(value) if numeric else float(place) for place, value in enumerate(values)]


def _dress(axes: Axes, panel: Panel, x: str, values: list[Any]) -> None:
    step = -(-len(values) // 16)
    axes.set_xticks(_places(values)[::step], [axis_text(value) for value in values[::step]])
    axes.set_xlabel(panel.spec.axis(x).title)
    axes.set_ylabel(panel.measure.title)
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)


def _mark_holes(axes: Axes, panel: Panel, x: str, values: list[Any]) -> str:
    """A grey line where a point has no value, named in the note."""
    metric = panel.figure.metric
    holes = [point for point in panel.points if not point.stat(metric).n]
    places = dict(zip(map(hashable, values), _places(values), strict=True))
    for at in sorted({places[hashable(point.axes.get(x))] for point in holes}):
        axes.axvline(at, color=GREY, linestyle=":", linewidth=1)
    names = ", ".join(f"{axis_text(point.axes.get(x))} ({hole(point, metric)})" for point in holes)
    return f"Dotted: no value at {names}." if holes else ""
