"""A region of a grid over which a metric hardly falls."""

from typing import Literal

from pydantic import field_validator

from capsexp.analysis.cells import Point
from capsexp.analysis.claims.evidence import Evidence
from capsexp.analysis.claims.rules.base import (
    Answer,
    Labels,
    OfMetric,
    OfSource,
    Verdict,
    code,
    too_few,
    within,
)
from capsexp.analysis.conditions import Condition
from capsexp.analysis.validation import Conditions
from capsexp.errors import require


class Flat(OfSource, OfMetric):
    """The drop is the best value of the whole grid less the lowest within the region.

    Does not hold if the drop exceeds the tolerance: more cells can only widen it.  Holds if it does not, and the grid
    has at least eight cells; undecided with fewer, or with none in the region.
    """

    kind: Literal["flat"]
    where: Conditions

    @field_validator("where")
    @classmethod
    def _region(cls, where: dict[str, Condition]) -> dict[str, Condition]:
        require(bool(where), "", "name a region", where)
        return where

    def describe(self, labels: Labels) -> str:
        """The measured quantity and the rule that decides."""
        return (
            f"The best {labels.name(self.metric)} of {code(self.source)} less the lowest{labels.where(self.where)}; it"
            f" holds if that drop is at most {self.tolerance:g}."
        )

    def judge(self, evidence: Evidence, labels: Labels) -> Verdict:
        """The drop within the region, and outside for comparison."""
        part = evidence.part(self.source)
        whole, region = part.sample({}, self.metric), part.sample(self.where, self.metric)
        inside = [point.axes for point in region.points]
        outside = [point for point in whole.points if point.axes not in inside]
        best, low = max(whole.points, key=self.value), min(region.points, key=self.value)
        drop = self.value(best) - self.value(low)
        few = too_few(len(whole.points), whole)
        answer: Answer = "does not hold" if not within(drop, self.tolerance) else "undecided" if few else "holds"
        lines = [
            f"best {self.words(best, labels)}",
            f"lowest in the region {self.words(low, labels)}: a drop of {labels.number(self.metric, drop)}",
            self._outside(outside, self.value(best), labels),
            *([f"too few: {few}"] if answer == "undecided" else []),
        ]
        lacking = self.sources if answer == "undecided" else ()
        return Verdict(answer, f"drop {labels.number(self.metric, drop)}", tuple(lines), (whole,), lacking)

    def _outside(self, points: list[Point], best: float, labels: Labels) -> str:
        if not points:
            return "no cell outside the region"
        low = min(points, key=self.value)
        return f"outside it drops by {labels.number(self.metric, best - self.value(low))}, at {labels.point(low)}"
