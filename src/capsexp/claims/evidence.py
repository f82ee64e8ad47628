"""The cells of all tables, sorted into bodies of evidence; seeds are averaged, bodies never."""

import itertools
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from capsexp.claims.table import Row, Table, TableError, Value
from capsexp.report.cells import SEED
from capsexp.report.spec import Condition

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
    def ids(self) -> set[str]:
        """Ids of the cells."""
        return {row.id for row in self.rows}

    @property
    def places(self) -> list[Place]:
        """The cells, those of different seeds together."""
        return [Place(axes, rows) for axes, rows in grouped(self.rows, self.part.axes)]


@dataclass(frozen=True)
class Part:
    """The finished cells of one source in one body.

    Attributes:
        axes: swept keys but the seed.
        planned: cells of the tables behind it, without those that finished in another body.
        values: those of each axis, of all planned cells, in order.
        cells: size of the paper's grid; 0 = not stated.
    """

    source: str
    axes: tuple[str, ...]
    metrics: frozenset[str]
    rows: tuple[Row, ...]
    planned: int
    values: Mapping[str, tuple[Value, ...]]
    folders: tuple[Path, ...]
    cells: int = 0

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


def gather(tables: Mapping[str, Sequence[Table]], cells: Mapping[str, int], paper_data: str) -> dict[Body, Evidence]:
    """All bodies of evidence: those of the paper's data (an empty one for want of any), then others, by name.

    Args:
        tables: the tables of each source.
        cells: size of the paper's grid, by source.
        paper_data: the paper's data set.

    Raises:
        TableError: two tables of a source contradict each other.
    """
    found = {Body(r.data, r.select_on) for each in tables.values() for table in each for r in _done(table)}
    own = {body for body in found if body.data.lower() == paper_data.lower()} or {Body(paper_data)}
    evidence = {}
    for body in [*sorted(own), *sorted(found - own)]:
        parts = [_part(source, each, body, cells.get(source, 0)) for source, each in tables.items()]
        evidence[body] = Evidence(body, {part.source: part for part in parts if part}, body in own)
    return evidence


def _done(table: Table) -> Iterator[Row]:
    return (row for row in table.rows if row.state == "done")


def _part(source: str, tables: Sequence[Table], body: Body, cells: int) -> Part | None:
    used = [table for table in tables if any(_belongs(row, body) for row in _done(table))]
    if not used:
        return None
    for table in used:
        if set(table.axes) != set(used[0].axes):
            raise TableError(f"{source}: {used[0].folder} and {table.folder} swept different axes; give one of them")
    axes = tuple(axis for axis in used[0].axes if axis != SEED)
    planned = {r.id: r for table in used for r in table.rows if r.state != "done" or _belongs(r, body)}
    return Part(
        source=source,
        axes=axes,
        metrics=frozenset(metric for table in used for metric in table.metrics),
        rows=_once(source, body, used),
        planned=len(planned),
        values={axis: tuple(_different(row.axes[axis] for row in planned.values())) for axis in axes},
        folders=tuple(table.folder for table in used),
        cells=cells,
    )


def _belongs(row: Row, body: Body) -> bool:
    return Body(row.data, row.select_on) == body


def _once(source: str, body: Body, tables: Sequence[Table]) -> tuple[Row, ...]:
    """Every finished cell of the body once; two trainings of one place and seed are a contradiction."""
    rows: dict[str, Row] = {}
    places: dict[str, tuple[Row, Table]] = {}
    for table in tables:
        for row in (row for row in _done(table) if _belongs(row, body) and row.id not in rows):
            other = places.setdefault(key_of(row.axes), (row, table))
            if other[0] is not row:
                folders = " and ".join(dict.fromkeys(str(each.folder) for each in (other[1], table)))
                raise TableError(
                    f"{source}: {other[0].name} and {row.name} ({folders}) are two trainings of one place on"
                    f" {body.data}; give one of them"
                )
            rows[row.id] = row
    return tuple(rows.values())


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


def _different(values: Iterable[Value]) -> list[Value]:
    """Each value once, in order."""
    return sorted({json.dumps(value): value for value in values}.values(), key=order)


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
