"""Curves side by side: a panel a group, a colour and marker a first key, a line style a second one, and a reference."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from capsexp.analysis.captions import SPREAD, Words, counted
from capsexp.analysis.curves import LINES, Layout, mean_and_spread
from capsexp.analysis.lines import LEGEND_CHARACTERS, MARKERS
from capsexp.analysis.style import GREY, INK, PALETTE, RULE, Drawn, Grid, blank, room, save, style

COLOURS = PALETTE[:-1]
"""The last is black, and the dark line is the reference's."""
DARK: dict[str, Any] = {"color": INK, "linestyle": "-", "linewidth": 2.2}
THOUSANDS = 1e4
"""From which number on an axis says 12k."""
LINE, MORE, APART = 0.21, 0.16, 0.14
"""Inches of an entry of the legend, of each further line of its text, and between two parts."""


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


@dataclass(frozen=True)
class Keys:
    """What the legend says above the colours, above the line styles, and of the reference."""

    colours: str = ""
    styles: str = ""
    reference: str = ""


@dataclass(frozen=True)
class Looks:
    """The words that have a colour, and those that have a line style, in order."""

    colours: list[str]
    styles: list[str]

    def of(self, colour: str, dash: str) -> dict[str, Any]:
        """How a line is drawn."""
        return _coloured(self.colours.index(colour)) | _dashed(self.styles.index(dash)) | {"linewidth": 1.6}

    def legend(self, keys: Keys) -> list[tuple[str, dict[str, dict[str, Any]]]]:
        """The parts of the legend: what stands above each, and the look of each of its words."""
        plain = _coloured(0) | ({"color": GREY} if any(self.colours) else {})
        line = {"linestyle": "none" if any(self.styles) else "-"}
        colours = {text: _coloured(place) | line for place, text in enumerate(self.colours)}
        styles = {text: plain | _dashed(place) for place, text in enumerate(self.styles)}
        parts = [(keys.colours, colours), (keys.styles, styles), ("", {keys.reference: DARK})]
        return [(head, entries) for head, entries in parts if any(entries)]


def _coloured(place: int) -> dict[str, Any]:
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)], "markersize": 4}


def _dashed(place: int) -> dict[str, Any]:
    """All styles but the first have hollow markers too, since dashes hide where these are close."""
    return {"linestyle": LINES[place % len(LINES)], **({"markerfacecolor": "white"} if place else {})}


@style()
def draw_series(
    groups: Mapping[str, Mapping[tuple[str, str], Curve]],
    words: Words,
    keys: Keys,
    *,
    reference: Curve | None = None,
    x_label: str = "",
    y_label: str = "",
) -> Drawn:
    """A panel for each group, side by side on the same axes: means, with a band of one deviation around them.

    Args:
        groups: by the words above a panel: its curves, by their words for colour and line style (empty: all alike).
        words: what is said around them.
        keys: what the legend says.
        reference: drawn in every panel, dark and without markers.
        x_label: below the panels; the numbers fall from left to right if every curve's first is its largest.
        y_label: beside the panels.
    """
    shown = groups or {"": {}}
    curves = [*(curve for group in shown.values() for curve in group.values()), *([reference] if reference else [])]
    looks = Looks(*(list(dict.fromkeys(pair[i] for group in shown.values() for pair in group)) for i in range(2)))
    legend = [_wrapped(*part) for part in looks.legend(keys)]
    layout = Layout(len(shown), 0.36 if any(shown) else 0.06, _beside(legend))
    width = max(6.4, layout.right + layout.beside)
    lines = words.lines(width, *([SPREAD] if any(curve.n > 1 for curve in curves) else []))
    top = 0.78 + room(lines)
    height = top + max(layout.height, layout.above + sum(map(_tall, legend)))
    canvas = blank(words, width, height, 0.3 / width, lines)
    first: Axes | None = None
    for place, (head, group) in enumerate(shown.items()):
        left, down = layout.corner(place)
        box = (left / width, (height - top - down) / height, layout.size[0] / width, layout.size[1] / height)
        axes = canvas.add_axes(box, sharex=first, sharey=first)
        _draw_panel(axes, group, looks, reference)
        axes.set_title(head, fontsize=9.5, color=GREY, pad=6)
        outer = place % layout.columns == 0
        axes.tick_params(labelleft=outer)
        axes.set_ylabel(y_label if outer else "")
        axes.set_xlabel(x_label if place + layout.columns >= len(shown) else "")
        first = first or axes
    if first:
        _dress(first, [curve.x for curve in curves])
    _write_legend(canvas, legend, (layout.right + 0.1, height - top - layout.above))
    return save(canvas, words, bands_note(curves))


def falls(x: Grid) -> bool:
    """Whether a walk begins at its largest number, and so goes down."""
    return bool(x[0] == x.max() > x.min())


def bands_note(curves: Sequence[Curve]) -> str:
    """What the bands are; empty where a single seed stands behind each line."""
    sizes = {curve.n for curve in curves}
    if sizes <= {1}:
        return ""
    return f"Bands: ± one sample standard deviation, {counted(sizes - {1})}{', where n > 1' if 1 in sizes else ''}."


def _draw_panel(axes: Axes, group: Mapping[tuple[str, str], Curve], looks: Looks, reference: Curve | None) -> None:
    drawn = [(curve, looks.of(*pair)) for pair, curve in group.items()]
    for curve, look in [*drawn, *([(reference, DARK)] if reference else [])]:
        mean, spread = mean_and_spread(curve.ys)
        axes.plot(curve.x, mean, **look)
        axes.fill_between(curve.x, mean - spread, mean + spread, color=look["color"], alpha=0.15, linewidth=0)
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)


def _dress(axes: Axes, xs: Sequence[Grid]) -> None:
    """The common axis: which way its numbers go, how many there are, and how large ones are written."""
    if all(map(falls, xs)):
        axes.invert_xaxis()
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    if max(float(np.abs(x).max()) for x in xs) >= THOUSANDS:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


# -- the legend -------------------------------------------------------------------------------------------------------

Part = tuple[str, dict[str, dict[str, Any]]]


def _wrapped(head: str, entries: Mapping[str, dict[str, Any]]) -> Part:
    return _fill(head), {_fill(text): look for text, look in entries.items()}


def _fill(text: str) -> str:
    return textwrap.fill(text, LEGEND_CHARACTERS)


def _texts(legend: Iterable[Part]) -> list[str]:
    return [text for head, entries in legend for text in (head, *entries)]


def _beside(legend: Sequence[Part]) -> float:
    """Inches that the legend takes right of the panels."""
    longest = max((len(line) for text in _texts(legend) for line in text.split("\n")), default=0)
    return 0.75 + 0.085 * longest if longest else 0.3


def _tall(part: Part) -> float:
    """Inches of a part of the legend."""
    head, entries = part
    more = MORE * sum(text.count("\n") for text in (head, *entries))
    return LINE * (len(entries) + bool(head)) + more + APART


def _write_legend(canvas: Canvas, legend: Sequence[Part], corner: tuple[float, float]) -> None:
    """The parts one below the other, from a corner (inches from the left and from below)."""
    width, height = canvas.get_size_inches()
    left, up = corner
    for head, entries in legend:
        canvas.legend(
            [Line2D([], [], **look) for look in entries.values()], list(entries), title=head or None, alignment="left",
            loc="upper left", bbox_to_anchor=(left / width, up / height), frameon=False, borderaxespad=0, borderpad=0,
        )  # fmt: skip
        up -= _tall((head, entries))
