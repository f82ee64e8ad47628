"""The best of an axis' values on a metric."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from capsexp.analysis.cells import SEED
from capsexp.analysis.claims.evidence import Evidence, LackingError, Sample
from capsexp.analysis.claims.rules.base import Labels, OfMetric, OfSource, Verdict, code
from capsexp.analysis.claims.rules.paired import LEAD, judge_lead, pair
from capsexp.analysis.conditions import Condition
from capsexp.analysis.validation import Conditions
from capsexp.errors import require


class Rank(OfSource, OfMetric):
    """One value of an axis against each of the others named, paired at equal values of all other axes and seeds.

    The differences of a seed are averaged, and Student's interval (95 %) of their mean over the seeds decides each
    comparison as :func:`paired.lead` says: better, worse, equal within the tolerance, or undecided (always with one
    seed).  The claim holds if the value is better than every other one, and does not hold if it is worse than one of
    them or equal to it.
    """

    kind: Literal["rank"]
    axis: str
    best: str
    against: list[str]
    where: Conditions = Field(default={})

    @field_validator("against")
    @classmethod
    def _others(cls, against: list[str], info: ValidationInfo) -> list[str]:
        require(bool(against) and info.data.get("best") not in against, "", "name the other values", against)
        return against

    def describe(self, labels: Labels) -> str:
        """The measured quantity and the rule that decides."""
        axis, others = labels.name(self.axis), " and with ".join(self.against)
        return (
            f"The {labels.name(self.metric)} of {code(self.source)} with {axis} = {self.best}, less that with {others}"
            f"{labels.where(self.where)}, pair by pair; for each, {LEAD.format(f'{self.tolerance:g}')}."
        )

    def judge(self, evidence: Evidence, labels: Labels) -> Verdict:
        """The lead over each other value."""
        best = self._sample(evidence, self.best)
        others = [self._sample(evidence, value) for value in self.against]
        by = [*(axis for axis in best.part.axes if axis != self.axis), SEED]
        found = [
            (f"against {value}", pair(best, other, by, self.metric))
            for value, other in zip(self.against, others, strict=True)
        ]
        for name, each in found:
            if not each.differences:
                raise LackingError(self.source, f"no pair of {self.source} {name}")
        return judge_lead(found, self.metric, self.tolerance, labels, (best, *others))

    def _sample(self, evidence: Evidence, value: str) -> Sample:
        return evidence.part(self.source).sample({**self.where, self.axis: Condition((value,))}, self.metric)
