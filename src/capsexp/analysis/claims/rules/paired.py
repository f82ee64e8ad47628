"""Two sources, or two parts of one, cell by cell at equal axes; and the lead of one over the other over seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from scipy import special

from capsexp.analysis.cells import SEED, Cell, grouped, in_order
from capsexp.analysis.claims.evidence import Evidence, LackingError, Sample, Value, mean_of
from capsexp.analysis.claims.rules.base import (
    Answer,
    Labels,
    OfMetric,
    Part,
    Verdict,
    code,
    combined,
    interval_text,
    names,
    too_few,
    within,
)
from capsexp.analysis.validation import Conditions, Model
from capsexp.text import count

LEAD = (
    "it holds if the whole 95 % interval of the mean difference over seeds is above 0, and does not if the interval is"
    " below 0, or around 0 and within {0}"
)
UNPAIRED = "{0} without a partner left out"
LEVEL = 0.95


class Side(Model):
    """The cells of a source that stand on one side."""

    source: str
    where: Conditions = Field(default={})

    def sample(self, evidence: Evidence, metric: str) -> Sample:
        """Its cells."""
        return evidence.part(self.source).sample(self.where, metric)

    def words(self, labels: Labels) -> str:
        """The side in words."""
        return f"{code(self.source)}{labels.where(self.where)}"


# -- pairs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Difference:
    """One pair: the mean of the first side's cells less that of the second's."""

    axes: dict[str, Value]
    value: float
    left: list[Cell]
    right: list[Cell]


@dataclass(frozen=True, eq=False)
class Pairs:
    """All pairs of two samples.

    Attributes:
        unpaired: cells of either side that are in no pair.
    """

    left: Sample
    right: Sample
    differences: tuple[Difference, ...]
    unpaired: int

    @property
    def values(self) -> list[float]:
        """All differences."""
        return [each.value for each in self.differences]

    @property
    def left_out(self) -> list[str]:
        """The words on cells in no pair; nothing where all are in one."""
        return [UNPAIRED.format(count(self.unpaired, "cell"))] if self.unpaired else []


def pair(left: Sample, right: Sample, by: Sequence[str], metric: str) -> Pairs:
    """The differences at equal axes, in order of these.

    Axes that ``by`` does not name are averaged.  So that every average is over the same things, a side's group counts
    only if it has all combinations of these axes' values (but the seed's) that any group of the side has.
    """
    ours, theirs = _complete_groups(left, by), _complete_groups(right, by)
    differences = tuple(_difference(cells, theirs[key], by, metric) for key, cells in ours.items() if key in theirs)
    used = sum(len(each.left) + len(each.right) for each in differences)
    return Pairs(left, right, differences, len(left.cells) + len(right.cells) - used)


def _difference(left: list[Cell], right: list[Cell], by: Sequence[str], metric: str) -> Difference:
    axes = {axis: left[0].axes.get(axis) for axis in by}
    return Difference(axes, mean_of(left, metric) - mean_of(right, metric), left, right)


def _complete_groups(sample: Sample, by: Sequence[str]) -> dict[tuple[object, ...], list[Cell]]:
    averaged = [axis for axis in sample.part.axes if axis not in by]
    groups = grouped(in_order(sample.cells, by), by)
    parts = {key: grouped(cells, averaged).keys() for key, cells in groups.items()}
    everything = set().union(*parts.values())
    return {key: cells for key, cells in groups.items() if parts[key] == everything}


# -- over seeds -------------------------------------------------------------------------------------------------------


def over_seeds(differences: Sequence[Difference]) -> list[float]:
    """The mean difference of each seed."""
    seeds: dict[Value, list[float]] = {}
    for each in differences:
        seeds.setdefault(each.axes.get(SEED), []).append(each.value)
    return [statistics.fmean(values) for values in seeds.values()]


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's interval (95 %) of the mean; None for fewer than two values.

    Not by ``scipy.stats``: it takes longer to import than all claims to judge, and its interval is NaN where all values
    are equal.
    """
    if len(values) < 2:
        return None
    quantile = float(special.stdtrit(len(values) - 1, (1 + LEVEL) / 2))
    half, middle = quantile * statistics.stdev(values) / math.sqrt(len(values)), statistics.fmean(values)
    return middle - half, middle + half


def lead(interval: tuple[float, float] | None, tolerance: float) -> Answer:
    """The answer to the claim that the first side is better, from the interval of the mean difference.

    Holds if the whole interval is above 0.  Does not hold if it is wholly below 0 (worse), or contains 0 and lies
    within the tolerance of it (equal, for all that matters).  Undecided otherwise, and without an interval.
    """
    if interval is None:
        return "undecided"
    low, high = interval
    if low > 0:
        return "holds"
    equal = within(-low, tolerance) and within(high, tolerance)
    return "does not hold" if high < 0 or equal else "undecided"


def judge_lead(
    found: Sequence[tuple[str, Pairs]], metric: str, tolerance: float, labels: Labels, samples: tuple[Sample, ...]
) -> Verdict:
    """The verdict on one or several leads, each with its name; all must hold."""
    parts = [_judge(name, each, metric, tolerance, labels) for name, each in found]
    return combined(parts, samples, list(dict.fromkeys(each.part.source for each in samples)))


def _judge(name: str, found: Pairs, metric: str, tolerance: float, labels: Labels) -> Part:
    seeds = over_seeds(found.differences)
    interval = t_interval(seeds)
    answer, shown = lead(interval, tolerance), labels.signed(metric, statistics.fmean(seeds))
    ends = interval_text(*interval, labels.measure(metric).digits) if interval else "no interval from one seed"
    ahead = sum(value > 0 for value in found.values)
    line = (
        f"{name + ': ' if name else ''}mean difference {shown}, {ends}, n = {len(seeds)}; greater in {ahead} of"
        f" {count(len(found.differences), 'pair')}{''.join('; ' + words for words in found.left_out)}: {answer}"
    )
    return answer, f"{name + ' ' if name else ''}{shown}", line


# -- the rule ---------------------------------------------------------------------------------------------------------


AnySide = Annotated[
    Side,
    BeforeValidator(
        lambda value: {"source": value} if isinstance(value, str) else value, json_schema_input_type=str | Side
    ),
]
"""A source's name, or a mapping with conditions."""


class Paired(OfMetric):
    """Differences of a metric, first side less second, at equal values of the axes ``by``.

    By default these are the axes that both sides have and no condition fixes to one value.  The axes that the pairing
    leaves open (seeds first of all) are averaged; a pair is dropped where one side lacks a part of what the others
    average.

    ``every`` (always greater): does not hold if one difference is 0 or less; holds if none is and there are at least
    eight pairs.  ``near``: holds if the mean difference is within the tolerance, does not hold if it is not; undecided
    with fewer than eight pairs.  ``above``: as :func:`lead` decides, from Student's interval (95 %) of the mean
    difference over seeds, each seed's differences averaged first; undecided with fewer than two seeds.
    """

    kind: Literal["paired"]
    a: AnySide
    b: AnySide
    claimed: Literal["every", "near", "above"]
    by: list[str] = Field(default=[])

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources of both sides."""
        return tuple(dict.fromkeys((self.a.source, self.b.source)))

    def describe(self, labels: Labels) -> str:
        """The measured quantity and the rule that decides."""
        by = f" at equal {', '.join(labels.name(axis) for axis in self.by)}" if self.by else ", cell by cell"
        what = f"{labels.name(self.metric)} of {self.a.words(labels)}, less that of {self.b.words(labels)}{by}"
        asked = {
            "above": LEAD.format(f"{self.tolerance:g}"),
            "near": f"it holds if the mean of the differences is within {self.tolerance:g}",
            "every": "it holds if every difference is above 0",
        }
        return f"The {what}; {asked[self.claimed]}."

    def judge(self, evidence: Evidence, labels: Labels) -> Verdict:
        """All differences, their mean, and the pair that speaks most against the claim."""
        left, right = (each.sample(evidence, self.metric) for each in (self.a, self.b))
        by = self.by or self._common(left, right)
        by = [*by, SEED] if self.claimed == "above" and SEED not in by else by
        found = pair(left, right, by, self.metric)
        if not found.differences:
            raise LackingError(self.b.source, f"{self.a.source} and {self.b.source} have no cell in common")
        if self.claimed == "above":
            return judge_lead([("", found)], self.metric, self.tolerance, labels, (left, right))
        return self._over_cells(found, labels)

    def _common(self, left: Sample, right: Sample) -> list[str]:
        """The axes of both sides (but the seed) that no condition fixes to one value."""
        rules = [*self.a.where.items(), *self.b.where.items()]
        fixed = {axis for axis, rule in rules if rule.values and len(rule.values) == 1}
        return [axis for axis in left.part.axes if axis in right.part.axes and axis not in fixed]

    def _over_cells(self, found: Pairs, labels: Labels) -> Verdict:
        values = found.values
        few = too_few(len(values), found.left)
        mean, against = statistics.fmean(values), self._worst(found.differences)
        answer = self._answer(values, bool(few))
        share, of_pairs = sum(value > 0 for value in values), count(len(values), "pair")
        lines = [
            f"mean difference {labels.signed(self.metric, mean)}{self._spread(values, labels)}, {of_pairs}",
            f"greater in {share} of {of_pairs} ({100 * share / len(values):.0f} %)",
            f"the pair most against it: {labels.signed(self.metric, against.value)} at"
            f" {labels.axes(against.axes, f'{names(against.left)} against {names(against.right)}')}",
            *found.left_out,
            *([f"too few: {few}"] if answer == "undecided" else []),
        ]
        number = f"{share} of {len(values)}" if self.claimed == "every" else f"mean {labels.signed(self.metric, mean)}"
        lacking = self.sources if answer == "undecided" else ()
        return Verdict(answer, number, tuple(lines), (found.left, found.right), lacking)

    def _spread(self, values: Sequence[float], labels: Labels) -> str:
        if len(values) < 2:
            return ""
        return f", standard deviation {labels.number(self.metric, statistics.stdev(values))}"

    def _worst(self, differences: Sequence[Difference]) -> Difference:
        if self.claimed == "every":
            return min(differences, key=lambda each: each.value)
        return max(differences, key=lambda each: abs(each.value))

    def _answer(self, values: Sequence[float], few: bool) -> Answer:
        if self.claimed == "every" and min(values) <= 0:
            return "does not hold"
        if few:
            return "undecided"
        near = within(abs(statistics.fmean(values)), self.tolerance)
        return "holds" if near or self.claimed == "every" else "does not hold"
