"""The area of a grid, from its wide corner on, over which narrowing costs nothing."""

from typing import Literal

from pydantic import Field, field_validator

from capsexp.analysis.cells import Point
from capsexp.analysis.claims.evidence import Evidence, LackingError, Value
from capsexp.analysis.claims.rules.base import Answer, Labels, OfMetric, OfSource, Verdict, code, within
from capsexp.analysis.conditions import axis_text
from capsexp.analysis.validation import Conditions
from capsexp.errors import require

Grid = list[list[bool | None]]
"""For each value of the first axis and of the second, both ascending: True for a good point; None: not known."""
SIDE = 2
"""Values of each axis that make an area."""


class RobustArea(OfSource, OfMetric):
    """The largest rectangle from the corner of the two largest widths on, in which no point is far from the best.

    A point is good if its metric is at most the tolerance below the best of the whole grid.  There is a robust area if
    the rectangle is at least 2 x 2 points of the grid.  ``some`` claims that there is one, ``none`` that there is not.
    Points without a finished cell are taken first as bad, then as good: undecided if the answers differ.
    """

    kind: Literal["robust_area"]
    axes: list[str]
    claimed: Literal["some", "none"]
    where: Conditions = Field(default={})

    @field_validator("axes")
    @classmethod
    def _two(cls, axes: list[str]) -> list[str]:
        require(len(set(axes)) == len(axes) == 2, "", "be two axes", axes)
        return axes

    def describe(self, labels: Labels) -> str:
        """The measured quantity and the rule that decides."""
        x, y = (labels.name(axis) for axis in self.axes)
        least = "smaller than" if self.claimed == "none" else "at least"
        return (
            f"The largest rectangle of {x} and {y} of {code(self.source)}, from their largest values down, in which the"
            f" {labels.name(self.metric)} is at most {self.tolerance:g} below the best of the grid; it holds if that is"
            f" {least} {SIDE} x {SIDE} places."
        )

    def judge(self, evidence: Evidence, labels: Labels) -> Verdict:
        """The rectangle, and the worst point of the corner that decides."""
        sample = evidence.part(self.source).sample(self.where, self.metric, *self.axes)
        x, y = (sample.part.values[axis] for axis in self.axes)
        points = self._by_values(sample.points)
        best = max(sample.points, key=self.value)
        grid: Grid = [[self._good(points.get((a, b)), best) for b in y] for a in x]
        if min(len(x), len(y)) < SIDE:
            raise LackingError(self.source, f"a grid of {len(x)} x {len(y)} places has no corner")
        least, most = (largest(grid, missing) for missing in (False, True))
        answers = [self._answer(size) for size in (least, most)]
        answer = answers[0] if answers[0] == answers[1] else "undecided"
        corner = [point for a in x[-SIDE:] for b in y[-SIDE:] if (point := points.get((a, b)))]
        lines = [
            f"best {self.words(best, labels)}",
            self._area(least, (x, y), labels),
            *([f"lowest in the 2 x 2 corner {self.words(min(corner, key=self.value), labels)}"] if corner else []),
            f"lowest in the grid {self.words(min(sample.points, key=self.value), labels)}",
            *(["it depends on cells that have not finished"] if answer == "undecided" else []),
        ]
        lacking = self.sources if answer == "undecided" else ()
        return Verdict(answer, f"{least[0]} x {least[1]} of {len(x)} x {len(y)}", tuple(lines), (sample,), lacking)

    def _by_values(self, points: list[Point]) -> dict[tuple[Value, Value], Point]:
        found = {(point.axes[self.axes[0]], point.axes[self.axes[1]]): point for point in points}
        if len(found) < len(points):
            raise LackingError(self.source, f"more axes of {self.source} were swept than {' and '.join(self.axes)}")
        return found

    def _good(self, point: Point | None, best: Point) -> bool | None:
        return None if point is None else within(self.value(best) - self.value(point), self.tolerance)

    def _answer(self, size: tuple[int, int]) -> Answer:
        return "holds" if (min(size) >= SIDE) == (self.claimed == "some") else "does not hold"

    def _area(self, size: tuple[int, int], values: tuple[tuple[Value, ...], ...], labels: Labels) -> str:
        if not all(size):
            return "no area: the corner itself is further from the best"
        sides = [
            f"{labels.name(axis)} >= {axis_text(v[-n])}" for axis, v, n in zip(self.axes, values, size, strict=True)
        ]
        return f"largest area {size[0]} x {size[1]} places: {', '.join(sides)}"


def largest(grid: Grid, missing: bool) -> tuple[int, int]:
    """The sides of the largest rectangle of good points that ends in the last row and column; (0, 0) if there is none.

    One that is an area (2 x 2 or more) comes before any that is not, such as a whole row; of equal sizes, that whose
    sides differ least, then that with more rows.

    Args:
        grid: good and bad points.
        missing: the value taken for points of which nothing is known.
    """
    rows, columns = len(grid), len(grid[0])
    sides = [(a, b) for a in range(rows, 0, -1) for b in range(columns, 0, -1) if _all_good(grid, a, b, missing)]
    return max(sides, key=_size, default=(0, 0))


def _size(side: tuple[int, int]) -> tuple[bool, int, int, int]:
    return min(side) >= SIDE, side[0] * side[1], -abs(side[0] - side[1]), side[0]


def _all_good(grid: Grid, rows: int, columns: int, missing: bool) -> bool:
    return all(missing if good is None else good for row in grid[-rows:] for good in row[-columns:])
