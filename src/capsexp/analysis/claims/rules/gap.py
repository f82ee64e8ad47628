"""One number of a source against one of another, or against a constant."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, ValidationInfo, field_validator

from capsexp.analysis.cells import Point
from capsexp.analysis.claims.evidence import Evidence, LackingError, Sample, mean_of
from capsexp.analysis.claims.rules.base import Answer, Labels, Near, Verdict, code, within
from capsexp.analysis.validation import Conditions, Model, Number
from capsexp.errors import require, require_number
from capsexp.text import count

REDUCES = {"": "", "max": "largest ", "min": "lowest ", "mean": "mean "}
RELATIONS = {
    "near": "between -{0} and {0}",
    "above": "above {0}",
    "below": "below -{0}",
    "at_least_near": "at least -{0}",
    "at_most_near": "at most {0}",
}
TURNED = "cells are lacking, and more of them could turn it"


@dataclass(frozen=True, eq=False)
class Amount:
    """A number and its origin.

    Attributes:
        words: the number's meaning and origin.
        sample: the cells used; None: a constant.
        can_rise: True if more cells could raise it: cells are lacking, and it is no lowest value.
        can_fall: True if more cells could lower it.
    """

    value: float
    words: str
    sample: Sample | None = None
    can_rise: bool = False
    can_fall: bool = False


class Quantity(Model):
    """One number of a source: the largest, the lowest, the mean, or that of a single point.

    Attributes:
        reduce: ``max``, ``min`` or ``mean`` over the points that ``where`` leaves; empty: these are one point.
        best: a metric; the number is that of the point where this one is largest.
        factor: the number is multiplied by it.
    """

    source: str
    metric: str
    reduce: Literal["", "max", "min", "mean"] = ""
    best: str = ""
    where: Conditions = Field(default={})
    factor: Number = 1.0

    @field_validator("best")
    @classmethod
    def _alone(cls, best: str, info: ValidationInfo) -> str:
        require(not (best and info.data.get("reduce")), "", "not be given beside reduce", best)
        return best

    def words(self, labels: Labels) -> str:
        """The number's meaning."""
        times = f"{self.factor:g} times " if self.factor != 1 else ""
        best = f" where its {labels.name(self.best)} is largest" if self.best else ""
        of = f"{labels.name(self.metric)} of {code(self.source)}{labels.where(self.where)}"
        return f"{times}the {REDUCES[self.reduce]}{of}{best}"

    def find(self, evidence: Evidence, labels: Labels) -> Amount:
        """The number under one protocol.

        Raises:
            LackingError: the source has no cells for it, or several points and no rule that chooses.
        """
        sample = evidence.part(self.source).sample(self.where, *[self.metric, *([self.best] if self.best else [])])
        value, point = self._reduced(sample)
        at = f" at {labels.point(point)}" if point else f" over {count(len(sample.points), 'place')}"
        shown = labels.number(self.metric, value * self.factor)
        return Amount(value * self.factor, f"{self.words(labels)}: {shown}{at}", sample, *self._open(sample))

    def _open(self, sample: Sample) -> tuple[bool, bool]:
        """True or false: more cells could raise the number; and: they could lower it."""
        if sample.complete or not (self.reduce or self.best):
            return False, False
        # A mean over other seeds than the rest's may go either way, and take the extreme with it.
        even = len({len(point.cells) for point in sample.points}) == 1
        if not even or self.reduce not in ("max", "min"):
            return True, True
        up = (self.reduce == "max") == (self.factor >= 0)
        return up, not up

    def _reduced(self, sample: Sample) -> tuple[float, Point | None]:
        """The number before the factor, and its point; None: all points."""
        points = sample.points
        if self.best:
            point = max(points, key=lambda point: mean_of(point.cells, self.best))
        elif self.reduce == "mean":
            return sum(mean_of(point.cells, self.metric) for point in points) / len(points), None
        elif self.reduce:
            point = (max if self.reduce == "max" else min)(points, key=lambda point: mean_of(point.cells, self.metric))
        elif len(points) > 1:
            found = f"{len(points)} places of {self.source} match"
            raise LackingError(self.source, f"{found}: the claim needs reduce or where")
        else:
            point = points[0]
        return mean_of(point.cells, self.metric), point


def _quantity_or_number(value: object) -> Quantity | float:
    return Quantity.model_validate(value) if isinstance(value, Mapping) else require_number("", value)


class Gap(Near):
    """The gap is the first number less the second; ``relative``: divided by the size of the second.

    ``near`` holds if the gap is within the tolerance to either side, ``at_least_near`` if it is at least -tolerance,
    ``at_most_near`` if it is at most the tolerance, ``above`` if it exceeds the tolerance, ``below`` if it is less
    than -tolerance.  Undecided where a number is missing, and where a constant, which is a number of the paper's, meets
    other data than the paper's.

    Where cells of a source are lacking, a largest value is a lower bound (more cells could only raise it), a lowest one
    an upper bound, and a mean or the number of the best point may go either way.  A verdict that more cells could turn
    is undecided.
    """

    kind: Literal["gap"]
    a: Quantity
    b: Annotated[Quantity | float, PlainValidator(_quantity_or_number, json_schema_input_type=Quantity | float)]
    relation: Literal["near", "above", "below", "at_least_near", "at_most_near"]
    relative: bool = False

    @field_validator("a", mode="before")
    @classmethod
    def _of_a_source(cls, a: object) -> object:
        require(isinstance(a, Mapping), "", "name a source", a)
        return a

    @property
    def _quantities(self) -> list[Quantity]:
        return [each for each in (self.a, self.b) if isinstance(each, Quantity)]

    @property
    def sources(self) -> tuple[str, ...]:
        """The source of each number that is no constant."""
        return tuple(dict.fromkeys(each.source for each in self._quantities))

    @property
    def measured(self) -> tuple[str, ...]:
        """The metrics of both numbers, and those that choose their points."""
        return tuple(name for each in self._quantities for name in (each.metric, each.best) if name)

    def describe(self, labels: Labels) -> str:
        """The measured quantity and the rule that decides."""
        size = f"{100 * self.tolerance:g} %" if self.relative else f"{self.tolerance:g}"
        formula = "(A - B) / |B|" if self.relative else "A - B"
        b = self.b.words(labels) if isinstance(self.b, Quantity) else f"{self.b:,.12g}, the paper's number"
        chosen = any(each.reduce or each.best for each in self._quantities)
        return (
            f"{formula}, where A is {self.a.words(labels)}, and B {b}; it holds if that gap is"
            f" {RELATIONS[self.relation].format(size)}"
            f"{'; undecided where cells are lacking that could turn it' if chosen else ''}."
        )

    def judge(self, evidence: Evidence, labels: Labels) -> Verdict:
        """The gap, with the points of both numbers."""
        a = self.a.find(evidence, labels)
        b = self.b.find(evidence, labels) if isinstance(self.b, Quantity) else Amount(self.b, f"{self.b:,.12g}")
        if self.relative and not b.value:
            raise LackingError(self.a.source, "B is 0, and nothing is a share of it")
        gap = (a.value - b.value) / (abs(b.value) if self.relative else 1.0)
        right: Answer = "holds" if holds(self.relation, gap, self.tolerance) else "does not hold"
        doubts = self._doubts(gap, a, b, evidence)
        shown = f"{100 * gap:+.1f} %" if self.relative else labels.signed(self.a.metric, gap)
        number = f"{labels.number(self.a.metric, a.value)}, gap {shown}"
        lines = (f"A: {a.words}", f"B: {b.words}", f"gap {shown}", *doubts)
        samples = tuple(each.sample for each in (a, b) if each.sample)
        lacking = [each.sample.part.source for each in (a, b) if each.sample and (each.can_rise or each.can_fall)]
        turned = tuple(dict.fromkeys(lacking)) if TURNED in doubts else ()
        return Verdict("undecided" if doubts else right, number, lines, samples, turned)

    def _doubts(self, gap: float, a: Amount, b: Amount, evidence: Evidence) -> list[str]:
        """The reasons for which the gap decides nothing; empty where it decides."""
        if not (b.sample or evidence.papers):
            return ["the paper's number is of its own data, on which alone it can be checked"]
        # A share of B moves with B in a direction that depends on both signs.
        share = self.relative and (b.can_rise or b.can_fall)
        up, down = a.can_rise or b.can_fall or share, a.can_fall or b.can_rise or share
        return [] if settled(self.relation, gap, self.tolerance, up, down) else [TURNED]


def holds(relation: str, gap: float, tolerance: float) -> bool:
    """True if a gap is as the relation says."""
    low, high = within(-gap, tolerance), within(gap, tolerance)
    return {
        "near": low and high,
        "above": not high,
        "below": not low,
        "at_least_near": low,
        "at_most_near": high,
    }[relation]


def settled(relation: str, gap: float, tolerance: float, up: bool, down: bool) -> bool:
    """True if the answer stays the same, however far the gap moves.

    Args:
        relation: the claimed relation.
        gap: as it is now.
        tolerance: where answers change, to either side of 0.
        up: whether it can grow.
        down: whether it can shrink.
    """
    # Answers change at -tolerance and tolerance alone, so one gap stands for each of the three stretches.
    moved = [each for each in (-math.inf, 0.0, math.inf) if (up and each > gap) or (down and each < gap)]
    return len({holds(relation, each, tolerance) for each in (gap, *moved)}) == 1
