"""All points of several sweeps in order of a metric, ranked apart for each protocol."""

import re
from collections.abc import Sequence

from capsexp.analysis.cells import Point, Protocol
from capsexp.analysis.comparison.joined import SWEEP, Joined
from capsexp.analysis.conditions import axis_text
from capsexp.analysis.measures import MISSING, Measure
from capsexp.analysis.spec import Spec
from capsexp.analysis.tables import Raw, Table, columns, is_shown, stat_text
from capsexp.errors import ConfigError, require, require_choice

USUAL = "test/acc"
"""The metric that ranks where none is named and the sweeps have it."""

LESS_IS_BETTER = {"loss", "error", "err", "params"}
"""Words in a metric's name for which the smallest value is the best one."""

SHORT = 12
"""Characters of a digest that are shown."""


def common_metrics(joined: Joined, spec: Spec) -> list[Measure]:
    """The metrics in the tables of all sweeps that have a finished cell; none is a clock."""
    finished = [member.read for member in joined.members if any(cell.done for cell in member.read.cells)]
    shown = [{measure.key for measure in columns(spec, read)} for read in finished]
    known = [{each.key for each in columns(spec, read) if _has(each.key, read.points)} for read in finished]
    first = columns(spec, finished[0]) if finished else []
    return [m for m in first if all(m.key in keys for keys in (*shown, *known)) and is_shown(m, spec)]


def _has(metric: str, points: Sequence[Point]) -> bool:
    return any(point.stat(metric).n for point in points)


def ranking(joined: Joined, spec: Spec, metric: str | None, best: str | None) -> tuple[Measure, str]:
    """The metric that ranks, and whether the largest (``max``) or smallest (``min``) value is first.

    Args:
        joined: the sweeps.
        spec: how metrics are shown.
        metric: the metric that was asked for; None for ``test/acc`` or else the first common one.
        best: ``max`` or ``min``; None to go by the metric's name.

    Raises:
        ConfigError: the metric is a clock or no finished cell has it, or ``best`` is another word.
    """
    if best is not None:
        require_choice("--best", best, ("max", "min"))
    chosen = _asked(joined, spec, metric) if metric is not None else _usual(joined, spec)
    less = LESS_IS_BETTER & set(re.split(r"[^a-z]+", chosen.lower()))
    return spec.measure(chosen), best or ("min" if less else "max")


def _asked(joined: Joined, spec: Spec, metric: str) -> str:
    require(not (metric.startswith("clocks.") or metric in spec.timings), "--metric", "be no clock", metric)
    if not _has(metric, joined.results.points):
        names = sorted({name for cell in joined.results.cells if cell.done for name in (cell.result or {})["metrics"]})
        known = f" ({', '.join(names)}, or a number by its dotted key, such as params)" if names else ""
        raise ConfigError("--metric", f"be a metric of the finished cells{known}", metric)
    return metric


def _usual(joined: Joined, spec: Spec) -> str:
    if _has(USUAL, joined.results.points):
        return USUAL
    return next((measure.key for measure in common_metrics(joined, spec)), USUAL)


# -- the table --------------------------------------------------------------------------------------------------------


def leaderboard(joined: Joined, spec: Spec, measure: Measure, best: str) -> Table:
    """A row for each point with a value; the ranks begin at 1 for each protocol, and equal means share theirs."""
    results = joined.results
    axes = [axis for axis, values in results.axes.items() if axis != SWEEP and len(values) > 1]
    parts = [part for part in ("sha256", "test_split", "generated") if part in results.differing()]
    counted = measure.key != "params" and _has("params", results.points)
    rows: list[list[str]] = []
    raw_rows: list[list[Raw]] = []
    for protocol in results.protocols:
        for rank, point in ranked([p for p in results.points if p.protocol == protocol], measure.key, best):
            stat, params = point.stat(measure.key), point.stat("params")
            keys = [str(point.axes[SWEEP]), *(axis_text(point.axes[axis]) for axis in axes)]
            n, planned = stat.n, len(point.cells)
            origin = [protocol.data, protocol.select_on, *(_part(protocol, part) for part in parts)]
            rows.append(
                [str(rank), *keys, stat_text(stat, measure.digits), str(n) if n == planned else f"{n} of {planned}"]
                + ([stat_text(params, 0)] if counted else [])
                + [text if len(text) <= 2 * SHORT else f"{text[:SHORT]}…" for text in origin]
            )
            raw_rows.append(
                [rank, *keys, stat.mean, stat.std, n, planned, *([params.mean] if counted else []), *origin]
            )
    heads = ["rank", SWEEP, *(spec.axis(axis).label for axis in axes), measure.title, "n"]
    raw = ["rank", SWEEP, *axes, *(f"{measure.key}{end}" for end in ("", ":std", ":n")), "planned"]
    tail = [*(["params"] if counted else []), "data", "select_on", *parts]
    shown = [{"params": "parameters", "select_on": "chosen on"}.get(head, head) for head in tail]
    return Table(
        name="leaderboard",
        caption=_caption(joined, measure, best),
        header=[*heads, *shown],
        rows=rows,
        raw_header=[*raw, *tail],
        raw_rows=raw_rows,
        missing=[False] * len(rows),
    )


def ranked(points: Sequence[Point], metric: str, best: str) -> list[tuple[int, Point]]:
    """The points with a value in order of the metric's mean, each with its rank; equal means share a rank."""
    means = [(point.stat(metric).mean, point) for point in points]
    found = sorted(
        ((mean, point) for mean, point in means if mean is not None), key=lambda each: each[0], reverse=best == "max"
    )
    every = [mean for mean, _ in found]
    return [(every.index(mean) + 1, point) for mean, point in found]


def _part(protocol: Protocol, part: str) -> str:
    value = getattr(protocol, part)
    return MISSING if value is None else axis_text(value)


def _caption(joined: Joined, measure: Measure, best: str) -> str:
    order = "largest" if best == "max" else "smallest"
    apart = " Ranks begin again for each protocol (data and choice of the model)."
    text = (
        f"Points of {', '.join(joined.names)} by {measure.label}, the {order} first; mean over seeds ± sample standard "
        f"deviation.{apart if len(joined.results.protocols) > 1 else ''}"
    )
    return f"{joined.results.partial}. {text}" if joined.results.partial else text
