"""Two tables of one metric side by side: both as heat maps on one scale, and the difference between them."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import Normalize

from capsexp.analysis.conditions import axis_text
from capsexp.analysis.figures import ticks
from capsexp.analysis.figures.heatmap import between, draw_fields, write_axes
from capsexp.analysis.figures.style import (
    DIVERGING,
    GREY,
    SEQUENTIAL,
    Caption,
    Grid,
    Picture,
    blank,
    colour_bar,
    compact,
    room,
    save,
    style,
)
from capsexp.analysis.measures import signed

WIDE, TALL = 3.55, 3.35
"""Inches of a map."""
GAP, BAR = 0.2, 1.2
"""Inches between the first two maps, and of a scale with its texts."""
HEAD = 44
"""Characters in a line above a map or beside its colours."""


@dataclass(frozen=True)
class Side:
    """One of the two tables: its name, and its values [y, x] with NaN where there is none."""

    name: str
    values: Grid


@dataclass(frozen=True)
class Along:
    """An axis: its values, and its name in short and with its unit."""

    values: Sequence[Any]
    label: str
    title: str


@dataclass(frozen=True)
class Map:
    """One of the three maps."""

    head: str
    values: Grid
    numbers: list[list[str]]
    norm: Normalize
    colours: str = SEQUENTIAL
    label: str = ""

    @property
    def missing(self) -> dict[tuple[int, int], str]:
        """The fields without a value."""
        return {(int(row), int(column)): "no value" for row, column in np.argwhere(np.isnan(self.values))}


@style()
def draw_beside(
    left: Side, right: Side, caption: Caption, x: Along, y: Along, *, value_label: str = "", digits: int = 4
) -> Picture:
    """Three heat maps: ``left``, ``right`` on the same scale, and left - right in colours that change at zero.

    Args:
        left: the values from which the others are subtracted.
        right: those others.
        caption: the text around them.
        x: the columns.
        y: the rows.
        value_label: beside the colours of the first two.
        digits: decimals of the differences in the sentence below.

    Raises:
        ValueError: the tables have other shapes, or no field in which both have a value.
    """
    maps = _maps(left, right, value_label)
    if left.values.shape != (len(y.values), len(x.values)) or not np.isfinite(maps[2].values).any():
        raise ValueError(f"no common value in {len(y.values)} x {len(x.values)} fields")
    below, above = 0.62 + ticks.across(x.values, WIDE).inches, 0.3 + 0.16 * max(each.head.count("\n") for each in maps)
    first = 0.65 + ticks.upright(y.values, TALL).inches
    width = first + 3 * WIDE + GAP + 2 * BAR
    lines = caption.lines(width)
    height = below + TALL + above + 0.75 + room(lines)
    canvas = blank(caption, width, height, 0.3 / width, lines)
    up, tall = below / height, TALL / height
    for place, each in enumerate(maps):
        start = first + place * (WIDE + GAP) + (BAR - GAP if place == 2 else 0.0)
        flat = canvas.add_axes((start / width, up, WIDE / width, tall))
        draw_fields(flat, each.values, each.numbers, each.missing, each.norm, each.colours)
        write_axes(flat, x.values, y.values, (x.title, "" if place else y.title))
        flat.tick_params(labelleft=not place)
        flat.set_title(each.head, fontsize=9.5, color=GREY, pad=5)
        if place:
            bar = ((start + WIDE + 0.12) / width, up, 0.18 / width, tall)
            colour_bar(canvas, each.norm, each.colours, each.label, bar)
    hatched = "Hatched fields have no value." if any(each.missing for each in maps) else ""
    return save(canvas, caption, " ".join(part for part in (sentence(left, right, x, y, digits), hatched) if part))


def _maps(left: Side, right: Side, label: str) -> list[Map]:
    both, difference = np.stack([left.values, right.values]), left.values - right.values
    low, high = np.nanmin(both, initial=np.inf), np.nanmax(both, initial=-np.inf)
    most = np.nanmax(np.abs(difference), initial=0.0) or 0.5
    same = between(float(low), float(high))
    first, second, names = map(_fill, (left.name, right.name, f"{left.name} \N{MINUS SIGN} {right.name}"))
    return [
        Map(first, left.values, compact(left.values, both), same),
        Map(second, right.values, compact(right.values, both), same, label=_fill(label)),
        Map(names, difference, _with_minus_signs(compact(difference)), Normalize(-most, most), DIVERGING, "difference"),
    ]


def _with_minus_signs(texts: list[list[str]]) -> list[list[str]]:
    """Numbers with the sign that stands at the colours' scale beside them."""
    return [[text.replace("-", "\N{MINUS SIGN}") for text in row] for row in texts]


def _fill(text: str) -> str:
    return textwrap.fill(text, HEAD)


def sentence(left: Side, right: Side, x: Along, y: Along, digits: int = 4) -> str:
    """In how many of the common fields the left value is greater, and how large and where the differences are.

    Of equal differences the first one's place is named, row by row.
    """
    difference = left.values - right.values
    common = difference[np.isfinite(difference)]
    least, greatest = (
        f"{signed(float(difference.flat[place]), digits)} at {_place(place, x, y)}"
        for place in (int(np.nanargmin(difference)), int(np.nanargmax(difference)))
    )
    equal = int((common == 0).sum())
    spread = (
        f" ± {common.std(ddof=1):.{digits}f} (sample standard deviation over the points)" if len(common) > 1 else ""
    )
    return (
        f"{left.name} is greater than {right.name} in {int((common > 0).sum())} of {len(common)} common points"
        f"{f', equal in {equal}' if equal else ''}; mean difference {signed(float(common.mean()), digits)}{spread}; "
        f"least difference {least}; greatest {greatest}."
    )


def _place(place: int, x: Along, y: Along) -> str:
    """The values of both axes at a place of a table, counted row by row."""
    row, column = divmod(place, len(x.values))
    return ", ".join(f"{along.label} = {axis_text(along.values[i])}" for along, i in ((x, column), (y, row)))
