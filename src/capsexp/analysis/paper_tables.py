"""The paper's tables beside ours: rows and columns are axes of the sweep, and no place is averaged with another."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from capsexp.analysis.cells import Point, Stat
from capsexp.analysis.compare import origin_flags, partial_flag
from capsexp.analysis.conditions import axis_text
from capsexp.analysis.figures.style import counted
from capsexp.analysis.measures import MISSING, Measure, number, signed
from capsexp.analysis.panels import Panel, missing_text, panels
from capsexp.analysis.paper_numbers import PaperTable, canonical
from capsexp.analysis.results import Results
from capsexp.analysis.spec import Spec
from capsexp.analysis.tables import Raw, Table, stat_text

Part = Literal["ours", "paper", "ours - paper"]
PARTS: tuple[Part, ...] = ("ours", "paper", "ours - paper")
Place = tuple[str, str]


def grid_tables(spec: Spec, results: Results) -> tuple[list[Table], list[str]]:
    """Every table of the ``grids`` list, and one line for each that cannot be made."""
    made, problems = [], []
    for grid in spec.grids:
        figure = grid.figure
        unswept = next((axis for axis in (figure.y, figure.x) if axis not in results.axes), "")
        shown, problem = ([], f"{figure.name}: {unswept} was not swept") if unswept else panels(figure, spec, results)
        made += [_table(Crossing(grid, panel)) for panel in shown]
        problems += [problem] if problem else []
    return made, problems


@dataclass(frozen=True)
class Crossing:
    """One table: its places are pairs of texts, those of a row and of a column."""

    grid: PaperTable
    panel: Panel

    @cached_property
    def rows(self) -> list[str]:
        """The paper's rows and ours."""
        return merged(list(self.grid.numbers), self._texts(self.grid.figure.y))

    @cached_property
    def columns(self) -> list[str]:
        """The paper's columns and ours."""
        return merged(self.grid.heads, self._texts(self.grid.figure.x))

    @cached_property
    def points(self) -> dict[Place, Point]:
        """The planned point at each place; of one whose trainings have not all finished, what has (it comes first)."""
        found: dict[Place, Point] = {}
        for point in self.panel.points:
            axes = self.grid.figure.y, self.grid.figure.x
            row, column = (axis_text(point.axes[axis]) for axis in axes)
            found.setdefault((row, column), point)
        return found

    def _texts(self, axis: str) -> list[str]:
        return [axis_text(value) for value in self.panel.values(axis)]

    def paper(self, place: Place) -> float | None:
        """The paper's number."""
        return self.grid.numbers.get(canonical(place[0]), {}).get(canonical(place[1]))

    def stat(self, point: Point) -> Stat:
        """Our number, in the paper's unit."""
        stat, scale = point.stat(self.grid.figure.metric), self.grid.scale
        if scale == 1:  # a count stays whole
            return stat
        return Stat({seed: value * scale for seed, value in stat.values.items()}, stat.lost)

    @cached_property
    def measure(self) -> Measure:
        """The way to show the metric."""
        return self.panel.spec.measure(self.grid.figure.metric)

    @cached_property
    def most(self) -> int:
        """The largest number of trainings behind one of our numbers."""
        return max((self.stat(point).n for point in self.points.values()), default=0)

    def flags_of(self, points: Sequence[Point]) -> list[str]:
        """Caveats on comparing the numbers of these points."""
        paper_data = self.grid.paper_data if self.grid.paper else None
        protocols = [each for each in self.panel.results.protocols if any(point.protocol == each for point in points)]
        origin = [flag for protocol in protocols for flag in origin_flags(protocol, paper_data)]
        lost = ["a seed's value is not finite"] if any(self.stat(point).lost for point in points) else []
        return list(dict.fromkeys([*origin, *partial_flag(points), *lost]))


def merged(paper: Sequence[str], ours: Sequence[str]) -> list[str]:
    """The paper's rows (or columns) in its order and then what it has not; all by size if all are numbers."""
    known = {canonical(text): text for text in ours}
    texts = list(dict.fromkeys([*(known.get(text, text) for text in paper), *ours]))
    try:
        return sorted(texts, key=float)
    except ValueError:
        return texts


def _table(made: Crossing) -> Table:
    spec, figure, lines = made.panel.spec, made.grid.figure, []
    for row in made.rows:
        each = [(part, cells) for part in PARTS if (cells := _line(made, row, part))]
        lines += [([row if not rank else "", part, *cells], part) for rank, (part, cells) in enumerate(each)]
    return Table(
        name=figure.name + made.panel.suffix,
        title=", ".join([figure.title, *made.panel.others]),
        caption=_caption(made),
        header=[spec.axis(figure.y).label, f"{spec.axis(figure.x).label} =", *made.columns],
        rows=[cells for cells, _ in lines],
        raw_header=_raw_header(made),
        raw_rows=_raw_rows(made),
        missing=[False] * len(lines),
        parts=[part for _, part in lines],
        flags=made.flags_of(made.panel.points),
    )


def _line(made: Crossing, row: str, part: Part) -> list[str]:
    """One line of a row, or nothing where it would have neither a number nor a cell that lacks one."""
    cells = [_cell(made, (row, column), part) for column in made.columns]
    return cells if any(cell != MISSING for cell in cells) else []


def _cell(made: Crossing, place: Place, part: Part) -> str:
    point, paper, digits = made.points.get(place), made.paper(place), made.grid.digits
    stat = made.stat(point) if point else Stat({})
    if part == "paper":
        return number(paper, digits)
    if part == "ours" and point:
        if not stat.n:
            return missing_text(point, made.grid.figure.metric)
        return stat_text(stat, digits, made.most, binary=made.measure.binary, scale=made.grid.scale)
    if part == "ours" or paper is None or stat.mean is None:
        return MISSING
    return signed(stat.mean - paper, digits)


def _caption(made: Crossing) -> str:
    """What is shown, from how many trainings of which data, and the table's note."""
    figure, panel = made.grid.figure, made.panel
    counts = [stat.n for stat in map(made.stat, made.points.values()) if stat.n]
    deviation = "95 % interval of the share" if made.measure.binary else "± sample standard deviation"
    spread = deviation if made.most > 1 or made.measure.binary else "no deviation" if counts else ""
    n = f"{counted([made.most])} unless stated" if len(set(counts)) > 1 else counted(counts)
    shown = Measure("", made.measure.label, made.grid.unit).title
    what = "ours beside the paper's" if made.grid.paper else "ours"
    basis = "; ".join(text for text in (*panel.remarks, n, spread) if text)
    parts = (
        f"{panel.results.partial}." if panel.results.partial else "",
        f"{figure.title}. {shown[:1].upper()}{shown[1:]}, {what} ({basis}).",
        figure.note,
    )
    return " ".join(part for part in parts if part)


def _raw_header(made: Crossing) -> list[str]:
    ours = ("ours", "std", "planned", "n", "state")
    origin = ("data", "select_on", "flags")
    return [made.grid.figure.y, made.grid.figure.x, "metric", "unit", *ours, "paper", "difference", *origin]


def _raw_rows(made: Crossing) -> list[list[Raw]]:
    """A line for each place that is planned or in the paper."""
    places = ((row, column) for row in made.rows for column in made.columns)
    return [_raw(made, place) for place in places if place in made.points or made.paper(place) is not None]


def _raw(made: Crossing, place: Place) -> list[Raw]:
    head: list[Raw] = [*place, made.grid.figure.metric, made.grid.unit]
    point, paper = made.points.get(place), made.paper(place)
    if point is None:
        return [*head, None, None, 0, 0, "not planned", paper, None, "", "", ""]
    stat, protocol = made.stat(point), point.protocol
    difference = None if paper is None or stat.mean is None else stat.mean - paper
    origin = [protocol.data, protocol.select_on] if protocol else ["", ""]
    flags = "; ".join(made.flags_of([point]))
    return [*head, stat.mean, stat.std, len(point.cells), stat.n, point.state, paper, difference, *origin, flags]
