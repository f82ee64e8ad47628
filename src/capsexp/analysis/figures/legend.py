"""The legend of curves that have a colour for one axis and a line style for another, in parts beside the panels."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from capsexp.analysis.figures.epochs import LINES
from capsexp.analysis.figures.line import LEGEND_CHARACTERS, MARKERS
from capsexp.analysis.figures.style import GREY, INK, PALETTE

COLOURS = PALETTE[:-1]
"""The last is black, and the dark line is the reference's."""
DARK: dict[str, Any] = {"color": INK, "linestyle": "-", "linewidth": 2.2}
LINE, MORE, APART = 0.21, 0.16, 0.14
"""Inches of an entry of the legend, of each further line of its text, and between two parts."""

Part = tuple[str, dict[str, dict[str, Any]]]
"""The words above a part of the legend, and the look of each of its entries."""


@dataclass(frozen=True)
class LegendTitles:
    """The titles of the legend: above the colours, above the line styles, and of the reference."""

    colours: str = ""
    styles: str = ""
    reference: str = ""


@dataclass(frozen=True)
class Legend:
    """The texts that have a colour, and those that have a line style, in order."""

    colours: list[str]
    styles: list[str]

    def of(self, colour: str, dash: str) -> dict[str, Any]:
        """The style of a line."""
        return _coloured(self.colours.index(colour)) | _dashed(self.styles.index(dash)) | {"linewidth": 1.6}

    def parts(self, titles: LegendTitles) -> list[Part]:
        """The parts of the legend: what stands above each, and the look of each of its entries."""
        plain = _coloured(0) | ({"color": GREY} if any(self.colours) else {})
        line = {"linestyle": "none" if any(self.styles) else "-"}
        colours = {text: _coloured(place) | line for place, text in enumerate(self.colours)}
        styles = {text: plain | _dashed(place) for place, text in enumerate(self.styles)}
        parts = [(titles.colours, colours), (titles.styles, styles), ("", {titles.reference: DARK})]
        return [(head, entries) for head, entries in parts if any(entries)]


def _coloured(place: int) -> dict[str, Any]:
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)], "markersize": 4}


def _dashed(place: int) -> dict[str, Any]:
    """All styles but the first have hollow markers too, since dashes hide where these are close."""
    return {"linestyle": LINES[place % len(LINES)], **({"markerfacecolor": "white"} if place else {})}


def wrapped(head: str, entries: Mapping[str, dict[str, Any]]) -> Part:
    """A part of the legend with its texts in lines that fit."""
    return _fill(head), {_fill(text): look for text, look in entries.items()}


def _fill(text: str) -> str:
    return textwrap.fill(text, LEGEND_CHARACTERS)


def _texts(legend: Iterable[Part]) -> list[str]:
    return [text for head, entries in legend for text in (head, *entries)]


def beside(legend: Sequence[Part]) -> float:
    """Inches that the legend takes right of the panels."""
    longest = max((len(line) for text in _texts(legend) for line in text.split("\n")), default=0)
    return 0.75 + 0.085 * longest if longest else 0.3


def tall(part: Part) -> float:
    """Inches of a part of the legend."""
    head, entries = part
    more = MORE * sum(text.count("\n") for text in (head, *entries))
    return LINE * (len(entries) + bool(head)) + more + APART


def write_legend(canvas: Canvas, legend: Sequence[Part], corner: tuple[float, float]) -> None:
    """The parts one below the other, from a corner (inches from the left and from below)."""
    width, height = canvas.get_size_inches()
    left, up = corner
    for head, entries in legend:
        canvas.legend(
            [Line2D([], [], **look) for look in entries.values()], list(entries), title=head or None, alignment="left",
            loc="upper left", bbox_to_anchor=(left / width, up / height), frameon=False, borderaxespad=0, borderpad=0,
        )  # fmt: skip
        up -= tall((head, entries))
