"""The ticks of an axis: the places of its values, and texts that do not run into each other."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from capsexp.analysis.cells import is_number
from capsexp.analysis.conditions import axis_text

LONGEST = 28
"""Characters of a value that are shown along an axis; the tables have all of them."""
LETTER = 0.078
"""Inches that a letter of the usual size takes."""
CROWDED = 0.15
"""The smallest gap between two values, as a share of the usual one, below which they seem to lie on one another."""
TURNED = 30.0
"""Degrees by which texts are turned that are too long to stand side by side."""

Scale = Literal["linear", "log", "even"]


@dataclass(frozen=True)
class Ticks:
    """Texts along an axis.

    Attributes:
        step: the first of every ``step`` values has a text.
        texts: of those that have one.
        turn: degrees by which the texts are turned.
        inches: how far they reach beyond a single upright line.
    """

    step: int
    texts: list[str]
    turn: float = 0.0
    inches: float = 0.0

    @property
    def look(self) -> dict[str, Any]:
        """Matplotlib's settings for texts that are turned."""
        return {"rotation": self.turn, "ha": "right", "rotation_mode": "anchor"} if self.turn else {}


def across(values: Sequence[Any], inches: float) -> Ticks:
    """The texts below an axis that is ``inches`` wide: thinned where many, turned where long."""
    shown = texts(values)
    longest = max(map(len, shown), default=1) * LETTER
    if all(is_number(value) for value in values):
        step = max(1, math.ceil(len(shown) * (longest + 0.08) / inches))
        return Ticks(step, shown[::step])
    if longest + 0.1 <= inches / max(1, len(shown)):
        return Ticks(1, shown)
    step = max(1, math.ceil(len(shown) * 0.22 / inches))
    return Ticks(step, shown[::step], TURNED, longest * math.sin(math.radians(TURNED)))


def upright(values: Sequence[Any], inches: float) -> Ticks:
    """The texts beside an axis that is ``inches`` tall; ``inches`` of the answer is the width of the longest."""
    shown = texts(values)
    step = max(1, math.ceil(len(shown) * 0.17 / inches))
    return Ticks(step, shown[::step], inches=max(map(len, shown), default=1) * LETTER)


def texts(values: Sequence[Any]) -> list[str]:
    """Each value as a short text: ``Adam`` and ``SGD`` where all are ``torch.optim.`` something."""
    full = [axis_text(value) for value in values]
    parts = zip(*(re.split(r"(?<=[./])", text) for text in full), strict=False)
    shared = itertools.takewhile(lambda each: len(set(each)) == 1, parts) if len(full) > 1 else ()
    cut = sum(len(each[0]) for each in shared)
    # Only words: of v1.0 and v1.1 no reader would know what 0 and 1 are.
    short = [text[cut:] for text in full] if all(text[cut : cut + 1].isalpha() for text in full) else full
    return [text if len(text) <= LONGEST else text[: LONGEST - 1] + "…" for text in short]


def scale(values: Sequence[Any]) -> Scale:
    """The layout of values: words evenly, numbers to scale, or by their logarithms where they would crowd.

    Numbers that crowd either way (0, 1e-6, 1e-3) are laid out evenly.
    """
    if not all(is_number(value) for value in values):
        return "even"
    if _narrowest(values) >= CROWDED:
        return "linear"
    positive = all(value > 0 for value in values)
    return "log" if positive and _narrowest([math.log(value) for value in values]) >= CROWDED else "even"


def _narrowest(ordered: Sequence[float]) -> float:
    """The smallest gap over the mean gap: 1 for even steps."""
    gaps = [after - before for before, after in itertools.pairwise(ordered)]
    return min(gaps) * len(gaps) / sum(gaps) if gaps and sum(gaps) else 1.0


def places(values: Sequence[Any]) -> list[float]:
    """The places of values: numbers at themselves unless they crowd, everything else one after the other."""
    even = scale(values) == "even"
    return [float(place) if even else float(value) for place, value in enumerate(values)]
