"""Cells, and points: the cells that differ in their seed alone, with the statistics over them.

Reports, :func:`capsexp.average_seeds` and the rules of claims all take their points and their statistics from here.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

SEED = "seed"
"""The one axis that is averaged over."""

STATES = ("done", "failed", "interrupted", "running", "pending", "missing", "corrupt", "stale")
"""The states of a planned cell; only ``done`` ones give numbers."""

PROTOCOL = ("data", "sha256", "test_split", "generated", "select_on")
"""Facts that numbers must share before they are averaged or compared with each other."""


@dataclass(frozen=True)
class Stat:
    """A mean over seeds.

    Attributes:
        values: finite value of each seed.
        lost: finished cells that recorded that their value is not finite.
    """

    values: dict[Any, float]
    lost: int = 0

    @property
    def n(self) -> int:
        """Number of values of the mean."""
        return len(self.values)

    @property
    def mean(self) -> float | None:
        """Mean of the values; None where there is none."""
        return average(list(self.values.values()))

    @property
    def std(self) -> float | None:
        """Sample standard deviation (ddof=1); None for fewer than two values."""
        return statistics.stdev(self.values.values()) if self.n > 1 else None

    def minus(self, other: "Stat") -> "Stat":
        """The difference, seed by seed; where the seeds differ, of the means alone (n = 1: no deviation)."""
        if not self.values or not other.values:
            return Stat({}, self.lost + other.lost)
        if self.values.keys() == other.values.keys():
            return Stat({seed: value - other.values[seed] for seed, value in self.values.items()})
        return Stat({None: (self.mean or 0.0) - (other.mean or 0.0)})


@dataclass(frozen=True)
class Protocol:
    """The data that a number comes from, and the split on which its model was chosen."""

    data: str = "unknown"
    sha256: str | None = None
    test_split: str | None = None
    generated: bool = False
    select_on: str = "unknown"


@dataclass(frozen=True)
class Cell:
    """A planned cell and what is on disk of it.

    Attributes:
        state: one of :data:`STATES`.
        cause: why it has no numbers, in one line.
        directory: None where there is none yet.
        result: None unless the cell is done or stale.
        kind: of a failed cell, which sort of cause it is.
        retried: how often the cell was put back into the queue; 0 of a done cell, whose numbers do not depend on it.
    """

    id: str
    name: str
    axes: dict[str, Any]
    state: str
    cause: str | None
    directory: Path | None
    result: dict[str, Any] | None
    kind: str | None = None
    retried: int = 0

    @property
    def done(self) -> bool:
        """True if the cell's numbers may be used."""
        return self.state == "done"

    @cached_property
    def protocol(self) -> Protocol | None:
        """The cell's protocol; None for a cell that is not done."""
        if not self.done or self.result is None:
            return None
        data = _mapping(self.result.get("data"))
        return Protocol(
            data=str(data.get("name", "unknown")),
            sha256=data.get("sha256"),
            test_split=data.get("test_split"),
            generated=bool(data.get("generated")),
            select_on=str(_mapping(self.result.get("training")).get("select_on", "unknown")),
        )

    def value(self, metric: str) -> float | int | None:
        """A metric's value: NaN where the cell recorded that it is not finite, None where it recorded nothing."""
        body = self.result or {}
        metrics = _mapping(body.get("metrics"))
        if metric in metrics:
            return math.nan if metrics[metric] is None else _number(metrics[metric])
        found: object = body
        for part in metric.split("."):
            found = _mapping(found).get(part)
        return _number(found)


@dataclass(frozen=True)
class Point:
    """The cells that differ in their seed alone: one row of a table."""

    axes: dict[str, Any]
    cells: tuple[Cell, ...]
    protocol: Protocol | None

    @property
    def done(self) -> list[Cell]:
        """The cells that give numbers."""
        return [cell for cell in self.cells if cell.done]

    @property
    def state(self) -> str:
        """``done``, or how many cells are in each other state."""
        missing = Counter(cell.state for cell in self.cells if not cell.done)
        if len(self.cells) == 1:
            return self.cells[0].state
        return ", ".join(f"{missing[state]} {state}" for state in STATES if missing[state]) or "done"

    def stat(self, metric: str) -> Stat:
        """The metric over this point's finished cells."""
        values = {hashable(cell.axes.get(SEED)): cell.value(metric) for cell in self.done}
        known = {seed: value for seed, value in values.items() if value is not None}
        finite = {seed: value for seed, value in known.items() if math.isfinite(value)}
        return Stat(finite, len(known) - len(finite))


Placed = TypeVar("Placed", Cell, Point)


def average(values: Sequence[float]) -> float | None:
    """The mean, in whatever order the values come; equal values as they are (a count stays whole), None for none."""
    if not values or min(values) == max(values):
        return values[0] if values else None
    return statistics.fmean(values)


def points_of(cells: Iterable[Cell], axes: Sequence[str]) -> list[Point]:
    """The points of cells over some axes, in the order in which their values come first.

    Cells of different protocols are never in one point.  A cell that is not done belongs to the one protocol of its
    place, or to a point without a protocol where there are several.
    """
    return [point for group in grouped(cells, axes).values() for point in _split(group, axes)]


def _split(group: list[Cell], axes: Sequence[str]) -> list[Point]:
    values = {axis: group[0].axes.get(axis) for axis in axes}
    protocols = sorted({cell.protocol for cell in group if cell.protocol}, key=repr)
    if len(protocols) < 2:
        return [Point(values, tuple(group), protocols[0] if protocols else None)]
    parts = {each: tuple(cell for cell in group if cell.protocol == each) for each in [*protocols, None]}
    return [Point(values, part, each) for each, part in parts.items() if part]


# -- values of axes ---------------------------------------------------------------------------------------------------


def grouped(items: Iterable[Placed], axes: Iterable[str]) -> dict[tuple[object, ...], list[Placed]]:
    """Cells or points apart by their values on some axes, in the order in which these come first."""
    groups: dict[tuple[object, ...], list[Placed]] = {}
    for item in items:
        groups.setdefault(tuple([hashable(item.axes.get(axis)) for axis in axes]), []).append(item)
    return groups


def in_order(items: Iterable[Placed], axes: Sequence[str]) -> list[Placed]:
    """Cells or points sorted by their values on some axes."""
    return sorted(items, key=lambda item: [order(item.axes.get(axis)) for axis in axes])


def order(value: object) -> tuple[bool, float, str, str]:
    """Sorts the values of an axis: numbers by size, then everything else by its text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return False, value, "", ""
    return True, 0.0, str(value), type(value).__name__


def hashable(value: object) -> object:
    """An axis' value as a dictionary key.

    Equal numbers are one key.  True and 1 are two; lists and mappings are equal by their JSON text.
    """
    if isinstance(value, str | int | float | None) and not isinstance(value, bool):
        return value
    return "json", json.dumps(value, sort_keys=True)


def is_number(value: object) -> bool:
    """True if a value is a number, which a boolean is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object) -> float | int | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
