"""Paired differences between two sweeps: equal points, equal seeds, one protocol; plain statistics over a table."""

import math
import numbers
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from capsexp.analysis.cells import SEED, Protocol, hashable, order
from capsexp.analysis.points import PROTOCOL
from capsexp.analysis.table import AXIS
from capsexp.errors import ConfigError, require

LEVEL = 0.95
"""The probability with which an interval covers the mean difference."""


@dataclass(frozen=True)
class Pair:
    """Two cells at one point with one seed: the metric of the first sweep's, and of the second's."""

    axes: dict[str, Any]
    seed: Any
    first: float
    second: float

    @property
    def difference(self) -> float:
        """The first sweep's value less the second's."""
        return self.first - self.second


@dataclass(frozen=True)
class Summary:
    """Mean of differences with its uncertainty.

    Attributes:
        values: the independent values that the interval is made of.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation (ddof=1) of the values; None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's interval (95 %) of the mean; None for a single value."""
        if self.std is None:
            return None
        quantile = float(stats.t.ppf((1 + LEVEL) / 2, len(self.values) - 1))
        half = quantile * self.std / math.sqrt(len(self.values))
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Paired:
    """The paired differences of a metric under one protocol.

    Points of one seed share their data and their initialisation, so they are not independent: where at least two seeds
    are common, the differences are averaged over the points of each seed, and mean, deviation and interval are over
    seeds.  With a single common seed they are over points.  Means of other points would not be means of one thing, so
    only the :attr:`balanced` pairs are in them.

    Attributes:
        metric: the metric.
        first: the sweep from whose values the others are subtracted.
        second: the other sweep.
        protocol: the protocol that all cells share.
        pairs: all pairs, at least one, in the order of the first sweep's cells.
        alone: cells of either sweep with a value under this protocol that have no partner.
        same: cells that both sweeps have (equal ids); a training is no pair with itself.
    """

    metric: str
    first: str
    second: str
    protocol: Protocol
    pairs: tuple[Pair, ...]
    alone: tuple[int, int]
    same: int = 0

    @property
    def points(self) -> list[tuple[dict[str, Any], Summary]]:
        """The axes of each point, and its differences over seeds."""
        groups = _grouped([(_key(pair.axes), pair) for pair in self.pairs])
        return [(group[0].axes, Summary(tuple(pair.difference for pair in group))) for group in groups]

    @property
    def seeds(self) -> list[Any]:
        """The seeds of the pairs."""
        return list({hashable(pair.seed): pair.seed for pair in self.pairs}.values())

    @cached_property
    def balanced(self) -> tuple[Pair, ...]:
        """The pairs of the points that every seed has.

        If there is no such point, they are of as many seeds as have one in common; of several such groups of seeds the
        one with the most pairs counts, then that of the smallest seeds.
        """
        places = {(_key(pair.axes), hashable(pair.seed)): pair for pair in self.pairs}
        seeds_at: dict[Key, set[object]] = {}
        for point, seed in places:
            seeds_at.setdefault(point, set()).add(seed)
        most = max(map(len, seeds_at.values()))
        groups = {frozenset(seeds) for seeds in seeds_at.values() if len(seeds) == most}
        found = [
            tuple(pair for (point, seed), pair in places.items() if seed in seeds and seeds <= seeds_at[point])
            for seeds in groups
        ]
        return min(found, key=lambda pairs: (-len(pairs), sorted(order(pair.seed) for pair in pairs)))

    @property
    def balanced_seeds(self) -> int:
        """Number of seeds of the mean difference."""
        return len({hashable(pair.seed) for pair in self.balanced})

    @property
    def over(self) -> str:
        """The independent values of the interval: ``seeds`` or ``points``."""
        return "seeds" if self.balanced_seeds > 1 else "points"

    @property
    def summary(self) -> Summary:
        """The mean difference of the balanced pairs over seeds, or over points if there is a single seed."""
        if self.over == "points":
            return Summary(tuple(pair.difference for pair in self.balanced))
        groups = _grouped([(hashable(pair.seed), pair) for pair in self.balanced])
        return Summary(tuple(statistics.fmean(pair.difference for pair in group) for group in groups))

    @property
    def left_out(self) -> int:
        """Number of pairs that are not balanced: some seed lacks a point that another one has."""
        return len(self.pairs) - len(self.balanced)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Number of pairs in which the first sweep's value is greater, equal, and less."""
        differences = [pair.difference for pair in self.pairs]
        greater, less = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
        return greater, len(differences) - greater - less, less


def paired_differences(cells: pd.DataFrame, metric: str, first: str, second: str) -> list[Paired]:
    """The differences of a metric between two sweeps at equal points and seeds, apart for each protocol.

    >>> cells = capsexp.load_joined("multirun/one", "multirun/two")
    >>> for found in capsexp.paired_differences(cells, "test/acc", "one", "two"):
    ...     print(found.protocol.data, found.summary.mean, found.summary.interval)

    A point is the values of all axes (columns ``axes.*`` but the seed) that have more than one value in either sweep; a
    value that is missing (NaN) equals no other.  In the table of :func:`~capsexp.load_joined` a sweep has values of the
    axes of the others.  Cells without a finite value are in no pair, nor is a cell that both sweeps have
    (equal in the column ``id``): its difference from itself says nothing.

    Args:
        cells: a table as :func:`~capsexp.load_joined` or :func:`~capsexp.load_sweep` gives it.
        metric: a column of numbers.
        first: the name of the sweep from whose values the others are subtracted.
        second: the name of the other sweep.

    Returns:
        One item for each protocol (data set, content of its file, test split, choice of the model) that has a pair;
        none where nothing can be paired: ``capsexp.analysis.comparison.paired.obstacle`` says why.

    Raises:
        ConfigError: the table lacks the metric or a sweep, the metric has other values than numbers, or there are two
            cells of one sweep, point, seed and protocol.
    """
    names = list(dict.fromkeys(cells["sweep"].tolist()))
    for key, name in (("first", first), ("second", second)):
        require(name in names, key, f"be a sweep of the table ({', '.join(map(str, names))})", name)
    require(first != second, "second", "be another sweep than first", second)
    return [each for each in _every(cells, metric, first, second) if each.pairs]


def _every(cells: pd.DataFrame, metric: str, first: str, second: str) -> list[Paired]:
    """The differences under each common protocol, also where there is no pair."""
    ours, theirs = _sides(cells, metric, first, second)
    protocols = sorted({place.protocol for place in ours} & {place.protocol for place in theirs}, key=repr)
    return [_paired(metric, (first, second), protocol, ours, theirs) for protocol in protocols]


def _sides(cells: pd.DataFrame, metric: str, first: str, second: str) -> "tuple[Placed, Placed]":
    require(metric in cells.columns, "metric", "be a column of the table", metric)
    axes = swept_axes(cells, first, second)
    ours, theirs = (_placed(cells[cells["sweep"] == name], metric, axes) for name in (first, second))
    return ours, theirs


def obstacle(cells: pd.DataFrame, metric: str, first: str, second: str) -> str:
    """The reason for which two sweeps have no pair: ``protocol``, or a few words; empty where they have one.

    The arguments are those of :func:`paired_differences`; of a sweep that the table lacks it says that it has no value.

    Raises:
        ConfigError: as of :func:`paired_differences`, of the metric and of cells at one place.
    """
    ours, theirs = _sides(cells, metric, first, second)
    for name, places in ((first, ours), (second, theirs)):
        if not places:
            return f"no value in {name}"
    if not {place.protocol for place in ours} & {place.protocol for place in theirs}:
        return "protocol"
    every = _every(cells, metric, first, second)
    if any(each.pairs for each in every):
        return ""
    if any(each.same for each in every):
        return "the same cells"
    points = [
        {(place.protocol, place.point) for place in places if place.point is not None} for places in (ours, theirs)
    ]
    return "no common seed at an equal point" if points[0] & points[1] else "no equal point"


# -- places -----------------------------------------------------------------------------------------------------------

Key = tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class _Place:
    """The key of a cell among those of its sweep; the point is None where it is not known."""

    protocol: Protocol
    point: Key | None
    seed: object


def swept_axes(cells: pd.DataFrame, *sweeps: str) -> list[str]:
    """The axes but the seed that have more than one value in one of the sweeps.

    A key that has one value in each of them, but not the same one, is what the comparison is about.
    """
    columns = [str(name) for name in cells.columns if str(name).startswith(AXIS) and name != AXIS + SEED]
    rows = [cells[cells["sweep"] == sweep] for sweep in sweeps]
    return [name.removeprefix(AXIS) for name in columns if any(_varies(_column(each, name)) for each in rows)]


def _varies(values: Sequence[Any]) -> bool:
    return len({hashable(value) for value in values if not _is_missing(value)}) > 1


@dataclass(frozen=True)
class _Valued:
    """A cell with a finite value; the id is NaN in a table without ids."""

    axes: dict[str, Any]
    seed: Any
    value: float
    id: Any


Placed = dict[_Place, list[_Valued]]
"""The cells at each place."""


def _placed(cells: pd.DataFrame, metric: str, axes: Sequence[str]) -> Placed:
    """The cells with a finite value by their places; those whose place is not known stand apart by a row's number."""
    found: Placed = {}
    parts = [_column(cells, name) for name in PROTOCOL.values()]
    points = {axis: _column(cells, AXIS + axis) for axis in axes}
    seeds = [_column(cells, name) for name in (AXIS + SEED, "training.seed")]
    ids = _column(cells, "id")
    for row, value in enumerate(_column(cells, metric)):
        number = _number(metric, value)
        if number is None:
            continue
        seed = next((column[row] for column in seeds if not _is_missing(column[row])), math.nan)
        point = {axis: points[axis][row] for axis in axes}
        unknown = _is_missing(seed) or any(map(_is_missing, point.values()))
        protocol = _protocol([part[row] for part in parts])
        place = _Place(protocol, None, row) if unknown else _Place(protocol, _key(point), hashable(seed))
        found.setdefault(place, []).append(_Valued(point, seed, number, ids[row]))
    return found


def _column(cells: pd.DataFrame, name: str) -> list[Any]:
    """The values of a column, NaN if the table lacks it; numbers of NumPy as Python's."""
    values = cells[name].tolist() if name in cells else [math.nan] * len(cells)
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def _number(metric: str, value: object) -> float | None:
    """A value as a finite number; None if it is missing or not finite."""
    if value is None or _is_missing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigError(metric, "be a column of numbers", value)
    return float(value) if math.isfinite(value) else None


def _is_missing(value: object) -> bool:
    """True for NaN; None is the value null."""
    return value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _protocol(parts: Sequence[Any]) -> Protocol:
    name, sha256, split, generated, chosen = (None if _is_missing(part) else part for part in parts)
    return Protocol(str(name or "unknown"), sha256, split, bool(generated), str(chosen or "unknown"))


def _key(axes: dict[str, Any]) -> Key:
    return tuple((axis, hashable(value)) for axis, value in axes.items())


def _grouped(keyed: Sequence[tuple[object, Pair]]) -> list[list[Pair]]:
    groups: dict[object, list[Pair]] = {}
    for key, pair in keyed:
        groups.setdefault(key, []).append(pair)
    return list(groups.values())


def _paired(
    metric: str,
    names: tuple[str, str],
    protocol: Protocol,
    ours: Placed,
    theirs: Placed,
) -> Paired:
    pairs, same = [], 0
    for place, mine in ours.items():
        if place.protocol == protocol and place.point is not None and place in theirs:
            for name, cells in zip(names, (mine, theirs[place]), strict=True):
                require(len(cells) == 1, name, "have one cell for each point, seed and protocol", len(cells))
            (one,), (other,) = mine, theirs[place]
            if one.id == other.id and one.id is not None:  # NaN equals none
                same += 1
            else:
                pairs.append(Pair(one.axes, one.seed, one.value, other.value))
    sizes = [sum(len(cells) for place, cells in side.items() if place.protocol == protocol) for side in (ours, theirs)]
    alone = sizes[0] - len(pairs) - same, sizes[1] - len(pairs) - same
    return Paired(metric, *names, protocol, tuple(pairs), alone, same)
