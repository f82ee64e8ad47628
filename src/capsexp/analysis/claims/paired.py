"""Two sources, or two parts of one, cell by cell at equal axes."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from capsexp.analysis import checks
from capsexp.analysis.cells import SEED
from capsexp.analysis.claims import pairs
from capsexp.analysis.claims.evidence import Evidence, LackingError
from capsexp.analysis.claims.finding import Finding, Verdict, too_few, within
from capsexp.analysis.claims.labels import Labels
from capsexp.analysis.claims.pairs import Difference, Side
from capsexp.errors import require_choice, require_number
from capsexp.text import count

CLAIMED = ("every", "near", "above")


@dataclass(frozen=True)
class Paired:
    """Differences of a metric, first side less second, at equal values of the axes ``by``.

    By default these are the axes that both sides have and no condition fixes to one value.  What the pairing leaves
    open (seeds first of all) is averaged; a pair is dropped where one side lacks a part of what the others average.

    ``every`` (always greater): does not hold if one difference is 0 or less; holds if none is and there are at least
    eight pairs.  ``near``: holds if the mean difference is within the tolerance, does not hold if it is not; undecided
    with fewer than eight pairs.  ``above``: as :func:`pairs.lead` decides, from Student's interval (95 %) of the mean
    difference over seeds, each seed's differences averaged first; undecided with fewer than two seeds.
    """

    KEYS: ClassVar = frozenset({"a", "b", "metric", "claimed", "by", "tolerance"})
    NEEDED: ClassVar = frozenset({"a", "b", "metric", "claimed"})

    a: Side
    b: Side
    metric: str
    claimed: str
    by: tuple[str, ...]
    tolerance: float

    @classmethod
    def parse(cls, key: str, raw: Mapping[str, Any], tolerance: float) -> "Paired":
        """The checked form of a claim's keys."""
        return cls(
            a=pairs.side(f"{key}.a", raw["a"]),
            b=pairs.side(f"{key}.b", raw["b"]),
            metric=checks.text(f"{key}.metric", raw["metric"]),
            claimed=require_choice(f"{key}.claimed", str(raw["claimed"]), CLAIMED),
            by=tuple(checks.texts(f"{key}.by", raw.get("by"))),
            tolerance=require_number(f"{key}.tolerance", raw.get("tolerance", tolerance), 0),
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources of both sides."""
        return tuple(dict.fromkeys((self.a.source, self.b.source)))

    @property
    def measured(self) -> tuple[str, ...]:
        """The metric."""
        return (self.metric,)

    def rule(self, labels: Labels) -> str:
        """What is measured and how it is decided."""
        by = f" at equal {', '.join(labels.name(axis) for axis in self.by)}" if self.by else ", cell by cell"
        what = f"{labels.name(self.metric)} of {self.a.words(labels)}, less that of {self.b.words(labels)}{by}"
        return f"The {what}; {self._asked()}."

    def _asked(self) -> str:
        if self.claimed == "above":
            return pairs.LEAD.format(f"{self.tolerance:g}")
        if self.claimed == "near":
            return f"it holds if the mean of the differences is within {self.tolerance:g}"
        return "it holds if every difference is above 0"

    def judge(self, evidence: Evidence, labels: Labels) -> Finding:
        """All differences, their mean, and the pair that speaks most against the claim."""
        left, right = (each.sample(evidence, self.metric) for each in (self.a, self.b))
        by = self.by or pairs.common(self.a, self.b, left, right)
        by = (*by, SEED) if self.claimed == "above" and SEED not in by else by
        found = pairs.pair(left, right, by, self.metric)
        if not found.differences:
            raise LackingError(self.b.source, f"{self.a.source} and {self.b.source} have no cell in common")
        if self.claimed == "above":
            return pairs.judge_lead([("", found)], self.metric, self.tolerance, labels, (left, right))
        return self._over_cells(found, labels)

    def _over_cells(self, found: pairs.Pairs, labels: Labels) -> Finding:
        values = [each.value for each in found.differences]
        few = too_few(len(values), found.left)
        mean, against = statistics.fmean(values), self._worst(found.differences)
        verdict = self._verdict(values, bool(few))
        share, of_pairs = sum(value > 0 for value in values), count(len(values), "pair")
        lines = [
            f"mean difference {labels.signed(self.metric, mean)}{self._spread(values, labels)}, {of_pairs}",
            f"greater in {share} of {of_pairs} ({100 * share / len(values):.0f} %)",
            f"the pair most against it: {labels.signed(self.metric, against.value)} at {against.words(labels)}",
            *([pairs.UNPAIRED.format(count(found.unpaired, "cell"))] if found.unpaired else []),
            *([f"too few: {few}"] if verdict == "undecided" else []),
        ]
        number = f"{share} of {len(values)}" if self.claimed == "every" else f"mean {labels.signed(self.metric, mean)}"
        lacking = self.sources if verdict == "undecided" else ()
        return Finding(verdict, number, tuple(lines), (found.left, found.right), lacking)

    def _spread(self, values: Sequence[float], labels: Labels) -> str:
        if len(values) < 2:
            return ""
        return f", standard deviation {labels.number(self.metric, statistics.stdev(values))}"

    def _worst(self, differences: Sequence[Difference]) -> Difference:
        if self.claimed == "every":
            return min(differences, key=lambda each: each.value)
        return max(differences, key=lambda each: abs(each.value))

    def _verdict(self, values: Sequence[float], few: bool) -> Verdict:
        if self.claimed == "every" and min(values) <= 0:
            return "does not hold"
        if few:
            return "undecided"
        near = within(abs(statistics.fmean(values)), self.tolerance)
        return "holds" if near or self.claimed == "every" else "does not hold"
