"""The four tables of a report, as people read them and with every digit; :mod:`.formats` writes them out."""

from collections.abc import Sequence
from dataclasses import dataclass

from capsexp.analysis.cells import SEED, Cell, Point, Stat
from capsexp.analysis.compare import Compared
from capsexp.analysis.conditions import axis_text
from capsexp.analysis.measures import MISSING, STANDARD, Measure, interval_text, number, signed
from capsexp.analysis.results import Results
from capsexp.analysis.spec import Spec

Raw = str | int | float | None


@dataclass(frozen=True)
class Table:
    """One table in two forms.

    Attributes:
        name: its files' stem.
        caption: one or two sentences, with PARTIAL where the sweep is.
        header: heads of the columns as shown.
        rows: cells of the table as shown.
        raw_header: heads of the columns of the CSV.
        raw_rows: full-precision values; None where there is none.
        missing: whether each row lacks its numbers.
        title: a heading, where the caption does not serve as one.
        parts: of a table in which several lines are one row: what each is; only the first has its first cell written.
        flags: what a reader must know before comparing.
    """

    name: str
    caption: str
    header: list[str]
    rows: list[list[str]]
    raw_header: list[str]
    raw_rows: list[list[Raw]]
    missing: list[bool]
    title: str = ""
    parts: Sequence[str] = ()
    flags: Sequence[str] = ()

    @property
    def words(self) -> str:
        """The text with the table: its caption and the caveats."""
        return f"{self.caption} Caveats: {'; '.join(self.flags)}." if self.flags else self.caption


# -- numbers as text --------------------------------------------------------------------------------------------------


def stat_text(stat: Stat, digits: int, n_of_row: int | None = None, *, binary: bool = False, scale: float = 1) -> str:
    """Mean and deviation, or a share of cells and its interval; n too where it is not the row's.

    Args:
        stat: the values.
        digits: decimals.
        n_of_row: the number of values that need not be said.
        binary: True if the values are 0 or ``scale``.
        scale: the factor of the values' unit.
    """
    if not stat.n:
        return "not finite" if stat.lost else MISSING
    text = number(stat.mean, digits)
    counted = all(isinstance(value, int) for value in stat.values.values())
    if binary:
        text += interval_text([value / scale for value in stat.values.values()], scale, digits)
    elif stat.std is not None and not (counted and stat.std == 0):  # a count that is the same for every seed
        text += f" ± {stat.std:.{digits}f}"
    return text if n_of_row in (None, stat.n) else f"{text} (n={stat.n})"


# -- the tables -------------------------------------------------------------------------------------------------------


def columns(spec: Spec, results: Results) -> list[Measure]:
    """The metrics to show: the block's, or the standard ones that every finished cell has."""
    if spec.columns is not None:
        return [spec.measure(metric) for metric in spec.columns]
    done = [cell for cell in results.cells if cell.done]
    kept = [metric for metric in STANDARD if done and all(cell.value(metric) is not None for cell in done)]
    return [spec.measure(metric) for metric in kept if metric not in spec.timings]


def results_table(spec: Spec, results: Results) -> Table:
    """One row for each point: n, and every metric's mean and deviation."""
    return _points_table("results", _caption(spec, results, "Means over seeds"), columns(spec, results), spec, results)


def timings_table(spec: Spec, results: Results) -> Table:
    """Everything measured with a clock; it depends on the machine and its load, and differs from run to run."""
    done = [cell.result or {} for cell in results.cells if cell.done]
    clocks = sorted({f"clocks.{key}" for body in done for key in (body.get("clocks") or {})})
    measures = [spec.measure(key) if key in spec.metrics else _clock(key) for key in clocks]
    measures += [spec.measure(metric) for metric in spec.timings if metric not in clocks]
    caption = _caption(spec, results, "Clocks, which depend on the machine and its load")
    return _points_table("timings", caption, measures, spec, results)


def _clock(key: str) -> Measure:
    """A clock is named as its key, whose end is its unit: ``clocks.epoch_s``, ``clocks.fast_batch1_ms``."""
    name, _, unit = key.removeprefix("clocks.").rpartition("_")
    return Measure(key, name.replace("_", " "), unit, 2)


def _points_table(name: str, caption: str, measures: list[Measure], spec: Spec, results: Results) -> Table:
    axes, parts = list(results.axes), results.mixed()
    keys = [spec.axis(axis).label for axis in axes] or ["cell"]
    rows, raw_rows = [], []
    for point in results.points:
        stats = [point.stat(measure.key) for measure in measures]
        values = [axis_text(point.axes[axis]) for axis in axes] or [_only(point)]
        values += [str(getattr(point.protocol, part, MISSING)) for part in parts]
        done = len(point.done)
        pairs = zip(stats, measures, strict=True)
        shown = [
            stat_text(stat, measure.digits, done, binary=measure.binary)
            for stat, measure in pairs
            if is_shown(measure, spec)
        ]
        rows.append([*values, str(done), point.state, *shown])
        raw_rows.append([*values, len(point.cells), done, point.state, *(raw for stat in stats for raw in _raw(stat))])
    return Table(
        name=name,
        caption=caption,
        header=[*keys, *parts, "n", "state", *(measure.title for measure in measures if is_shown(measure, spec))],
        rows=rows,
        raw_header=[
            *(axes or ["cell"]), *parts, "planned", "n", "state",
            *(f"{measure.key}{end}" for measure in measures for end in ("", ":std", ":n")),
        ],
        raw_rows=raw_rows,
        missing=[not point.done for point in results.points],
    )  # fmt: skip


def is_shown(measure: Measure, spec: Spec) -> bool:
    """False for the paper's count of parameters in a sweep that has no paper; the CSV has it all the same."""
    return measure.key != "params_paper" or bool(spec.source) or spec.columns is not None


def _only(point: Point) -> str:
    """The name of a point without axes: its cell's, if there are not several seeds."""
    return point.cells[0].name if len(point.cells) == 1 else f"{len(point.cells)} seeds"


def _raw(stat: Stat) -> tuple[Raw, Raw, Raw]:
    return stat.mean, stat.std, stat.n


def cells_table(spec: Spec, results: Results) -> Table:
    """One row for each planned cell, with nothing averaged; stale cells show no numbers."""
    measures = columns(spec, results)
    axes = [*results.axes, *([SEED] if SEED in results.sweep.axes else [])]
    data = "data.name" if "data" in axes else "data"  # swept, it is the head of a column already
    facts = ["state", "kind", "cause", "retried"]
    header = ["cell", *(spec.axis(axis).label for axis in axes), data, "chosen on"]
    unused = {
        place for place, _ in enumerate(facts) if place and not any(_facts(cell)[2:][place] for cell in results.cells)
    }
    raw_header = ["cell", *axes, data, "select_on", *facts, *(measure.key for measure in measures)]
    rows, raw_rows = [], []
    for cell in results.cells:
        values = [cell.value(measure.key) if cell.done else None for measure in measures]
        head = [cell.name, *(axis_text(cell.axes.get(axis)) for axis in axes), *_facts(cell)]
        kept = [text for place, text in enumerate(head, start=-len(header)) if place not in unused]
        rows.append(
            [text or MISSING for text in kept]
            + [number(v, m.digits) for v, m in zip(values, measures, strict=True) if is_shown(m, spec)]
        )
        raw_rows.append([*head, *values])
    caption = _caption(spec, results, "Every cell of the sweep")
    header += [fact for place, fact in enumerate(facts) if place not in unused]
    header += [measure.title for measure in measures if is_shown(measure, spec)]
    return Table("cells", caption, header, rows, raw_header, raw_rows, [not cell.done for cell in results.cells])


def _facts(cell: Cell) -> list[str]:
    protocol = cell.protocol
    origin = [protocol.data, protocol.select_on] if protocol else ["", ""]
    return [*origin, cell.state, cell.kind or "", cell.cause or "", str(cell.retried or "")]


def comparison_table(spec: Spec, results: Results, rows: Sequence[Compared]) -> Table:
    """Our numbers beside the paper's."""
    return Table(
        name="comparison",
        caption=_caption(spec, results, "Our numbers beside the paper's"),
        header=["quantity", "ours", "n", "at", "paper", "ours - paper", "data", "chosen on", "caveats", "note"],
        rows=[_compared(spec, row) for row in rows],
        raw_header=[
            *("what", "metric", "ours", "std", "n", "at", "paper", "difference", "data", "select_on", "flags", "note")
        ],
        raw_rows=[_raw_compared(row) for row in rows],
        missing=[not row.stat.n for row in rows],
    )  # fmt: skip


def _compared(spec: Spec, row: Compared) -> list[str]:
    digits, paper = spec.measure(row.row.metric).digits, row.paper
    ours = stat_text(row.stat, digits) if row.stat.n else row.problem
    theirs = number(paper, digits) if isinstance(paper, int | float) else paper or "not stated"
    difference = MISSING if row.difference is None else signed(row.difference, digits)
    protocol = row.protocol
    facts = [protocol.data, protocol.select_on] if protocol else [MISSING, MISSING]
    flags = "; ".join(row.flags) or MISSING
    return [
        row.row.what,
        ours,
        str(row.stat.n),
        row.where or MISSING,
        theirs,
        difference,
        *facts,
        flags,
        row.row.note or MISSING,
    ]


def _raw_compared(row: Compared) -> list[Raw]:
    data, select_on = (row.protocol.data, row.protocol.select_on) if row.protocol else ("", "")
    stat, asked = row.stat, row.row
    head: list[Raw] = [asked.what, asked.metric, stat.mean, stat.std, stat.n, row.where or row.problem]
    return [*head, row.paper, row.difference, data, select_on, "; ".join(row.flags), asked.note]


def _caption(spec: Spec, results: Results, what: str) -> str:
    sizes = sorted({len(point.done) for point in results.points if point.done})
    n = f"n = {sizes[0]}" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}" if sizes else "n = 0"
    spread = ", ± sample standard deviation" if sizes and sizes[-1] > 1 else ", no deviation" if sizes else ""
    data = ", ".join(sorted({each.data for each in results.protocols})) or "none yet"
    chosen = ", ".join(sorted({each.select_on for each in results.protocols}))
    text = f"{spec.title or results.sweep.name}. {what} ({n}{spread}; data: {data}"
    text += f"; model chosen on: {chosen})." if chosen else ")."
    return f"{results.partial}. {text}" if results.partial else text
