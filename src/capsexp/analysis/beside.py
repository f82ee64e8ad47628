"""The surfaces of a sweep beside those of another: which belong together, and what limits the comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from capsexp.analysis.cells import PROTOCOL, Point, Protocol, hashable
from capsexp.analysis.figures.side_by_side import Along, Side, draw_beside
from capsexp.analysis.figures.style import Caption, Grid, Picture, counted
from capsexp.analysis.figures.surface import Surface
from capsexp.analysis.panels import Panel, origin, panels
from capsexp.analysis.results import ReportError, Results
from capsexp.analysis.spec import Spec

PARTS = {
    **{"data": "data set", "sha256": "data file (sha256)", "test_split": "test split", "generated": "generated data"},
    "select_on": "choice of the model",
}
"""The page's name for a part of the protocol."""
OF_DATA = ("sha256", "test_split", "generated")
"""Parts of which nothing more need be said where the data differ."""


@dataclass(frozen=True)
class Beside:
    """The section of the page on another sweep.

    Attributes:
        other: that sweep.
        name: what it is called here.
        title: the title of its own report, if it has one.
        pictures: the surfaces of both.
        flags: what must be known before comparing, and a line for each picture that could not be drawn.
    """

    other: Results
    name: str
    title: str
    pictures: list[Picture]
    flags: list[str]


def beside(spec: Spec, results: Results, other: Results) -> Beside:
    """Every surface of the block whose axes the other sweep has too.

    Raises:
        ReportError: there is none, or the block has no surface.
    """
    surfaces = [figure for figure in spec.figures or [] if isinstance(figure, Surface)]
    if not surfaces:
        raise ReportError(f"the report block of {results.sweep.name} asks for no surface, and --beside shows surfaces")
    shared = [figure for figure in surfaces if {figure.x, figure.y} <= results.axes.keys() & other.axes.keys()]
    if not shared:
        axes = ", ".join(other.axes) or "nothing"
        raise ReportError(f"no surface of {results.sweep.name} can stand beside {other.sweep.name}, which swept {axes}")
    names = _names(results.sweep.name, other.sweep.name)
    pictures, flags = draw_maps(shared, spec, (results, other), names)
    return Beside(other, names[1], str((other.sweep.report or {}).get("title") or ""), pictures, flags)


def draw_maps(
    figures: Sequence[Surface], spec: Spec, sweeps: tuple[Results, Results], names: tuple[str, str]
) -> tuple[list[Picture], list[str]]:
    """Both sweeps' values of each figure, and their difference.

    Returns:
        The pictures, and what must be known before comparing, with a line for each picture that could not be drawn.
    """
    pictures: list[Picture] = []
    flags: dict[str, None] = {}
    for figure in figures:
        pairs, problems = _pairs(figure, spec, *sweeps)
        flags |= dict.fromkeys(f"{problem} ({names[1]})" for problem in problems)
        for mine, theirs in pairs:
            made, said = _draw(mine, theirs, names)
            pictures += [made] if made else []
            flags |= dict.fromkeys(said)
    return pictures, list(flags)


def _names(mine: str, theirs: str) -> tuple[str, str]:
    return (mine, theirs) if mine != theirs else (f"{mine} (here)", f"{theirs} (there)")


def _pairs(
    figure: Surface, spec: Spec, results: Results, other: Results
) -> tuple[list[tuple[Panel, Panel]], list[str]]:
    """The pictures that both sweeps have, and what is said of those that the other one lacks.

    One picture each is a pair; of several those are that agree in the axes which the figure does not name.
    """
    mine, _ = panels(figure, spec, results)  # what it says stands on the page already
    theirs, problem = panels(figure, spec, other)
    if len(mine) == len(theirs) == 1:
        return [(mine[0], theirs[0])], []
    found = {panel.others: panel for panel in theirs}
    alone = [panel for panel in mine if panel.others not in found] if theirs else []
    problems = [*([problem] if problem else []), *(f"{_called(panel)}: not in the other sweep" for panel in alone)]
    return [(panel, found[panel.others]) for panel in mine if panel.others in found], problems


def _called(panel: Panel) -> str:
    return ", ".join([panel.figure.name, *panel.others])


def _draw(mine: Panel, theirs: Panel, names: tuple[str, str]) -> tuple[Picture | None, list[str]]:
    """The maps of the values that both have, and what must be known of them."""
    figure = mine.figure
    x, y = (_along(axis, mine, theirs) for axis in (figure.x, figure.y))
    points = [_points(panel, x, y) for panel in (mine, theirs)]
    if not points[0].keys() & points[1].keys():
        return None, [f"{_called(mine)}: no point that both sweeps have"]
    left, right = (Side(name, _grid(found, figure, x, y)) for name, found in zip(names, points, strict=True))
    partial = theirs.results.partial and f"{names[1]} {theirs.results.partial}"
    origins = [f"{name}: {_origin(found, figure)}" for name, found in zip(names, points, strict=True)]
    caption = Caption(
        f"{figure.name}{mine.suffix}_beside",
        f"{figure.title}, beside {names[1]}",
        (mine.results.partial, partial, *mine.others, *origins),
        _left_out([mine, theirs], points, names),
    )
    drawn = draw_beside(left, right, caption, x, y, value_label=mine.measure.title, digits=mine.measure.digits)
    return drawn, protocol_differences(_protocols(points[0]), _protocols(points[1]), names)


# -- what both have ---------------------------------------------------------------------------------------------------

PointsAt = dict[tuple[object, object], Point]
"""The points with a value, by those of the axes."""


def _along(axis: str, mine: Panel, theirs: Panel) -> Along:
    """The values of an axis that occur in both pictures."""
    there = {hashable(value) for value in theirs.values(axis)}
    measure = mine.spec.axis(axis)
    return Along([value for value in mine.values(axis) if hashable(value) in there], measure.label, measure.title)


def _points(panel: Panel, x: Along, y: Along) -> PointsAt:
    """The picture's points with a value that lie in the maps."""
    across, upright = ({hashable(value) for value in along.values} for along in (x, y))
    found = {(_at(point, panel.figure.x), _at(point, panel.figure.y)): point for point in _valued(panel)}
    return {place: point for place, point in found.items() if place[0] in across and place[1] in upright}


def _valued(panel: Panel) -> list[Point]:
    return [point for point in panel.points if point.stat(panel.figure.metric).n]


def _at(point: Point, axis: str) -> object:
    return hashable(point.axes.get(axis))


def _grid(found: PointsAt, figure: Surface, x: Along, y: Along) -> Grid:
    """Means as [y, x]."""
    places = [[(hashable(across), hashable(up)) for across in x.values] for up in y.values]
    means = [[found[place].stat(figure.metric).mean if place in found else None for place in row] for row in places]
    return np.array(means, dtype=np.float64)  # None becomes NaN


def _left_out(pictures: Sequence[Panel], points: Sequence[PointsAt], names: Sequence[str]) -> str:
    """How many values stand in no map, since the other sweep has no such row or column."""
    lost = [len(_valued(panel)) - len(kept) for panel, kept in zip(pictures, points, strict=True)]
    said = [f"{count} of {name}" for count, name in zip(lost, names, strict=True) if count]
    return f"Not shown, since the other sweep has no such row or column: {', '.join(said)}." if said else ""


# -- where it comes from ----------------------------------------------------------------------------------------------


def _protocols(found: PointsAt) -> list[Protocol]:
    return sorted({point.protocol for point in found.values() if point.protocol}, key=repr)


def _origin(found: PointsAt, figure: Surface) -> str:
    n = counted(point.stat(figure.metric).n for point in found.values())
    return f"{origin(_protocols(found))}, {n}"


def protocol_differences(mine: Sequence[Protocol], theirs: Sequence[Protocol], names: Sequence[str]) -> list[str]:
    """A line for each part of the protocol in which two sweeps differ; of two data sets only that they are two."""
    lines: list[str] = []
    for part in PROTOCOL:
        values = [" / ".join(sorted({str(getattr(each, part)) for each in side})) for side in (mine, theirs)]
        if values[0] != values[1] and not (lines and part in OF_DATA):
            said = ", ".join(f"{value} in {name}" for value, name in zip(values, names, strict=True))
            lines.append(f"Not the same {PARTS[part]}: {said}.")
    return lines
