"""A sweep's folder as values: what is planned, what is done, and what is left over."""

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from capsexp import records
from capsexp.analysis import unplanned
from capsexp.analysis.cells import PROTOCOL, SEED, STATES, Cell, Point, Protocol, hashable, is_number, points_of
from capsexp.errors import CommandError
from capsexp.text import no_metric


class ReportError(CommandError):
    """The folder cannot be reported on; the message says why, in one line."""


@dataclass(frozen=True)
class Results:
    """Everything that a report is made of.

    Attributes:
        sweep: the plan.
        cells: the planned cells, in order of their axes' values.
        points: the same, grouped over seeds and never over protocols.
        axes: swept keys but the seed, with their values in order.
        protocols: those of the finished cells.
        orphans: names of cell directories that are not in the plan.
    """

    sweep: records.Sweep
    cells: list[Cell]
    points: list[Point]
    axes: dict[str, list[Any]]
    protocols: list[Protocol]
    orphans: list[str]

    @property
    def counts(self) -> dict[str, int]:
        """Number of planned cells in each state that occurs."""
        states = Counter(cell.state for cell in self.cells)
        return {state: states[state] for state in STATES if states[state]}

    @property
    def partial(self) -> str:
        """Empty for a complete sweep, else how far it is: the words at the top of the page and in captions."""
        done = sum(cell.done for cell in self.cells)
        if done == len(self.cells) and done:
            return ""
        missing = ", ".join(f"{count} {state}" for state, count in self.counts.items() if state != "done")
        return f"PARTIAL: {done} of {len(self.cells)} cells done" + (f" ({missing})" if missing else "")

    def lacks(self, metric: str) -> str:
        """Says that the cells asked for have no value of a metric: not yet, none at all, or others alone have it."""
        if self.partial:
            return f"no cell has {metric} yet"
        bodies = [cell.result or {} for cell in self.cells]
        if any(records.has_metric(body, metric) for body in bodies):
            return f"no cell that it asks for has a value of {metric}"
        return no_metric(metric, {name for body in bodies for name in records.metric_names(body)})

    def differing(self) -> list[str]:
        """The parts of the protocol that are not the same in all finished cells."""
        return [part for part in PROTOCOL if len({getattr(each, part) for each in self.protocols}) > 1]

    def mixed(self) -> list[str]:
        """Those of the differing parts that do not follow from a swept key of the data, such as ``data.select_on``.

        What was swept stands at the axis of a table or picture; what is mixed must be told apart by other means.
        """
        swept = [axis for axis in self.axes if axis.split(".")[0] == "data"]
        return [part for part in self.differing() if not any(self._decides(axis, part) for axis in swept)]

    def _decides(self, axis: str, part: str) -> bool:
        """Whether all finished cells with one value of an axis share one value of a part of the protocol."""
        seen: dict[object, object] = {}
        pairs = [(hashable(c.axes.get(axis)), getattr(c.protocol, part)) for c in self.cells if c.protocol]
        return all(seen.setdefault(value, found) == found for value, found in pairs)

    def apart(self, points: Sequence[Point]) -> list[list[Point]]:
        """The points apart for each combination of the mixed parts; cells that are not done belong to all of them."""
        parts = self.mixed()
        keys = [tuple(getattr(each, part) for part in parts) for each in self.protocols]
        groups = [
            [p for p in points if not p.protocol or tuple(getattr(p.protocol, part) for part in parts) == key]
            for key in dict.fromkeys(keys)
        ]
        return [group for group in groups if any(point.protocol for point in group)] or [list(points)]

    def by_protocol(self, points: Sequence[Point]) -> list[tuple[Protocol | None, list[Point]]]:
        """The points apart for each protocol that finished there; cells that are not done belong to all of them."""
        present = [each for each in self.protocols if any(point.protocol == each for point in points)]
        if not present:
            return [(None, list(points))]
        return [(each, [point for point in points if point.protocol in (each, None)]) for each in present]


def read(directory: Path) -> Results:
    """Read a sweep's folder.

    Raises:
        ReportError: it is no sweep's folder.
    """
    sweep = plan(directory)
    found = records.cell_directories(directory)
    axes = {axis: ordered([cell.axes.get(axis) for cell in sweep.cells], values) for axis, values in sweep.axes.items()}
    rank = {axis: {hashable(value): place for place, value in enumerate(values)} for axis, values in axes.items()}
    cells = [read_cell(planned, found.get(planned.id)) for planned in sweep.cells]
    cells.sort(key=lambda cell: [rank[axis][hashable(cell.axes.get(axis))] for axis in axes])
    planned_ids = {cell.id for cell in sweep.cells}
    protocols = sorted({cell.protocol for cell in cells if cell.protocol}, key=repr)
    return Results(
        sweep=sweep,
        cells=cells,
        points=points_of(cells, [axis for axis in axes if axis != SEED]),
        axes={axis: values for axis, values in axes.items() if axis != SEED},
        protocols=protocols,
        orphans=sorted(path.name for identifier, path in found.items() if identifier not in planned_ids),
    )


def plan(directory: Path) -> records.Sweep:
    """The plan in a sweep's folder; of a folder without one, the plan that its cells amount to.

    Raises:
        ReportError: there is neither a plan nor a cell, or the plan is damaged.
    """
    if not directory.is_dir():
        raise ReportError(f"{directory} is not a folder")
    if not os.path.lexists(directory / records.SWEEP):
        if any((directory / name).is_file() for name in (records.STATUS, records.RESULT)):
            raise ReportError(
                f"{directory} is the folder of a single cell; give its sweep's, {directory.resolve().parent}"
            )
        made = unplanned.plan_of_cells(directory)
        if made is None:
            raise ReportError(f"{directory} has no plan ({records.SWEEP}): no sweep was launched in it")
        return made
    sweep = records.read_sweep(directory)
    if sweep is None:
        raise ReportError(f"{directory / records.SWEEP} is not a whole plan; launch the sweep again to rewrite it")
    return sweep


def command(sweep: records.Sweep) -> str:
    """The command that launched a sweep, as it was given; empty if its cells were launched one by one."""
    planned = sweep.overrides or sweep.launch
    options = sweep.launch.get("options") if isinstance(sweep.launch, dict) else None
    words = [*(options if isinstance(options, list) else []), *sweep.overrides]
    return shlex.join(["python", "-m", "capsexp", *map(str, words), "-m"]) if planned else ""


def read_cell(planned: records.PlannedCell, directory: Path | None) -> Cell:
    """A planned cell as its directory shows it; None = it has none."""
    if directory is None:
        return Cell(planned.id, planned.name, planned.axes, "missing", None, None, None)
    try:
        status, result = _status(directory), records.read_result(directory)
        damage = records.status_damage(directory)
    except OSError as error:  # one cell that may not be read hides no other
        unread = f"cannot be read: {type(error).__name__}: {error}"
        return Cell(planned.id, planned.name, planned.axes, "corrupt", unread, directory, None)
    if result is not None and result.get("id", planned.id) == planned.id:
        # The id says that it is the same work: whatever became of the process after, the numbers are whole.
        other, stale = _other_place(planned, result), records.stale_cause(result)
        state = "corrupt" if other else "stale" if stale else "done"
        return Cell(planned.id, planned.name, planned.axes, state, other or stale, directory, None if other else result)
    cause = damage or (status.cause if status else None)
    state = status.state if status else "corrupt" if damage else "missing"
    if state == "done" or (status is None and os.path.lexists(directory / records.RESULT)):
        state, cause = "corrupt", f"{records.RESULT} is missing or not whole"
    kind, retried = (status.kind, len(status.retried)) if status and state == status.state else (None, 0)
    return Cell(planned.id, planned.name, planned.axes, state, cause, directory, None, kind, retried)


def _other_place(planned: records.PlannedCell, result: Mapping[str, Any]) -> str | None:
    """What is wrong if the plan puts a result at other numbers than those it was computed for; else None."""
    computed = result.get("axes")
    if not isinstance(computed, dict):
        return None
    for key, value in planned.axes.items():
        if key in computed and is_number(value) and is_number(computed[key]) and value != computed[key]:
            return f"the plan says {key}={value}, its result {key}={computed[key]}: {records.SWEEP} is damaged"
    return None


def _status(directory: Path) -> records.Status | None:
    """A cell's status; what its process could not write itself is said without numbers that change by the minute."""
    status = records.read_status(directory)
    written = (records.read_json(directory / records.STATUS) or {}).get("state")
    if status and status.state == "interrupted" and written == "running":
        return replace(status, cause="its process died")
    return status


def ordered(found: Iterable[Any], planned: Iterable[Any]) -> list[Any]:
    """An axis' values, each once: numbers from small to large, anything else in the order of the plan."""
    used = {hashable(value): value for value in found}
    values = [value for value in planned if hashable(value) in used]
    values += [value for key, value in used.items() if key not in {hashable(each) for each in values}]
    return sorted(values) if all(is_number(value) for value in values) else values
