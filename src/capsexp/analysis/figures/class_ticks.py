"""Classes along the axes of a matrix of images: each image's own, or one word for each run of one class."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from capsexp.analysis.figures.style import GREY, INK

SIZES = (9.0, 6.5)
"""Points of the texts: the first where they fit on one line, else the second."""
SPACE = 3.0
"""Points between the matrix and the nearest line of texts."""


@dataclass(frozen=True)
class Marks:
    """The texts along one axis.

    Attributes:
        texts: with the place of each, in rows or columns, and the line on which it stands; line 0 is the nearest.
        size: in points.
        depth: points from one line to the next.
    """

    texts: list[tuple[str, float, int]]
    size: float
    depth: float

    @property
    def inches(self) -> float:
        """The distance that the texts reach from the matrix."""
        return (SPACE + self.depth * (1 + max(line for _, _, line in self.texts))) / 72


def marks(classes: Sequence[int], inches: float, *, runs: bool, across: bool) -> Marks:
    """The classes of images along an axis.

    Args:
        classes: of each image.
        inches: length of the axis.
        runs: whether one text stands for neighbours of one class.
        across: whether the axis goes across, where long texts need more room than beside an upright one.
    """
    found = blocks(classes) if runs else [(label, place, place + 1) for place, label in enumerate(classes)]
    places = [(start + stop - 1) / 2 for _, start, stop in found]
    longest = max(len(str(label)) for label, _, _ in found)
    for size in SIZES:
        wide, tall = 0.62 * longest + 0.45, 1.15
        apart = (wide if across else tall) * size / 72 * len(classes) / inches
        levels = lines(places, apart)
        if not any(levels):
            break
    texts = [(str(label), place, level) for (label, _, _), place, level in zip(found, places, levels, strict=True)]
    return Marks(texts, size, (1.3 if across else wide) * size)


def blocks(classes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Each run of one class: the class, its first place, and the place after its last."""
    found, start = [], 0
    for label, run in itertools.groupby(classes):
        stop = start + len(list(run))
        found.append((label, start, stop))
        start = stop
    return found


def lines(places: Sequence[float], apart: float) -> list[int]:
    """On which line each text stands, so that on no line two are closer than ``apart``; the places ascend."""
    ends: list[float] = []
    chosen = []
    for place in places:
        line = next((line for line, end in enumerate(ends) if place - end >= apart), len(ends))
        ends[line : line + 1] = [place]
        chosen.append(line)
    return chosen


def write(flat: Axes, rows: int, across: Marks, upright: Marks) -> None:
    """The texts below a matrix of that many rows, and those left of it."""
    look: dict[str, Any] = {"textcoords": "offset points", "color": INK, "annotation_clip": False}
    for text, place, line in across.texts:
        flat.annotate(
            text, (place, rows - 0.5), (0.0, -SPACE - line * across.depth), ha="center", va="top",
            fontsize=across.size, **look,
        )  # fmt: skip
    for text, place, line in upright.texts:
        flat.annotate(
            text, (-0.5, place), (-SPACE - line * upright.depth, 0.0), ha="right", va="center",
            fontsize=upright.size, **look,
        )  # fmt: skip


def rule(flat: Axes, classes: Sequence[int], *, triangle: bool) -> None:
    """Thin lines between runs of one class, in the lower half alone or all over."""
    end = len(classes) - 0.5
    for _, start, _ in blocks(classes)[1:]:
        at = start - 0.5
        flat.plot([-0.5, at if triangle else end], [at, at], color=GREY, linewidth=0.6)
        flat.plot([at, at], [at if triangle else -0.5, end], color=GREY, linewidth=0.6)
