"""The area of a grid, from its wide corner on, over which narrowing costs nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from capsexp.analysis import checks
from capsexp.analysis.claims.evidence import Evidence, LackingError, Place, Where
from capsexp.analysis.claims.finding import Finding, Verdict, within
from capsexp.analysis.claims.labels import Labels, code
from capsexp.analysis.claims.table import Value
from capsexp.analysis.conditions import axis_text
from capsexp.errors import require, require_choice, require_number

Grid = list[list[bool | None]]
"""For each value of the first axis and of the second, both ascending: is the place good?  None: not known."""
SIDE = 2
"""Values of each axis that make an area."""


@dataclass(frozen=True)
class RobustArea:
    """The largest rectangle from the corner of the two largest widths on, in which no place is far from the best.

    A place is good if its metric is at most the tolerance below the best of the whole grid.  There is a robust area if
    the rectangle is at least 2 x 2 places of the grid.  ``some`` claims that there is one, ``none`` that there is not.
    Places without a finished cell are taken as bad and as good in turn: undecided if the answers differ.
    """

    KEYS: ClassVar = frozenset({"source", "metric", "axes", "claimed", "where", "tolerance"})
    NEEDED: ClassVar = frozenset({"source", "metric", "axes", "claimed"})

    source: str
    metric: str
    axes: tuple[str, ...]
    claimed: str
    where: Where
    tolerance: float

    @classmethod
    def parse(cls, key: str, raw: Mapping[str, Any], tolerance: float) -> "RobustArea":
        """The checked form of a claim's keys."""
        axes = tuple(checks.texts(f"{key}.axes", raw["axes"]))
        require(len(set(axes)) == len(axes) == 2, f"{key}.axes", "be two axes", raw["axes"])
        return cls(
            source=checks.text(f"{key}.source", raw["source"]),
            metric=checks.text(f"{key}.metric", raw["metric"]),
            axes=axes,
            claimed=require_choice(f"{key}.claimed", str(raw["claimed"]), ("some", "none")),
            where=checks.conditions(key, {"where": raw.get("where")}),
            tolerance=require_number(f"{key}.tolerance", raw.get("tolerance", tolerance), 0),
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """The one source."""
        return (self.source,)

    @property
    def measured(self) -> tuple[str, ...]:
        """The metric."""
        return (self.metric,)

    def rule(self, labels: Labels) -> str:
        """What is measured and how it is decided."""
        x, y = (labels.name(axis) for axis in self.axes)
        least = "smaller than" if self.claimed == "none" else "at least"
        return (
            f"The largest rectangle of {x} and {y} of {code(self.source)}, from their largest values down, in which the"
            f" {labels.name(self.metric)} is at most {self.tolerance:g} below the best of the grid; it holds if that is"
            f" {least} {SIDE} x {SIDE} places."
        )

    def judge(self, evidence: Evidence, labels: Labels) -> Finding:
        """The rectangle, and the worst place of the corner that decides."""
        sample = evidence.part(self.source).sample(self.where, self.metric, *self.axes)
        x, y = (sample.part.values[axis] for axis in self.axes)
        places = self._by_values(sample.places)
        best = max(sample.places, key=self._value)
        grid: Grid = [[self._good(places.get((a, b)), best) for b in y] for a in x]
        if min(len(x), len(y)) < SIDE:
            raise LackingError(self.source, f"a grid of {len(x)} x {len(y)} places has no corner")
        least, most = (largest(grid, missing) for missing in (False, True))
        verdicts = [self._verdict(size) for size in (least, most)]
        verdict = verdicts[0] if verdicts[0] == verdicts[1] else "undecided"
        corner = [place for a in x[-SIDE:] for b in y[-SIDE:] if (place := places.get((a, b)))]
        lines = [
            f"best {self._said(best, labels)}",
            self._area(least, (x, y), labels),
            *([f"lowest in the 2 x 2 corner {self._said(min(corner, key=self._value), labels)}"] if corner else []),
            f"lowest in the grid {self._said(min(sample.places, key=self._value), labels)}",
            *(["it depends on cells that have not finished"] if verdict == "undecided" else []),
        ]
        lacking = (self.source,) if verdict == "undecided" else ()
        return Finding(verdict, f"{least[0]} x {least[1]} of {len(x)} x {len(y)}", tuple(lines), (sample,), lacking)

    def _by_values(self, places: list[Place]) -> dict[tuple[Value, Value], Place]:
        found = {(place.axes[self.axes[0]], place.axes[self.axes[1]]): place for place in places}
        if len(found) < len(places):
            raise LackingError(self.source, f"more axes of {self.source} were swept than {' and '.join(self.axes)}")
        return found

    def _value(self, place: Place) -> float:
        return place.mean(self.metric)

    def _good(self, place: Place | None, best: Place) -> bool | None:
        return None if place is None else within(self._value(best) - self._value(place), self.tolerance)

    def _verdict(self, size: tuple[int, int]) -> Verdict:
        return "holds" if (min(size) >= SIDE) == (self.claimed == "some") else "does not hold"

    def _said(self, place: Place, labels: Labels) -> str:
        return f"{labels.number(self.metric, self._value(place))} at {labels.place(place)}"

    def _area(self, size: tuple[int, int], values: tuple[tuple[Value, ...], ...], labels: Labels) -> str:
        if not all(size):
            return "no area: the corner itself is further from the best"
        sides = [
            f"{labels.name(axis)} >= {axis_text(v[-n])}" for axis, v, n in zip(self.axes, values, size, strict=True)
        ]
        return f"largest area {size[0]} x {size[1]} places: {', '.join(sides)}"


def largest(grid: Grid, missing: bool) -> tuple[int, int]:
    """The sides of the largest rectangle of good places that ends in the last row and column; (0, 0) if there is none.

    One that is an area (2 x 2 or more) comes before any that is not, such as a whole row; of equal sizes, that whose
    sides differ least, then that with more rows.

    Args:
        grid: which places are good.
        missing: what places of which nothing is known count as.
    """
    rows, columns = len(grid), len(grid[0])
    sides = [(a, b) for a in range(rows, 0, -1) for b in range(columns, 0, -1) if _all_good(grid, a, b, missing)]
    return max(sides, key=_size, default=(0, 0))


def _size(side: tuple[int, int]) -> tuple[bool, int, int, int]:
    return min(side) >= SIDE, side[0] * side[1], -abs(side[0] - side[1]), side[0]


def _all_good(grid: Grid, rows: int, columns: int, missing: bool) -> bool:
    return all(missing if good is None else good for row in grid[-rows:] for good in row[-columns:])
