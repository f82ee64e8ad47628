"""Points of a sweep chosen by the values of their axes, and conditions, points and values as text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from capsexp.analysis.cells import Point
from capsexp.analysis.measures import Labels
from capsexp.analysis.results import Results


@dataclass(frozen=True)
class Condition:
    """A condition on an axis' value: between bounds, or one of some values."""

    values: tuple[Any, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None

    def holds(self, value: object) -> bool:
        """True if an axis' value satisfies this condition; a text never lies between bounds."""
        if self.values is not None:
            return value in self.values
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        above = self.minimum is None or value >= self.minimum
        return above and (self.maximum is None or value <= self.maximum)


def unswept(where: Mapping[str, Condition], results: Results) -> str:
    """The first key of the conditions that is no axis of the sweep; empty where all are."""
    return next((axis for axis in where if axis not in results.axes), "")


def select(points: Sequence[Point], where: Mapping[str, Condition]) -> list[Point]:
    """The points whose axes' values satisfy every condition."""
    return [point for point in points if all(rule.holds(point.axes.get(axis)) for axis, rule in where.items())]


def extreme(points: Sequence[Point], metric: str, reduce: str) -> Point | None:
    """The point with the largest (``max``) or smallest (``min``) mean; the first of equals; None without a value."""
    means = [(point.stat(metric).mean, point) for point in points]
    found = [(mean, point) for mean, point in means if mean is not None]
    if not found:
        return None
    best = (max if reduce == "max" else min)(mean for mean, _ in found)
    return next(point for mean, point in found if mean == best)


def place(point: Point, spec: Labels) -> str:
    """A point's axes as text: ``c2 = 7, c3 = 6``."""
    return ", ".join(f"{spec.axis(axis).label} = {axis_text(value)}" for axis, value in point.axes.items())


def asked(where: Mapping[str, Condition], spec: Labels) -> str:
    """Conditions as text: ``c1 = 2 or 4, c2 ≥ 7``."""
    return ", ".join(_rule(spec.axis(axis).label, rule) for axis, rule in where.items())


def _rule(label: str, rule: Condition) -> str:
    if rule.values is not None:
        return f"{label} = {' or '.join(map(axis_text, rule.values)) or 'nothing'}"
    ends = (("≥", rule.minimum), ("≤", rule.maximum))
    return " and ".join(f"{label} {sign} {axis_text(end)}" for sign, end in ends if end is not None)


def axis_text(value: object) -> str:
    """An axis' value as text, so that two values never look the same; words as YAML spells them."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return repr(value) if isinstance(value, float) and float(short) != value else short
