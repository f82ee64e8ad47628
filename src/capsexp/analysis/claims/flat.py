"""A region of a grid over which a metric hardly falls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from capsexp.analysis import checks
from capsexp.analysis.claims.evidence import Evidence, Place, Where
from capsexp.analysis.claims.finding import Finding, Verdict, too_few, within
from capsexp.analysis.claims.labels import Labels, code
from capsexp.errors import require, require_number


@dataclass(frozen=True)
class Flat:
    """The drop is the best value of the whole grid less the lowest within the region.

    Does not hold if the drop exceeds the tolerance: more cells can only widen it.  Holds if it does not, and the grid
    has at least eight cells; undecided with fewer, or with none in the region.
    """

    KEYS: ClassVar = frozenset({"source", "metric", "where", "tolerance"})
    NEEDED: ClassVar = frozenset({"source", "metric", "where"})

    source: str
    metric: str
    where: Where
    tolerance: float

    @classmethod
    def parse(cls, key: str, raw: Mapping[str, Any], tolerance: float) -> "Flat":
        """The checked form of a claim's keys."""
        where = checks.conditions(key, {"where": raw["where"]})
        require(bool(where), f"{key}.where", "name a region", raw["where"])
        given = require_number(f"{key}.tolerance", raw.get("tolerance", tolerance), 0)
        return cls(checks.text(f"{key}.source", raw["source"]), str(raw["metric"]), where, given)

    @property
    def sources(self) -> tuple[str, ...]:
        """The one source."""
        return (self.source,)

    @property
    def measured(self) -> tuple[str, ...]:
        """The metric."""
        return (self.metric,)

    def rule(self, labels: Labels) -> str:
        """What is measured and how it is decided."""
        name = labels.name(self.metric)
        return (
            f"The best {name} of {code(self.source)} less the lowest{labels.where(self.where)}; it holds if that drop"
            f" is at most {self.tolerance:g}."
        )

    def judge(self, evidence: Evidence, labels: Labels) -> Finding:
        """The drop within the region, and outside for comparison."""
        part = evidence.part(self.source)
        whole, region = part.sample({}, self.metric), part.sample(self.where, self.metric)
        inside = [place.axes for place in region.places]
        outside = [place for place in whole.places if place.axes not in inside]
        best, low = max(whole.places, key=self._value), min(region.places, key=self._value)
        drop = self._value(best) - self._value(low)
        few = too_few(len(whole.places), whole)
        verdict: Verdict = "does not hold" if not within(drop, self.tolerance) else "undecided" if few else "holds"
        lines = [
            f"best {labels.number(self.metric, self._value(best))} at {labels.place(best)}",
            f"lowest in the region {labels.number(self.metric, self._value(low))} at {labels.place(low)}: a drop of"
            f" {labels.number(self.metric, drop)}",
            self._outside(outside, self._value(best), labels),
            *([f"too few: {few}"] if verdict == "undecided" else []),
        ]
        lacking = (self.source,) if verdict == "undecided" else ()
        return Finding(verdict, f"drop {labels.number(self.metric, drop)}", tuple(lines), (whole,), lacking)

    def _value(self, place: Place) -> float:
        return place.mean(self.metric)

    def _outside(self, places: list[Place], best: float, labels: Labels) -> str:
        if not places:
            return "no cell outside the region"
        low = min(places, key=self._value)
        return f"outside it drops by {labels.number(self.metric, best - self._value(low))}, at {labels.place(low)}"
