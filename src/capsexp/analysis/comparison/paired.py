"""Paired differences between two sweeps: equal points, equal seeds, one protocol; plain statistics over a table."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy import stats

from capsexp.analysis.cells import SEED, Protocol, hashable
from capsexp.analysis.table import AXIS
from capsexp.errors import require

LEVEL = 0.95
"""The probability with which an interval covers the mean difference."""

PROTOCOL_COLUMNS = ("data.name", "data.sha256", "data.test_split", "data.generated", "training.select_on")
"""The columns of the parts of a :class:`Protocol`, in their order."""


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
    seeds.  With a single common seed they are over points.

    Attributes:
        metric: the metric.
        first: the sweep from whose values the others are subtracted.
        second: the other sweep.
        protocol: the protocol that all cells share.
        pairs: all pairs, at least one, in the order of the first sweep's cells.
        alone: cells of either sweep with a value under this protocol that are in no pair.
    """

    metric: str
    first: str
    second: str
    protocol: Protocol
    pairs: tuple[Pair, ...]
    alone: tuple[int, int]

    @property
    def points(self) -> list[tuple[dict[str, Any], Summary]]:
        """The axes of each point, and its differences over seeds."""
        groups = _grouped([(_key(pair.axes), pair) for pair in self.pairs])
        return [(group[0].axes, Summary(tuple(pair.difference for pair in group))) for group in groups]

    @property
    def seeds(self) -> list[Any]:
        """The seeds of the pairs."""
        return list({hashable(pair.seed): pair.seed for pair in self.pairs}.values())

    @property
    def over(self) -> str:
        """The independent values of the interval: ``seeds`` or ``points``."""
        return "seeds" if len(self.seeds) > 1 else "points"

    @property
    def summary(self) -> Summary:
        """The mean difference over seeds, or over points if there is a single seed."""
        if self.over == "points":
            return Summary(tuple(pair.difference for pair in self.pairs))
        groups = _grouped([(hashable(pair.seed), pair) for pair in self.pairs])
        return Summary(tuple(statistics.fmean(pair.difference for pair in group) for group in groups))

    @property
    def uneven(self) -> bool:
        """True if some seed lacks a point that another one has, so that seeds' means are not of the same points."""
        return len(self.pairs) < len(self.points) * len(self.seeds)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Number of pairs in which the first sweep's value is greater, equal, and less."""
        differences = [pair.difference for pair in self.pairs]
        greater, less = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
        return greater, len(differences) - greater - less, less


def paired_differences(cells: pd.DataFrame, metric: str, first: str, second: str) -> list[Paired]:
    """The differences of a metric between two sweeps at equal points and seeds, apart for each protocol.

    >>> cells = capsexp.load_joined("multirun/one", "multirun/two")
    >>> [found] = capsexp.paired_differences(cells, "test/acc", "one", "two")
    >>> found.summary.mean, found.summary.interval

    A point is the values of all axes (columns ``axes.*`` but the seed) that have more than one value in either sweep; a
    value that is missing (NaN) equals no other.  In the table of :func:`~capsexp.load_joined` a sweep has values of the
    axes of the others.  Cells without a finite value are in no pair.

    Args:
        cells: a table as :func:`~capsexp.load_joined` or :func:`~capsexp.load_sweep` gives it.
        metric: a column of numbers.
        first: the name of the sweep from whose values the others are subtracted.
        second: the name of the other sweep.

    Returns:
        One item for each protocol (data set, content of its file, test split, choice of the model) that has a pair;
        none where nothing can be paired: see :func:`obstacle`.

    Raises:
        ConfigError: the table lacks the metric or a sweep, or has two cells of one sweep, point, seed and protocol.
    """
    names = list(dict.fromkeys(cells["sweep"].tolist()))
    require(metric in cells.columns, "metric", "be a column of the table", metric)
    for key, name in (("first", first), ("second", second)):
        require(name in names, key, f"be a sweep of the table ({', '.join(map(str, names))})", name)
    require(first != second, "second", "be another sweep than first", second)
    axes = swept_axes(cells, first, second)
    ours, theirs = (_placed(cells[cells["sweep"] == name], metric, axes) for name in (first, second))
    protocols = sorted({place.protocol for place in ours} & {place.protocol for place in theirs}, key=repr)
    found = [_paired(metric, (first, second), protocol, ours, theirs) for protocol in protocols]
    return [each for each in found if each.pairs]


def obstacle(cells: pd.DataFrame, metric: str, first: str, second: str) -> str:
    """The reason for which two sweeps have no pair: ``protocol``, or a few words; empty where they have one."""
    axes = swept_axes(cells, first, second)
    ours, theirs = (_placed(cells[cells["sweep"] == name], metric, axes) for name in (first, second))
    for name, places in ((first, ours), (second, theirs)):
        if not places:
            return f"no value in {name}"
    if not {place.protocol for place in ours} & {place.protocol for place in theirs}:
        return "protocol"
    if paired_differences(cells, metric, first, second):
        return ""
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
    return [name.removeprefix(AXIS) for name in columns if any(_varies(each[name].tolist()) for each in rows)]


def _varies(values: Sequence[Any]) -> bool:
    return len({hashable(value) for value in values if not _is_missing(value)}) > 1


Placed = dict[_Place, list[tuple[dict[str, Any], Any, float]]]
"""The axes, the seed and the value of the cells at each place."""


def _placed(cells: pd.DataFrame, metric: str, axes: Sequence[str]) -> Placed:
    """The cells with a finite value by their places; those whose place is not known stand apart by a row's number."""
    found: Placed = {}
    columns = {name: cells[name].tolist() if name in cells else [None] * len(cells) for name in PROTOCOL_COLUMNS}
    points = {axis: cells[AXIS + axis].tolist() for axis in axes}
    seeds = [_column(cells, name) for name in (AXIS + SEED, "training.seed")]
    for row, value in enumerate(cells[metric].tolist()):
        number = _number(value)
        if number is None:
            continue
        seed = next((column[row] for column in seeds if not _is_missing(column[row])), math.nan)
        point = {axis: points[axis][row] for axis in axes}
        unknown = _is_missing(seed) or any(map(_is_missing, point.values()))
        protocol = _protocol([columns[name][row] for name in PROTOCOL_COLUMNS])
        place = _Place(protocol, None, row) if unknown else _Place(protocol, _key(point), hashable(seed))
        found.setdefault(place, []).append((point, seed, number))
    return found


def _column(cells: pd.DataFrame, name: str) -> list[Any]:
    return cells[name].tolist() if name in cells else [math.nan] * len(cells)


def _number(value: object) -> float | None:
    """A value as a finite number; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


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
    pairs = []
    for place, mine in ours.items():
        if place.protocol == protocol and place.point is not None and place in theirs:
            for name, cells in zip(names, (mine, theirs[place]), strict=True):
                require(len(cells) == 1, name, "have one cell for each point, seed and protocol", len(cells))
            pairs.append(Pair(*mine[0], theirs[place][0][2]))
    sizes = [sum(len(cells) for place, cells in side.items() if place.protocol == protocol) for side in (ours, theirs)]
    return Paired(metric, *names, protocol, tuple(pairs), (sizes[0] - len(pairs), sizes[1] - len(pairs)))
