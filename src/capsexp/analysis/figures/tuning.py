"""Tuning curves: for each true class, the mean length of every class capsule."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from pydantic import AfterValidator, Field

from capsexp.analysis.arrays import Array, ArrayError, numbers
from capsexp.analysis.figures import ticks
from capsexp.analysis.figures.bars import same_shape
from capsexp.analysis.figures.base import Labelled, OfCell, few_arrays
from capsexp.analysis.figures.style import GREY, PALETTE, RULE, Caption, Grid, Picture, blank, room, save, style
from capsexp.analysis.panels import Panel
from capsexp.analysis.single_run import Read, draw_chosen
from capsexp.analysis.validation import Named

FEW = 14
"""Classes that are all coloured; of more, only the least distinct are."""
LINES = ("-", "--", ":")
FAINT = "#b7c0c9"
WIDE, MOST_WIDE, TALL = 5.2, 6.2, 3.7
"""Inches of a panel, with few classes and with many."""
LEFT, BELOW, GAP = 0.85, 0.62, 0.3
"""Inches around the panels, and between two."""


class Tuning(OfCell, Labelled):
    """The mean lengths of class capsules for images of each class."""

    kind: Literal["tuning"] = "tuning"
    arrays: Annotated[dict[str, str], Named, AfterValidator(few_arrays)] = Field(
        description="1 to 4 arrays [true class, capsule], by the names shown"
    )


def draw(panel: Panel) -> tuple[Picture | None, str]:
    """The chosen cell's picture, or a line saying what is missing."""
    return draw_chosen(panel, picture)


def picture(figure: Tuning, read: Read, caption: Caption) -> Picture:
    """The picture of the arrays that ``read`` gives by their names."""
    lengths = {name: read(array) for name, array in figure.arrays.items()}
    texts = {"x_label": figure.x_label or "class capsule", "y_label": figure.y_label or "mean length"}
    return draw_tuning(lengths, caption, **texts)


@style()
def draw_tuning(lengths: Mapping[str, Array], caption: Caption, *, x_label: str = "", y_label: str = "") -> Picture:
    """A panel for each way of routing, side by side: one curve a true class, over the class capsules.

    Args:
        lengths: by the name of the way: mean lengths [true class, class capsule].
        caption: the text around them.
        x_label: below the capsules.
        y_label: what is averaged.

    Raises:
        ArrayError: the arrays are no square matrices of one size.
    """
    shown = same_shape({name: numbers(values, name, 2) for name, values in lengths.items()})
    kinds = square(shown)
    coloured = list(range(kinds)) if kinds <= FEW else least_distinct(list(shown.values()), len(PALETTE))
    wide = min(MOST_WIDE, 12.0 / len(shown)) if kinds > FEW else min(WIDE, 12.0 / len(shown))
    width = max(6.4, LEFT + len(shown) * (wide + GAP) + 1.2)
    lines = caption.lines(width)
    height = BELOW + TALL + 1.1 + room(lines)
    canvas = blank(caption, width, height, 0.3 / width, lines)
    first: Axes | None = None
    for place, (name, means) in enumerate(shown.items()):
        box = ((LEFT + place * (wide + GAP)) / width, BELOW / height, wide / width, TALL / height)
        axes = canvas.add_axes(box, sharey=first)
        _draw_curves(axes, means, coloured)
        _dress(axes, kinds, wide, x_label)
        axes.set_title(name if len(shown) > 1 else "", fontsize=9.5, color=GREY, pad=6)
        axes.set_ylabel("" if first else y_label)
        axes.tick_params(labelleft=first is None)
        first = first or axes
    if first is not None:
        first.set_ylim(*_span(shown))
        right = (LEFT + len(shown) * (wide + GAP) - 0.1) / width
        look: Any = {"frameon": False, "title": "true class", "alignment": "left", "borderpad": 0}
        keys = first.get_legend_handles_labels()
        canvas.legend(*keys, loc="upper left", bbox_to_anchor=(right, (BELOW + TALL) / height), **look)
    return save(canvas, caption, _note(shown, coloured))


def square(arrays: Mapping[str, Grid]) -> int:
    """The number of classes.

    Raises:
        ArrayError: an array has not as many rows as columns.
    """
    rows, columns = next(iter(arrays.values())).shape
    if rows != columns:
        raise ArrayError(f"a row and a column a class are needed, not {rows} x {columns}")
    return int(rows)


def least_distinct(means: Sequence[Grid], count: int) -> list[int]:
    """The classes whose own capsule is least ahead of the longest other one, in ascending order."""
    own = np.stack([np.diagonal(values) for values in means])
    others = np.stack([np.where(np.eye(len(values), dtype=bool), -np.inf, values) for values in means])
    ahead = np.nan_to_num(own - np.nanmax(others, axis=2), nan=np.inf).min(axis=0)
    return sorted(int(place) for place in np.argsort(ahead, kind="stable")[:count])


def _draw_curves(axes: Axes, means: Grid, coloured: Sequence[int]) -> None:
    capsules = np.arange(len(means))
    for true in set(range(len(means))) - set(coloured):
        axes.plot(capsules, means[true], color=FAINT, linewidth=0.7, zorder=1.5)
    for rank, true in enumerate(coloured):
        colour, line = PALETTE[rank % len(PALETTE)], LINES[rank // len(PALETTE) % len(LINES)]
        axes.plot(capsules, means[true], color=colour, linestyle=line, linewidth=1.6, label=str(true), zorder=3)
        axes.plot(true, means[true, true], color=colour, marker="o", markersize=4.5, zorder=4)
        halo: Any = [withStroke(linewidth=2.5, foreground="white")]
        axes.annotate(
            str(true), (true, means[true, true]), (0, 5), textcoords="offset points", ha="center", va="bottom",
            fontsize=8.5, fontweight="bold", color=colour, path_effects=halo, zorder=5,
        )  # fmt: skip


def _dress(axes: Axes, kinds: int, wide: float, x_label: str) -> None:
    shown = ticks.across(range(kinds), wide)
    axes.set_xticks(range(0, kinds, shown.step), shown.texts)
    axes.set_xlim(-0.4, kinds - 0.6)
    axes.set_xlabel(x_label)
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)


def _span(shown: Mapping[str, Grid]) -> tuple[float, float]:
    """The y axis of all panels, with room for the numbers on the points."""
    low = min(0.0, *(float(np.nanmin(values)) for values in shown.values()))
    high = max(float(np.nanmax(values)) for values in shown.values())
    return low, high + 0.1 * ((high - low) or 1.0)


def _note(shown: Mapping[str, Grid], coloured: Sequence[int]) -> str:
    kinds = len(next(iter(shown.values())))
    words = "A point with its number is the mean length of a class' own capsule."
    if len(coloured) < kinds:
        words += f" In colour: the {len(coloured)} of {kinds} classes whose own capsule is least ahead of the others."
    if any(np.isnan(values).any() for values in shown.values()):
        words += " Gaps have no finite value."
    return words
