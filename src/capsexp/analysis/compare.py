"""Our numbers beside the paper's, with everything that limits the comparison said in the same row."""

from collections.abc import Sequence
from dataclasses import dataclass

from capsexp.analysis.cells import Point, Protocol, Stat
from capsexp.analysis.conditions import extreme, place, select, unswept
from capsexp.analysis.paper_numbers import Comparison
from capsexp.analysis.results import Results
from capsexp.analysis.spec import Spec


@dataclass(frozen=True)
class Compared:
    """One row of the comparison.

    Attributes:
        row: what was asked for.
        stat: our number; empty where there is none.
        where: the point that gives it.
        problem: the reason for which our number is missing; empty where there is one.
        protocol: which data and choice of model it comes from.
        flags: what a reader must know before comparing.
    """

    row: Comparison
    stat: Stat
    where: str
    problem: str
    protocol: Protocol | None
    flags: list[str]

    @property
    def paper(self) -> float | str | None:
        """The paper's number or sentence for this data."""
        return None if isinstance(self.row.paper, dict) else self.row.paper

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        if self.stat.mean is None or not isinstance(self.paper, int | float):
            return None
        return self.stat.mean - self.paper


def compare(spec: Spec, results: Results) -> list[Compared]:
    """Every row of the ``compare`` list, once for each protocol with a number for it."""
    return [compared for row in spec.compare for compared in _rows(row, spec, results)]


def _rows(row: Comparison, spec: Spec, results: Results) -> list[Compared]:
    unknown = unswept(row.where, results)
    if unknown:
        return [Compared(row, Stat({}), "", f"{unknown} was not swept", None, [])]
    rows = [_row(row, spec, points, protocol) for protocol, points in results.by_protocol(results.points)]
    return [each for each in rows if each.stat.n] or rows[:1]


def _row(row: Comparison, spec: Spec, everything: list[Point], protocol: Protocol | None) -> Compared:
    points, asked = select(everything, row.where), row
    if isinstance(row.paper, dict):  # what is not finished may be of any data set
        points = [point for point in points if point.protocol] or points
        row = row.on(protocol.data if protocol else None)
    chosen, problem = _choose(row, points)
    if chosen is None:
        return Compared(asked.on(None), Stat({}), "", problem, None, [])
    stat = chosen.stat(row.metric)
    if row.minus:
        base = extreme(everything, row.metric, row.minus)
        stat = stat.minus(base.stat(row.metric)) if base else stat
    region = everything if row.minus else points
    flags = _flags(row, protocol, region, chosen)
    return Compared(row, stat, place(chosen, spec), "", protocol, flags)


def _choose(row: Comparison, points: list[Point]) -> tuple[Point | None, str]:
    if not points:
        return None, "no such point in the sweep"
    if row.reduce:
        finished = any(point.done for point in points)
        return extreme(points, row.metric, row.reduce), "no value there" if finished else "no finished cell there"
    if len(points) > 1:
        return None, f"{len(points)} points match: give reduce or at"
    chosen = extreme(points, row.metric, "max")
    return chosen, "no value there" if points[0].done else points[0].state


def _flags(row: Comparison, protocol: Protocol | None, region: Sequence[Point], chosen: Point) -> list[str]:
    lost = ["a seed's value is not finite"] if chosen.stat(row.metric).lost else []
    return [*origin_flags(protocol, row.paper_data), *partial_flag(region), *lost]


def origin_flags(protocol: Protocol | None, paper_data: str | None) -> list[str]:
    """Caveats on a number's data and on the choice of its model."""
    flags = []
    if protocol and paper_data and protocol.data.lower() != paper_data.lower():
        flags.append(f"other data: {protocol.data}, the paper's is {paper_data}")
    if protocol and protocol.generated:
        flags.append("generated data")
    if protocol and protocol.select_on == "test":
        flags.append("model chosen on the test set")
    return flags


def partial_flag(region: Sequence[Point]) -> list[str]:
    """The number of points that have all their trainings, where not all have."""
    whole = sum(all(cell.done for cell in point.cells) for point in region)
    return [f"partial: {whole} of {len(region)} points complete"] if whole < len(region) else []
