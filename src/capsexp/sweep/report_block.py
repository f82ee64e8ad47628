"""The ``report:`` block of a sweep beside its cells: axes that no config has or that are not swept, missing metrics."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from capsexp import records
from capsexp.errors import require
from capsexp.text import most_like, no_metric


def check(block: object, grid_axes: Iterable[str], configs: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a block that breaks a rule, or that names an axis which no config of the sweep has as a key.

    Args:
        block: the resolved block.
        grid_axes: the swept keys.
        configs: the resolved configs of the cells; none where the sweep does not know them before it runs.

    Raises:
        ConfigError: for the first such key.
    """
    from capsexp.analysis.spec import parse  # imports pydantic, which --help does not need

    swept, known = set(grid_axes), list(configs)
    for key, axis in parse(block, trust=True).named_axes():  # the command is one's own, its configs name any class
        if known and axis not in swept and not any(_has(config, axis) for config in known):
            near = most_like(axis, [*swept, *records.dotted_keys(known[0])])
            advice = f" ({near} is the most like it)" if near else ""
            require(False, key, f"name a key of the sweep's configs{advice}", axis)


def _has(config: Mapping[str, Any], dotted: str) -> bool:
    node: Any = config
    for part in dotted.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def unswept_axes(sweep: records.Sweep) -> list[str]:
    """A line for each key of the block that names an axis which the sweep does not vary."""
    if not sweep.report:
        return []
    from capsexp.analysis.spec import parse  # imports pydantic, which --help does not need

    return list(parse(sweep.report, trust=True).unswept(sweep.axes))


def lacking_metrics(sweep: records.Sweep, directory: Path) -> Iterator[str]:
    """A line for each metric of the block that none of the sweep's results has.

    Args:
        sweep: the plan, with its block.
        directory: its folder, in which all cells are done.
    """
    if not sweep.report:
        return
    from capsexp.analysis.spec import parse  # imports pydantic, which --help does not need

    wanted: dict[str, str] = {}
    for key, metric in parse(sweep.report, trust=True).named_metrics():
        wanted.setdefault(metric, key)
    known: set[str] = set()
    for cell in sweep.cells:
        body = records.read_result(directory / cell.name) or {}
        known |= records.metric_names(body)
        wanted = {metric: key for metric, key in wanted.items() if not records.has_metric(body, metric)}
        if not wanted:
            return
    for metric, key in wanted.items():
        yield f"{key}: {no_metric(metric, known)}"
