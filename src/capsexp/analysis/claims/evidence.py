"""Bodies of evidence and the cells in them; seeds are averaged, bodies never."""

import itertools
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from capsexp.analysis.claims.table import Row, Value
from capsexp.analysis.conditions import Condition

Where = Mapping[str, Condition]
"""What the values of axes must be, as ``where`` in a ``report:`` block."""


class LackingError(Exception):
    """A claim cannot be decided.

    Attributes:
        source: where cells are lacking.
    """

    def __init__(self, source: str, why: str) -> None:
        super().__init__(why)
        self.source = source


@dataclass(frozen=True, order=True)
class Body:
    """What numbers must share to stand beside each other: the data set, and the split that chose the models."""

    data: str
    select_on: str = "val"


@dataclass(frozen=True)
class Place:
    """The cells that differ in their seed alone."""

    axes: dict[str, Value]
    rows: tuple[Row, ...]

    def mean(self, metric: str) -> float:
        """Mean over the seeds."""
        return mean_of(self.rows, metric)


@dataclass(frozen=True)
class Sample:
    """What a claim looks at in one source.

    Attributes:
        rows: finished cells that satisfy the conditions and have every number asked for.
        lost: finished cells that satisfy the conditions and lack a number.
    """

    part: "Part"
    rows: tuple[Row, ...]
    lost: int

    @property
    def places(self) -> list[Place]:
        """The cells, those of different seeds together."""
        return [Place(axes, rows) for axes, rows in grouped(self.rows, self.part.axes)]

    @property
    def whole(self) -> bool:
        """Whether no cell is lacking: none of the source, and none for want of a number."""
        return self.part.whole and not self.lost


@dataclass(frozen=True)
class Part:
    """The finished cells of one source in one body.

    Attributes:
        axes: swept keys but the seed.
        planned: cells of the tables behind it, without those that finished in another body.
        values: those of each axis, of all planned cells, in order.
        cells: size of the paper's grid; 0 = not stated.
        replaced: cells of earlier folders in whose place those of later ones count.
    """

    source: str
    axes: tuple[str, ...]
    metrics: frozenset[str]
    rows: tuple[Row, ...]
    planned: int
    values: Mapping[str, tuple[Value, ...]]
    folders: tuple[Path, ...]
    cells: int = 0
    replaced: int = 0

    @property
    def beyond(self) -> int:
        """Size of the paper's grid where fewer places than it has have finished; else 0."""
        return self.cells if len(grouped(self.rows, self.axes)) < self.cells else 0

    @property
    def whole(self) -> bool:
        """Whether every cell that was planned has finished, and every place of the paper's grid."""
        return self.planned == len(self.rows) and not self.beyond

    def sample(self, where: Where, *metrics: str) -> Sample:
        """The cells that satisfy every condition and have every number.

        Args:
            where: conditions on axes.
            metrics: columns of numbers; axes may be among them.

        Raises:
            LackingError: a condition's axis was not swept, the table has no such column, or no cell is left.
        """
        swept = {*self.axes, *(axis for row in self.rows for axis in row.axes)}
        for name, known in [
            *((axis, swept) for axis in where),
            *((metric, swept | self.metrics) for metric in metrics),
        ]:
            if name not in known:
                raise LackingError(self.source, f"the cells of {self.source} have no {name}")
        found = [row for row in self.rows if all(rule.holds(row.axes.get(axis)) for axis, rule in where.items())]
        kept = tuple(row for row in found if all(number_of(row, metric) is not None for metric in metrics))
        if not kept:
            raise LackingError(self.source, f"no finished cell of {self.source} there")
        return Sample(self, kept, len(found) - len(kept))


@dataclass(frozen=True)
class Evidence:
    """One body of evidence.

    Attributes:
        parts: what each source has of it.
        papers: whether the data set is the paper's.
    """

    body: Body
    parts: Mapping[str, Part]
    papers: bool

    def part(self, source: str) -> Part:
        """What a source has.

        Raises:
            LackingError: it has nothing of this body.
        """
        if source not in self.parts:
            raise LackingError(source, f"no finished cell of {source}")
        return self.parts[source]


def grouped(rows: Iterable[Row], axes: Sequence[str]) -> list[tuple[dict[str, Value], tuple[Row, ...]]]:
    """Rows apart by their values on some axes, in order of these values: numbers by size, before texts."""
    keyed = [({axis: row.axes.get(axis) for axis in axes}, row) for row in rows]
    keyed.sort(key=lambda pair: [order(value) for value in pair[0].values()])
    groups = itertools.groupby(keyed, key=lambda pair: key_of(pair[0]))
    parts = [list(group) for _, group in groups]
    return [(part[0][0], tuple(row for _, row in part)) for part in parts]


def order(value: Value) -> tuple[bool, float, str]:
    """Sorts the values of an axis: numbers by size, then everything else by its text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return False, value, ""
    return True, 0.0, str(value)


def key_of(axes: Mapping[str, Value]) -> str:
    """Values of axes as one text, equal for equal values."""
    return json.dumps({axis: axes[axis] for axis in sorted(axes)})


def number_of(row: Row, name: str) -> float | None:
    """A metric's value, or that of an axis; None where it is no number."""
    value = row.metrics[name] if name in row.metrics else row.axes.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def mean_of(rows: Iterable[Row], name: str) -> float:
    """Mean of a metric, or of an axis, over cells that have it; equal values stay as they are."""
    values = [value for row in rows if (value := number_of(row, name)) is not None]
    return values[0] if min(values) == max(values) else statistics.fmean(values)
