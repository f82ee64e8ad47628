"""The kind ``series``: one array of each cell against another, such as accuracy against parameters."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullLocator
from pydantic import Field, model_validator

from capsexp.analysis.arrays import ArrayError, load, numbers
from capsexp.analysis.cells import SEED, Cell, Point, hashable
from capsexp.analysis.conditions import Condition, axis_text, select
from capsexp.analysis.figures import ticks
from capsexp.analysis.figures.base import Labelled
from capsexp.analysis.figures.epochs import Layout, mean_and_spread
from capsexp.analysis.figures.legend import DARK, Legend, LegendTitles, beside, tall, wrapped, write_legend
from capsexp.analysis.figures.style import (
    GREY,
    RULE,
    SPREAD,
    Caption,
    Grid,
    Picture,
    blank,
    counted,
    room,
    save,
    style,
)
from capsexp.analysis.panels import Panel
from capsexp.analysis.validation import Conditions
from capsexp.errors import require


class Series(Labelled):
    """One array of each cell against another, as mean and deviation over the seeds at each of its steps.

    The cells of a line must have the same ``x``.  Where that is largest at the first step, it falls from left to right.
    The reference is a mean too: of the cells that differ in ``by``, ``style`` or ``panels``, then over the seeds.
    """

    AXES: ClassVar[tuple[str, ...]] = ("by", "style", "panels")

    kind: Literal["series"] = "series"
    x: str = Field(description="an array of one dimension")
    y: str = Field(description="another array, as long")
    by: str = Field(default="", description="an axis: a colour and a marker for each of its values")
    style: str = Field(default="", description="another axis: a line style for each of its values")
    panels: str = Field(default="", description="another axis: a panel for each of its values, side by side")
    reference: Conditions | None = Field(
        default=None, description="conditions, as where: these cells are one dark line in every panel, and no other"
    )
    reference_label: str = Field(default="", description="the name of the dark line")
    y_scale: Literal["linear", "log"] = Field(
        default="linear", description="log: a logarithmic axis; means are geometric, and values of 0 are left out"
    )

    @model_validator(mode="after")
    def _check(self) -> "Series":
        named, label = self.reference is not None, self.reference_label
        require(not named or bool(label), "reference_label", "be given with reference", label or None)
        require(named or not label, "reference", "be given with reference_label", None)
        require(self.reference != {}, "reference", "name an axis", {})
        used: list[str] = []
        for key in self.AXES:
            axis = getattr(self, key)
            require(not axis or axis not in used, key, "be another axis", axis)
            used.append(axis)
        return self

    @property
    def shown_axes(self) -> set[str]:
        """The axes whose values stand side by side in one picture, those of the reference included."""
        return {*super().shown_axes, *(self.reference or {})}

    @property
    def conditions(self) -> dict[str, Condition]:
        """All conditions that name axes."""
        return {**self.where, **(self.reference or {})}


THOUSANDS = 1e4
"""From which number on an axis says 12k."""


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
        x: where its steps are, in their order.
        ys: a value for each step, of each seed; NaN where there is none.
    """

    x: Grid
    ys: Sequence[Grid]

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.ys)


@style()
def draw_series(
    groups: Mapping[str, Mapping[tuple[str, str], Curve]],
    caption: Caption,
    titles: LegendTitles,
    *,
    reference: Curve | None = None,
    x_label: str = "",
    y_label: str = "",
    log: bool = False,
) -> Picture:
    """A panel for each group, side by side on the same axes: means, with a band of one deviation around them.

    Args:
        groups: by the words above a panel: its curves, by their words for colour and line style (empty: all alike).
        caption: the text around them.
        titles: what stands in the legend beside its entries.
        reference: drawn in every panel, dark and without markers.
        x_label: below the panels; the numbers fall from left to right if every curve's first is its largest.
        y_label: beside the panels.
        log: True draws the values as powers of ten: their means are geometric, and bands are those of the logarithms.
    """
    shown = groups or {"": {}}
    curves = [*(curve for group in shown.values() for curve in group.values()), *([reference] if reference else [])]
    legend = Legend(*(list(dict.fromkeys(pair[i] for group in shown.values() for pair in group)) for i in range(2)))
    parts = [wrapped(*part) for part in legend.parts(titles)]
    layout = Layout(len(shown), 0.36 if any(shown) else 0.06, beside(parts))
    width = max(6.4, layout.right + layout.beside)
    lines = caption.lines(width, *([SPREAD] if any(curve.n > 1 for curve in curves) else []))
    top = 0.78 + room(lines)
    height = top + max(layout.height, layout.above + sum(map(tall, parts)))
    canvas = blank(caption, width, height, 0.3 / width, lines)
    first: Axes | None = None
    for place, (head, group) in enumerate(shown.items()):
        left, down = layout.corner(place)
        box = (left / width, (height - top - down) / height, layout.size[0] / width, layout.size[1] / height)
        axes = canvas.add_axes(box, sharex=first, sharey=first)
        _draw_panel(axes, group, legend, reference, log)
        axes.set_title(head, fontsize=9.5, color=GREY, pad=6)
        outer = place % layout.columns == 0
        axes.tick_params(labelleft=outer)
        axes.set_ylabel(y_label if outer else "")
        axes.set_xlabel(x_label if place + layout.columns >= len(shown) else "")
        first = first or axes
    if first:
        _dress(first, [curve.x for curve in curves])
        if log:
            first.set_yscale("log")
            first.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
            first.yaxis.set_minor_locator(NullLocator())
    write_legend(canvas, parts, (layout.right + 0.1, height - top - layout.above))
    geometric = "Means are geometric; a value of 0 is left out." if log else ""
    return save(canvas, caption, " ".join(text for text in (bands_note(curves), geometric) if text))


def falls(x: Grid) -> bool:
    """True if a walk begins at its largest number, and so goes down."""
    return bool(x[0] == x.max() > x.min())


def bands_note(curves: Sequence[Curve]) -> str:
    """The meaning of the bands; empty where each line is of a single seed."""
    sizes = {curve.n for curve in curves}
    if sizes <= {1}:
        return ""
    return f"Bands: ± one sample standard deviation, {counted(sizes - {1})}{', where n > 1' if 1 in sizes else ''}."


def _draw_panel(
    axes: Axes, group: Mapping[tuple[str, str], Curve], legend: Legend, reference: Curve | None, log: bool
) -> None:
    drawn = [(curve, legend.of(*pair)) for pair, curve in group.items()]
    for curve, look in [*drawn, *([(reference, DARK)] if reference else [])]:
        mean, spread = mean_and_spread([_logarithms(y) for y in curve.ys] if log else curve.ys)
        low, high = mean - spread, mean + spread
        if log:
            mean, low, high = 10**mean, 10**low, 10**high
        axes.plot(curve.x, mean, **look)
        axes.fill_between(curve.x, low, high, color=look["color"], alpha=0.15, linewidth=0)
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)


def _logarithms(values: Grid) -> Grid:
    """To the base of ten, NaN for what is not above 0."""
    return np.log10(np.where(values > 0, values, np.nan))


def _dress(axes: Axes, xs: Sequence[Grid]) -> None:
    """The common axis: which way its numbers go, how many there are, and how large ones are written."""
    if all(map(falls, xs)):
        axes.invert_xaxis()
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    if max(float(np.abs(x).max()) for x in xs) >= THOUSANDS:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


# -- the numbers -----------------------------------------------------------------------------------------------------

Groups = dict[str, dict[tuple[str, str], Curve]]
"""By the words above a panel, and the words of colour and line style."""


def draw(panel: Panel) -> tuple[Picture | None, str]:
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
    caption = replace(panel.caption, parts=(*panel.caption.parts, _sizes(groups, reference)))
    titles = LegendTitles(_title(panel, figure.by), _title(panel, figure.style), figure.reference_label)
    texts = {"x_label": figure.x_label or figure.x, "y_label": figure.y_label or figure.y}
    log = figure.y_scale == "log"
    return draw_series(groups, caption, titles, reference=reference, log=log, **texts), problem


def _sizes(groups: Groups, reference: Curve | None) -> str:
    """Numbers of trainings of the lines; that of the reference where it is another."""
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
    for values in itertools.product(*(_of_axis(shown, axis).items() for axis in axes)):
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


def _of_axis(panel: Panel, axis: str) -> dict[object, str]:
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


def _curve(points: Sequence[Point], figure: Series, lost: list[str]) -> Curve | None:
    """The points' curve of each seed: of several cells with one seed their mean."""
    name, x = figure.x, np.empty(0)
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


def _arrays(cell: Cell, figure: Series) -> tuple[Grid, Grid]:
    """A cell's ``x`` and ``y``.

    Raises:
        ArrayError: one is missing or no row of numbers, they differ in length, or some ``x`` is not finite.
    """
    x, y = (numbers(load(cell, name), name, 1) for name in (figure.x, figure.y))
    if len(x) != len(y):
        raise ArrayError(f"{figure.x} has {len(x)} values, {figure.y} {len(y)}")
    if not np.isfinite(x).all():
        raise ArrayError(f"{figure.x} has values that are not finite")
    return x, y
