"""One number of a source against one of another, or against a constant."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from capsexp.analysis import checks
from capsexp.analysis.claims import quantity
from capsexp.analysis.claims.evidence import Evidence, LackingError
from capsexp.analysis.claims.finding import Finding, Verdict, within
from capsexp.analysis.claims.labels import Labels
from capsexp.analysis.claims.quantity import Found, Quantity
from capsexp.errors import require, require_choice, require_number

RELATIONS = {
    "near": "between -{0} and {0}",
    "above": "above {0}",
    "below": "below -{0}",
    "at_least_near": "at least -{0}",
    "at_most_near": "at most {0}",
}

TURNED = "cells are lacking, and more of them could turn it"


@dataclass(frozen=True)
class Gap:
    """The gap is the first number less the second; ``relative``: divided by the size of the second.

    ``near`` holds if the gap is within the tolerance to either side, ``at_least_near`` if it is at least -tolerance,
    ``at_most_near`` if it is at most the tolerance, ``above`` if it exceeds the tolerance, ``below`` if it is less
    than -tolerance.  Undecided where a number is missing, and where a constant, which is a number of the paper's, meets
    other data than the paper's.

    Where cells of a source are lacking, a largest value is a lower bound (more cells could only raise it), a lowest one
    an upper bound, and a mean or the number of the best place may go either way.  A verdict that more cells could turn
    is undecided.
    """

    KEYS: ClassVar = frozenset({"a", "b", "relation", "tolerance", "relative"})
    NEEDED: ClassVar = frozenset({"a", "b", "relation"})

    a: Quantity
    b: Quantity
    relation: str
    tolerance: float
    relative: bool = False

    @classmethod
    def parse(cls, key: str, raw: Mapping[str, Any], tolerance: float) -> "Gap":
        """The checked form of a claim's keys."""
        a, b = quantity.parse(f"{key}.a", raw["a"]), quantity.parse(f"{key}.b", raw["b"])
        require(bool(a.source), f"{key}.a", "name a source", raw["a"])
        relation = require_choice(f"{key}.relation", str(raw["relation"]), RELATIONS)
        given = require_number(f"{key}.tolerance", raw.get("tolerance", tolerance), 0)
        return cls(a, b, relation, given, checks.switch(f"{key}.relative", raw.get("relative", False)))

    @property
    def sources(self) -> tuple[str, ...]:
        """The source of each number that is no constant."""
        return tuple(dict.fromkeys(each.source for each in (self.a, self.b) if each.source))

    @property
    def measured(self) -> tuple[str, ...]:
        """The metrics of both numbers, and those that choose their places."""
        return tuple(name for each in (self.a, self.b) for name in (each.metric, each.best) if name)

    def rule(self, labels: Labels) -> str:
        """What is measured and how it is decided."""
        size = f"{100 * self.tolerance:g} %" if self.relative else f"{self.tolerance:g}"
        b = self.b.words(labels) if self.b.source else f"{self.b.words(labels)}, the paper's number"
        formula = "(A - B) / |B|" if self.relative else "A - B"
        return (
            f"{formula}, where A is {self.a.words(labels)}, and B {b}; it holds if that gap is"
            f" {RELATIONS[self.relation].format(size)}{self._caution()}."
        )

    def _caution(self) -> str:
        chosen = any(each.reduce or each.best for each in (self.a, self.b))
        return "; undecided where cells are lacking that could turn it" if chosen else ""

    def judge(self, evidence: Evidence, labels: Labels) -> Finding:
        """The gap, with the places of both numbers."""
        a, b = self.a.find(evidence, labels), self.b.find(evidence, labels)
        if self.relative and not b.value:
            raise LackingError(self.a.source, "B is 0, and nothing is a share of it")
        gap = (a.value - b.value) / (abs(b.value) if self.relative else 1.0)
        right: Verdict = "holds" if holds(self.relation, gap, self.tolerance) else "does not hold"
        doubts = self._doubts(gap, a, b, evidence)
        shown = f"{100 * gap:+.1f} %" if self.relative else labels.signed(self.a.metric, gap)
        number = f"{labels.number(self.a.metric, a.value)}, gap {shown}"
        samples = tuple(each.sample for each in (a, b) if each.sample)
        lines = (f"A: {a.words}", f"B: {b.words}", f"gap {shown}", *doubts)
        lacking = [each.sample.part.source for each in (a, b) if each.sample and (each.can_rise or each.can_fall)]
        turned = tuple(dict.fromkeys(lacking)) if TURNED in doubts else ()
        return Finding("undecided" if doubts else right, number, lines, samples, turned)

    def _doubts(self, gap: float, a: Found, b: Found, evidence: Evidence) -> list[str]:
        """Why the gap decides nothing; empty where it decides."""
        if not (self.b.source or evidence.papers):
            return ["the paper's number is of its own data, on which alone it can be checked"]
        # A share of B moves with B in a direction that depends on both signs.
        share = self.relative and (b.can_rise or b.can_fall)
        up, down = a.can_rise or b.can_fall or share, a.can_fall or b.can_rise or share
        return [] if settled(self.relation, gap, self.tolerance, up, down) else [TURNED]


def holds(relation: str, gap: float, tolerance: float) -> bool:
    """Whether a gap is as the relation says."""
    low, high = within(-gap, tolerance), within(gap, tolerance)
    return {
        "near": low and high,
        "above": not high,
        "below": not low,
        "at_least_near": low,
        "at_most_near": high,
    }[relation]


def settled(relation: str, gap: float, tolerance: float, up: bool, down: bool) -> bool:
    """Whether the answer stays what it is, however far the gap moves.

    Args:
        relation: what is claimed.
        gap: as it is now.
        tolerance: where answers change, to either side of 0.
        up: whether it can grow.
        down: whether it can shrink.
    """
    # Answers change at -tolerance and tolerance alone, so one gap stands for each of the three stretches.
    moved = [each for each in (-math.inf, 0.0, math.inf) if (up and each > gap) or (down and each < gap)]
    return len({holds(relation, each, tolerance) for each in (gap, *moved)}) == 1
