"""The kind ``epochs``: metrics of every epoch, as mean and deviation over the trainings that differ in their seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pydantic import AfterValidator, Field

from capsexp.analysis.arrays import ArrayError
from capsexp.analysis.cells import Cell
from capsexp.analysis.figures.base import MOST, Labelled
from capsexp.analysis.figures.style import (
    GREY,
    PALETTE,
    RULE,
    SPREAD,
    Caption,
    Grid,
    Picture,
    blank,
    counted,
    room,
    save,
    shares_end_at_one,
    style,
)
from capsexp.analysis.history import read_history
from capsexp.analysis.measures import Measure
from capsexp.analysis.panels import Panel
from capsexp.errors import require

LINES = ("-", "--", "-.", ":")
COLUMNS = 4
"""Panels side by side at most."""
LEFT, GAP = 0.85, 0.25
"""Inches left of the first panel, and between two."""

Curves = Mapping[str, Sequence[Grid]]
"""By the name of a metric: its values epoch by epoch, of each training."""


def _few(metrics: list[str]) -> list[str]:
    require(1 <= len(set(metrics)) == len(metrics) <= MOST, "", f"be 1 to {MOST} different metrics", metrics)
    return metrics


class Epochs(Labelled):
    """Columns of ``metrics.csv``; a metric that a training did not record is left out and said."""

    kind: Literal["epochs"] = "epochs"
    metrics: Annotated[list[str], AfterValidator(_few)] = Field(description="1 to 4 metrics, such as val/acc")
    by: str = Field(default="", description="an axis: a panel for each of its values, side by side")


def draw(panel: Panel) -> tuple[Picture | None, str]:
    """The learning curves of the sweep's cells, and what is to be said of cells that have none."""
    figure = panel.figure
    measures = [panel.spec.measure(metric) for metric in figure.metrics]
    groups, problem, read = _read(panel, measures)
    if not groups:
        return None, problem
    n = counted(len(curves) for found in groups.values() for curves in found.values())
    note = " ".join(text for text in (missing_note(groups, read), figure.note) if text)
    caption = replace(panel.caption, parts=(*panel.caption.parts, n), note=note)
    texts = {"x_label": figure.x_label or "epoch", "y_label": figure.y_label or shared_label(measures)}
    return draw_curves(groups, caption, **texts, measures=measures), problem


def _read(panel: Panel, measures: Sequence[Measure]) -> tuple[dict[str, dict[str, list[Grid]]], str, int]:
    """The curves of each group, a line on cells that have none at all, and the number of those that have any."""
    figure, lost, read = panel.figure, [], 0
    groups: dict[str, dict[str, list[Grid]]] = {}
    for head, cells in _groups(panel):
        found: dict[str, list[Grid]] = {measure.label: [] for measure in measures}
        for cell in cells:
            try:
                history = read_history(cell.directory, figure.metrics)
            except ArrayError as error:
                lost.append(f"{figure.name}: {cell.name}: {error}")
                continue
            read += 1
            for measure in measures:
                found[measure.label] += [history[measure.key]] if measure.key in history else []
        if any(found.values()):
            groups[head] = found
    more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
    return groups, lost[0] + more if lost else "", read


def _groups(panel: Panel) -> list[tuple[str, list[Cell]]]:
    by = panel.figure.by
    groups = panel.split(by if len(panel.values(by)) > 1 else "")
    return [(head, [cell for point in points for cell in point.done]) for head, points in groups]


def shared_label(measures: Sequence[Measure]) -> str:
    """The label that all metrics share: of training and validation accuracy (share), ``accuracy (share)``."""
    if len({measure.unit for measure in measures}) > 1:
        return ""
    words = [measure.label.split() for measure in measures]
    shared = [each[0] for each in zip(*map(reversed, words), strict=False) if len(set(each)) == 1]  # from the end
    return Measure("", " ".join(reversed(shared)), measures[0].unit).title if shared else measures[0].unit


# -- the numbers ------------------------------------------------------------------------------------------------------


def mean_and_spread(curves: Sequence[Grid]) -> tuple[Grid, Grid]:
    """Mean and sample standard deviation at each epoch, over the curves that have a value there.

    NaN stands for the mean of none and the deviation of fewer than two.
    """
    longest = max(map(len, curves))
    table = np.full((len(curves), longest), np.nan)
    for row, curve in zip(table, curves, strict=True):
        row[: len(curve)] = curve
    finite = np.isfinite(table)
    count = finite.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(finite, table, 0.0).sum(axis=0) / count
        squares = np.where(finite, (table - mean) ** 2, 0.0).sum(axis=0)
        return mean, np.where(count > 1, np.sqrt(squares / (count - 1)), np.nan)


def lengths_note(curves: Sequence[Grid]) -> str:
    """A note where trainings ended after different numbers of epochs."""
    shortest, longest = min(map(len, curves)), max(map(len, curves))
    if shortest == longest:
        return ""
    return f"The trainings ended after {shortest} to {longest} epochs; each mean is of those that still ran."


def missing_note(groups: Mapping[str, Curves], trainings: int) -> str:
    """The metrics that some trainings do not have, as a network without a layer records nothing of it."""
    counts: dict[str, int] = {}
    for curves in groups.values():
        for name, each in curves.items():
            counts[name] = counts.get(name, 0) + len(each)
    lacking = {name: trainings - count for name, count in counts.items() if count < trainings}
    return " ".join(f"Not recorded in {lost} of {trainings} trainings: {name}." for name, lost in lacking.items())


# -- drawing them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Inches: of one panel, above it, from one row of panels to the next, and of the names beside all of them."""

    panels: int
    above: float
    beside: float

    @property
    def columns(self) -> int:
        """Panels side by side."""
        return self.panels if self.panels <= COLUMNS else 3 if self.panels <= 6 else COLUMNS

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of a panel."""
        return (6.2, 3.6) if self.columns == 1 else (4.3, 3.2) if self.columns == 2 else (3.1, 2.7)

    @property
    def right(self) -> float:
        """The end of the last panel, from the left."""
        return LEFT + self.columns * (self.size[0] + GAP) - GAP

    @property
    def pitch(self) -> float:
        """From the top of a panel to that of the one below."""
        return self.size[1] + self.above + 0.3

    @property
    def height(self) -> float:
        """Of all panels with their texts."""
        return -(-self.panels // self.columns) * self.pitch + 0.3

    def corner(self, place: int) -> tuple[float, float]:
        """Lower left corner of a panel, from the upper left corner of all panels."""
        row, column = divmod(place, self.columns)
        return LEFT + column * (self.size[0] + GAP), row * self.pitch + self.above + self.size[1]


@style()
def draw_curves(
    groups: Mapping[str, Curves],
    caption: Caption,
    *,
    y_label: str = "",
    x_label: str = "epoch",
    measures: Sequence[Measure] = (),
) -> Picture:
    """A panel for each group, side by side with one y axis: one line per metric, its mean with a band around it.

    Args:
        groups: by the words above a panel: its curves, each beginning with epoch 1.
        caption: the text around them.
        y_label: beside the values.
        x_label: below the epochs.
        measures: the metrics; an axis of shares alone ends at 1.
    """
    names = list(dict.fromkeys(name for curves in groups.values() for name in curves))
    beside = 0.65 + 0.085 * max(map(len, names)) if len(names) > 1 else 0.3
    layout = Layout(len(groups), 0.36 if any(groups) else 0.06, beside)
    width = max(6.4, layout.right + beside)
    each = [curves for group in groups.values() for curves in group.values()]
    lines = caption.lines(width, *([SPREAD] if any(len(curves) > 1 for curves in each) else []))
    top = 0.78 + room(lines)
    height = top + layout.height
    canvas = blank(caption, width, height, 0.3 / width, lines)
    first: Axes | None = None
    for place, (head, curves) in enumerate(groups.items()):
        left, down = layout.corner(place)
        box = (left / width, (height - top - down) / height, layout.size[0] / width, layout.size[1] / height)
        axes = canvas.add_axes(box, sharex=first, sharey=first)
        _draw_panel(axes, curves, names)
        axes.set_title(head, fontsize=9.5, color=GREY, pad=6)
        outer = place % layout.columns == 0
        axes.tick_params(labelleft=outer)
        axes.set_ylabel(y_label if outer else "")
        axes.set_xlabel(x_label if place + layout.columns >= len(groups) else "")
        first = first or axes
    if first is not None and measures:
        highest = max(
            (float(value) for curves in each for line in curves for value in line if value < math.inf), default=0
        )
        shares_end_at_one(first, measures, highest)
    if first is not None and len(names) > 1:
        anchor = ((layout.right + 0.1) / width, (height - top - layout.above) / height)
        canvas.legend(*_keys(names), loc="upper left", bbox_to_anchor=anchor, frameon=False, borderaxespad=0)
    return save(canvas, caption, lengths_note([curve for curves in each for curve in curves]))


def _look(place: int) -> dict[str, Any]:
    return {"color": PALETTE[place % len(PALETTE)], "linestyle": LINES[place % len(LINES)], "linewidth": 1.6}


def _keys(names: Sequence[str]) -> tuple[list[Line2D], Sequence[str]]:
    return [Line2D([], [], **_look(place)) for place in range(len(names))], names


def _draw_panel(axes: Axes, curves: Curves, names: Sequence[str]) -> None:
    for name, each in curves.items():
        if not each:
            continue
        mean, spread = mean_and_spread(each)
        epochs, look = np.arange(1, len(mean) + 1), _look(names.index(name))
        axes.plot(epochs, mean, marker="o" if len(mean) < 3 else "", markersize=4, **look)
        axes.fill_between(epochs, mean - spread, mean + spread, color=look["color"], alpha=0.2, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
