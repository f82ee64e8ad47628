"""Two samples side by side at equal axes, and what their differences say over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from capsexp.analysis import checks
from capsexp.analysis.cells import SEED
from capsexp.analysis.claims.evidence import Evidence, Sample, Where, grouped, key_of, mean_of
from capsexp.analysis.claims.finding import Finding, Verdict, all_of, interval_text, within
from capsexp.analysis.claims.labels import Labels, code, names
from capsexp.analysis.claims.measures import t_interval
from capsexp.analysis.claims.table import Row, Value
from capsexp.analysis.conditions import axis_text
from capsexp.text import count

LEAD = (
    "it holds if the whole 95 % interval of the mean difference over seeds is above 0, and does not if the interval is"
    " below 0, or around 0 and within {0}"
)

UNPAIRED = "{0} without a partner left out"


@dataclass(frozen=True)
class Side:
    """Which cells of a source stand on one side."""

    source: str
    where: Where

    def sample(self, evidence: Evidence, metric: str) -> Sample:
        """Its cells."""
        return evidence.part(self.source).sample(self.where, metric)

    def words(self, labels: Labels) -> str:
        """The side in words."""
        return f"{code(self.source)}{labels.where(self.where)}"


@dataclass(frozen=True)
class Difference:
    """One pair: the mean of the first side's cells less that of the second's."""

    axes: dict[str, Value]
    value: float
    left: tuple[Row, ...]
    right: tuple[Row, ...]

    def words(self, labels: Labels) -> str:
        """Where the pair is, and its cells."""
        axes = ", ".join(f"{labels.name(axis)} = {axis_text(value)}" for axis, value in self.axes.items())
        cells = f"{names(self.left)} against {names(self.right)}"
        return f"{axes} ({cells})" if axes else cells


@dataclass(frozen=True)
class Pairs:
    """All pairs of two samples.

    Attributes:
        unpaired: cells of either side that are in no pair.
    """

    left: Sample
    right: Sample
    differences: tuple[Difference, ...]
    unpaired: int


def side(key: str, value: object) -> Side:
    """The checked form of a side: a source's name, or a mapping with conditions."""
    raw: dict[str, Any] = (
        {"source": value} if isinstance(value, str) else checks.mapping(key, value, {"source", "where"}, {"source"})
    )
    return Side(checks.text(f"{key}.source", raw["source"]), checks.conditions(key, {"where": raw.get("where")}))


def common(a: Side, b: Side, left: Sample, right: Sample) -> tuple[str, ...]:
    """The axes of both sides (but the seed) that no condition fixes to one value."""
    fixed = {axis for each in (a, b) for axis, rule in each.where.items() if rule.values and len(rule.values) == 1}
    return tuple(axis for axis in left.part.axes if axis in right.part.axes and axis not in fixed)


def pair(left: Sample, right: Sample, by: Sequence[str], metric: str) -> Pairs:
    """The differences at equal axes, in order of these.

    Axes that ``by`` does not name are averaged.  So that every average is over the same things, a side's group counts
    only if it has all combinations of these axes' values (but the seed's) that any group of the side has.
    """
    ours, theirs = _whole_groups(left, by), _whole_groups(right, by)
    differences = tuple(
        Difference(axes, mean_of(rows, metric) - mean_of(theirs[key][1], metric), rows, theirs[key][1])
        for key, (axes, rows) in ours.items()
        if key in theirs
    )
    used = sum(len(each.left) + len(each.right) for each in differences)
    return Pairs(left, right, differences, len(left.rows) + len(right.rows) - used)


def _whole_groups(sample: Sample, by: Sequence[str]) -> dict[str, tuple[dict[str, Value], tuple[Row, ...]]]:
    averaged = [axis for axis in sample.part.axes if axis not in by]
    groups = {key_of(axes): (axes, rows) for axes, rows in grouped(sample.rows, by)}
    parts = {key: {key_of(axes) for axes, _ in grouped(rows, averaged)} for key, (_, rows) in groups.items()}
    everything = set().union(*parts.values())
    return {key: group for key, group in groups.items() if parts[key] == everything}


# -- over seeds -------------------------------------------------------------------------------------------------------


def over_seeds(differences: Sequence[Difference]) -> dict[Value, float]:
    """The mean difference of each seed."""
    seeds: dict[Value, list[float]] = {}
    for each in differences:
        seeds.setdefault(each.axes.get(SEED), []).append(each.value)
    return {seed: statistics.fmean(values) for seed, values in seeds.items()}


def lead(interval: tuple[float, float] | None, tolerance: float) -> Verdict:
    """Whether the first side is better, from the interval of the mean difference.

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
) -> Finding:
    """The finding on one or several leads, each with its name; all must hold."""
    judged = [_judge(name, each, metric, tolerance, labels) for name, each in found]
    verdict = all_of(each for each, _, _ in judged)
    lacking = tuple(dict.fromkeys(each.part.source for each in samples)) if verdict == "undecided" else ()
    number = ", ".join(text for _, text, _ in judged)
    return Finding(verdict, number, tuple(line for _, _, line in judged), samples, lacking)


def _judge(name: str, found: Pairs, metric: str, tolerance: float, labels: Labels) -> tuple[Verdict, str, str]:
    """Verdict, number and line of one lead."""
    seeds = over_seeds(found.differences)
    mean, interval = statistics.fmean(seeds.values()), t_interval(list(seeds.values()))
    verdict = lead(interval, tolerance)
    shown = labels.signed(metric, mean)
    said = interval_text(*interval, labels.measure(metric).digits) if interval else "no interval from one seed"
    ahead = sum(each.value > 0 for each in found.differences)
    line = (
        f"{name + ': ' if name else ''}mean difference {shown}, {said}, n = {len(seeds)};"
        f" greater in {ahead} of {count(len(found.differences), 'pair')}"
        f"{'; ' + UNPAIRED.format(count(found.unpaired, 'cell')) if found.unpaired else ''}: {verdict}"
    )
    return verdict, f"{name + ' ' if name else ''}{shown}", line
