"""Which of an axis' values is best on a metric."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from capsexp.analysis import checks
from capsexp.analysis.cells import SEED
from capsexp.analysis.claims import pairs
from capsexp.analysis.claims.evidence import Evidence, LackingError, Sample, Where
from capsexp.analysis.claims.finding import Finding
from capsexp.analysis.claims.labels import Labels, code
from capsexp.analysis.claims.pairs import Side
from capsexp.analysis.conditions import Condition
from capsexp.errors import require, require_number


@dataclass(frozen=True)
class Rank:
    """One value of an axis against each of the others named, paired at equal values of all other axes and seeds.

    The differences of a seed are averaged, and Student's interval (95 %) of their mean over the seeds decides each
    comparison as :func:`pairs.lead` says: better, worse, equal within the tolerance, or undecided (always with one
    seed).  The claim holds if the value is better than every other one, and does not hold if it is worse than one of
    them or equal to it.
    """

    KEYS: ClassVar = frozenset({"source", "metric", "axis", "best", "against", "where", "tolerance"})
    NEEDED: ClassVar = frozenset({"source", "metric", "axis", "best", "against"})

    source: str
    metric: str
    axis: str
    best: str
    against: tuple[str, ...]
    where: Where
    tolerance: float

    @classmethod
    def parse(cls, key: str, raw: Mapping[str, Any], tolerance: float) -> "Rank":
        """The checked form of a claim's keys."""
        source, metric, axis, best = (checks.text(f"{key}.{k}", raw[k]) for k in ("source", "metric", "axis", "best"))
        against = tuple(checks.texts(f"{key}.against", raw["against"]))
        require(bool(against) and best not in against, f"{key}.against", "name the other values", raw["against"])
        where = checks.conditions(key, {"where": raw.get("where")})
        given = require_number(f"{key}.tolerance", raw.get("tolerance", tolerance), 0)
        return cls(source, metric, axis, best, against, where, given)

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
        axis, others = labels.name(self.axis), " and with ".join(self.against)
        return (
            f"The {labels.name(self.metric)} of {code(self.source)} with {axis} = {self.best}, less that with {others}"
            f"{labels.where(self.where)}, pair by pair; for each, {pairs.LEAD.format(f'{self.tolerance:g}')}."
        )

    def judge(self, evidence: Evidence, labels: Labels) -> Finding:
        """The lead over each other value."""
        best = self._sample(evidence, self.best)
        others = [self._sample(evidence, value) for value in self.against]
        by = [*(axis for axis in best.part.axes if axis != self.axis), SEED]
        found = [
            (f"against {value}", pairs.pair(best, other, by, self.metric))
            for value, other in zip(self.against, others, strict=True)
        ]
        for name, each in found:
            if not each.differences:
                raise LackingError(self.source, f"no pair of {self.source} {name}")
        return pairs.judge_lead(found, self.metric, self.tolerance, labels, (best, *others))

    def _sample(self, evidence: Evidence, value: str) -> Sample:
        return Side(self.source, {**self.where, self.axis: Condition((value,))}).sample(evidence, self.metric)
