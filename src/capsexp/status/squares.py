"""One square of the heat map: two digits for a number, a mark for a missing value, and a colour."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from capsexp.analysis.cells import Cell
from capsexp.status.read import finite

MARKS = {
    "failed": "x",
    "corrupt": "?",
    "interrupted": "!",
    "stale": "~",
    "no number": "-",
    "running": ">",
    "pending": ".",
}
"""The mark of a cell without a number; if several cells share a square, the first mark in this order."""

VIRIDIS = (53, 54, 60, 24, 30, 36, 71, 77, 148, 226)
"""The colour map viridis in the nearest of a terminal's 256 colours."""

NARROW = 0.05
"""Range of shares below which they are stretched from 00 to 99, since all would look the same otherwise."""


@dataclass(frozen=True)
class Square:
    """The cells of one square: their mean, if any has a number, and a mark, if any has none."""

    mean: float | None
    mark: str


def square(cells: Iterable[Cell], metric: str) -> Square:
    """The square of cells that differ only in the averaged axes."""
    values: list[float] = []
    missing: set[str] = set()
    for cell in cells:
        value = finite(cell.value(metric)) if cell.done else None
        if value is not None:
            values.append(value)
        else:
            missing.add("no number" if cell.done else cell.state)
    mark = next((mark for state, mark in MARKS.items() if state in missing), "")
    mean = sum(value / len(values) for value in values)  # fmean overflows on the largest floats
    return Square(mean if values else None, mark)


@dataclass(frozen=True)
class Scale:
    """The scale that maps a number to two digits and a colour.

    Attributes:
        low: the smallest number on the map.
        high: the largest number on the map.
    """

    low: float
    high: float

    @property
    def is_share(self) -> bool:
        """True if the digits are the first two decimals."""
        return self.low >= 0 and self.high <= 1 and not 0 < self.high - self.low < NARROW

    def digits(self, value: float) -> str:
        """Two characters for a number."""
        if self.is_share:
            return f"{min(int(value * 100 + 1e-9), 99):02d}"
        return "==" if self.low == self.high else f"{int(self._place(value) * 99 + 0.5):02d}"

    def colour(self, value: float) -> int:
        """One of the terminal's 256 colours for a number."""
        return VIRIDIS[round(self._place(value) * (len(VIRIDIS) - 1))]

    def legend(self) -> str:
        """The legend of the digits."""
        ends = f"min {self.low:.4g}, max {self.high:.4g}"
        if self.is_share:
            return f"digits: the first two after the point (99 is also 1); {ends}"
        if self.low == self.high:
            return f"== is {self.low:.4g}, the same everywhere"
        return f"digits: from 00, the min {self.low:.4g}, to 99, the max {self.high:.4g}"

    def _place(self, value: float) -> float:
        """The position of a value: 0 for the smallest, 1 for the largest."""
        spread = self.high - self.low
        return min(max((value - self.low) / spread, 0.0), 1.0) if 0 < spread < math.inf else 0.5


def scale(squares: Iterable[Square]) -> Scale | None:
    """The scale of all numbers on a map; None if there are none."""
    means = [each.mean for each in squares if each.mean is not None]
    return Scale(min(means), max(means)) if means else None


def painted(each: Square | None, scale: Scale | None, width: int, colour: bool) -> str:
    """A square as text of ``width`` characters (at least 3): right-aligned digits, then the mark or a blank."""
    if each is None:  # no such cell is planned
        return " " * width
    if each.mean is None or scale is None:
        return f"{each.mark:>{width - 1}} "
    text = f"{scale.digits(each.mean):>{width - 1}}{each.mark or ' '}"
    return paint(text, scale.colour(each.mean)) if colour else text


def paint(text: str, background: int) -> str:
    """Text on a background colour: white on the dark half of the colour map, black on the bright half."""
    foreground = 15 if VIRIDIS.index(background) < len(VIRIDIS) // 2 else 16
    return f"\x1b[48;5;{background};38;5;{foreground}m{text}\x1b[0m"


def marks_legend(squares: Sequence[Square]) -> str:
    """The legend of the marks that occur."""
    used = {each.mark for each in squares}
    return ", ".join(f"{mark} {state}" for state, mark in MARKS.items() if mark in used)
