"""Paired differences between sweeps as tables: one row for each metric and pair of sweeps, and one for each point."""

import itertools
from collections.abc import Sequence

import pandas as pd

from capsexp.analysis.beside import protocol_differences
from capsexp.analysis.cells import Protocol
from capsexp.analysis.comparison.joined import Joined
from capsexp.analysis.comparison.paired import Paired, Summary, obstacle, paired_differences
from capsexp.analysis.conditions import axis_text
from capsexp.analysis.measures import MISSING, Measure, number, signed
from capsexp.analysis.spec import Spec
from capsexp.analysis.tables import Raw, Table

ALL_PAIRS = 4
"""The greatest number of sweeps of which every pair is compared; of more each one with the first."""

SPREAD = ("mean difference", "standard deviation", "95 % interval")
RAW_SPREAD = ("mean", "std", "low", "high")

Compared = tuple[Measure, str, str, list[Paired], str]
"""A metric, two sweeps, the differences for each protocol, and the reason for which there are none."""


def compared(joined: Joined, metrics: Sequence[Measure], cells: pd.DataFrame) -> list[Compared]:
    """The differences of each metric between each pair of sweeps."""
    return [
        (metric, *names, *_pairing(joined, cells, metric.key, *names))
        for metric in metrics
        for names in sweep_pairs(joined.names)
    ]


def sweep_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every two sweeps; of many, the first one with each other one."""
    pairs = list(itertools.combinations(names, 2))
    return pairs if len(names) <= ALL_PAIRS else pairs[: len(names) - 1]


def _pairing(joined: Joined, cells: pd.DataFrame, metric: str, first: str, second: str) -> tuple[list[Paired], str]:
    why = obstacle(cells, metric, first, second) if metric in cells else "no value in either"
    if why == "protocol":
        read = {member.name: member.read.protocols for member in joined.members}
        lines = protocol_differences(read[first], read[second], (first, second))
        return [], "; ".join(line.partition(":")[0].lower() for line in lines)  # the page's head has the values
    return ([], why) if why else (paired_differences(cells, metric, first, second), "")


def paired_table(found: Sequence[Compared]) -> Table:
    """One row for each metric, pair of sweeps and protocol; a single one for sweeps that no metric can pair."""
    found = _once(found)
    several = len({each.protocol for *_, pairs, _ in found for each in pairs}) > 1
    origin = ["data", "chosen on"] if several else []
    heads = ["metric", "A - B", "pairs", "points", "seeds", *SPREAD, "A > B / equal / A < B", "without partner"]
    rows: list[list[str]] = []
    raw_rows: list[list[Raw]] = []
    for metric, first, second, pairs, why in found:
        shown = [_row(each, metric) for each in pairs] or [[*["0"] * 3, *[MISSING] * 5]]
        raw = [_raw_row(each) for each in pairs] or [[*[0] * 3, "", *[None] * 4, *[0] * 4, *[None] * 3, "", ""]]
        remarks = [_remarks(each) for each in pairs] or [why]
        origins = [_origin(each) if several else [] for each in pairs] or [[MISSING] * len(origin)]
        for row, source, remark in zip(shown, origins, remarks, strict=True):
            rows.append([metric.label, f"{first} - {second}", *row, *source, remark or MISSING])
        raw_rows += [[metric.key, first, second, *row, said] for row, said in zip(raw, remarks, strict=True)]
    return Table(
        name="paired",
        caption=_caption(found),
        header=[*heads, *origin, "remarks"],
        rows=rows,
        raw_header=[
            *("metric", "first", "second", "pairs", "points", "seeds", "over", *RAW_SPREAD, "greater", "equal", "less"),
            *("left_out", "same", "alone_first", "alone_second", "data", "select_on", "remarks"),
        ],
        raw_rows=raw_rows,
        missing=[not row[3] for row in raw_rows],
    )


def _once(found: Sequence[Compared]) -> list[Compared]:
    """The differences with one item for each two sweeps that have no pair of any metric, for the same reason."""
    said: dict[tuple[str, str], set[str]] = {}
    for _, first, second, _, why in found:
        said.setdefault((first, second), set()).add(why)
    none = {names for names, whys in said.items() if len(whys) == 1 and "" not in whys}
    every = Measure("", "all metrics")
    kept: dict[tuple[str, str, str], Compared] = {}
    for metric, first, second, pairs, why in found:
        shown = every if (first, second) in none else metric
        kept.setdefault((shown.key, first, second), (shown, first, second, pairs, why))
    return sorted(kept.values(), key=lambda each: each[0] is every)  # those without numbers last


def _row(each: Paired, metric: Measure) -> list[str]:
    counts, alone = (" / ".join(map(str, part)) for part in (each.counts, each.alone))
    return [*map(str, _sizes(each)), *_spread(each.summary, metric), counts, alone]


def _raw_row(each: Paired) -> list[Raw]:
    numbers = [*_raw_spread(each.summary), *each.counts, each.left_out, each.same, *each.alone]
    return [*_sizes(each), each.over, *numbers, *_origin(each)]


def _sizes(each: Paired) -> tuple[int, int, int]:
    return len(each.pairs), len(each.points), len(each.seeds)


def _remarks(each: Paired) -> str:
    said = ["one seed: over points"] if each.over == "points" else []
    if each.left_out:
        seeds = f"its {each.balanced_seeds} seeds have the same points" if each.over == "seeds" else "it has one seed"
        said.append(f"{each.left_out} of {len(each.pairs)} pairs left out of the mean, so that {seeds}")
    said += [f"the same cells in both: {each.same}"] if each.same else []
    return "; ".join(said)


def _origin(each: Paired) -> list[str]:
    return [each.protocol.data, each.protocol.select_on]


def _spread(summary: Summary, metric: Measure) -> list[str]:
    """Mean, deviation and interval as text."""
    digits = max(metric.digits, 1)
    interval = summary.interval
    ends = f"{signed(interval[0], digits)} to {signed(interval[1], digits)}" if interval else MISSING
    return [signed(summary.mean, digits), number(summary.std, digits), ends]


def _raw_spread(summary: Summary) -> list[Raw]:
    low, high = summary.interval or (None, None)
    return [summary.mean, summary.std, low, high]


def _caption(found: Sequence[Compared]) -> str:
    protocols = {each.protocol for *_, pairs, _ in found for each in pairs}
    origin = f" {_origin_text(protocols.pop())}." if len(protocols) == 1 else ""
    return (
        "Differences A - B of cells with equal values of all swept axes, equal seed and one protocol. Mean, sample "
        "standard deviation and Student's interval (95 %) are over seeds, after the mean over the points of each seed: "
        "points of one seed share their data and their initialisation. Only points that all common seeds have are in "
        "them; with a single common seed they are over points. A cell that both sweeps have is no pair." + origin
    )


def _origin_text(protocol: Protocol) -> str:
    return f"Data: {protocol.data}; model chosen on: {protocol.select_on}"


# -- point by point ---------------------------------------------------------------------------------------------------


def points_table(found: Sequence[Compared], joined: Joined, spec: Spec) -> Table:
    """One row for each metric, pair of sweeps and point, with the interval over the point's seeds."""
    every = [(metric, each) for metric, _, _, pairs, _ in found for each in pairs]
    used = {axis for _, each in every for axis in each.pairs[0].axes}
    axes = [axis for axis in joined.results.axes if axis in used]
    several = len({each.protocol for _, each in every}) > 1
    rows: list[list[str]] = []
    raw_rows: list[list[Raw]] = []
    for metric, each in every:
        for values, summary in each.points:
            at = [axis_text(values[axis]) if axis in values else MISSING for axis in axes]
            n, origin = len(summary.values), _origin(each)
            pair = [f"{each.first} - {each.second}", *(origin if several else [])]
            rows.append([metric.label, *pair, *at, str(n), *_spread(summary, metric)])
            raw_rows.append([metric.key, each.first, each.second, *origin, *at, n, *_raw_spread(summary)])
    return Table(
        name="paired_points",
        caption="The same point by point: mean, sample standard deviation and Student's interval (95 %) over the seeds "
        "that both sweeps have there; no interval of a single seed.",
        header=[
            *("metric", "A - B", *(("data", "chosen on") if several else ())),
            *(spec.axis(axis).label for axis in axes),
            *("seeds", *SPREAD),
        ],
        rows=rows,
        raw_header=["metric", "first", "second", "data", "select_on", *axes, "seeds", *RAW_SPREAD],
        raw_rows=raw_rows,
        missing=[False] * len(rows),
    )
