"""Names of a ``report:`` block that no cell knows: axes that no config has, metrics that no result has."""

from pathlib import Path

from capsexp import records
from capsexp.analysis.results import Results
from capsexp.analysis.spec import Spec
from capsexp.text import most_like


def unknown_axes(spec: Spec, results: Results, directory: Path) -> dict[str, str]:
    """A line for each figure of the block with an axis that no planned config has as a key, by the figure's name.

    A plan with such an axis is refused, so that this says something of older plans alone.
    """
    unswept = [(figure.name, key, axis) for figure in spec.figures or [] for key, axis in figure.named_axes.items()]
    unswept = [each for each in unswept if each[2] not in results.axes]
    configs = [cell.config for cell in records.read_configs(directory).values()] if unswept else []
    known = {key for config in configs for key in records.dotted_keys(config)}
    return {name: _unknown(name, key, axis, known) for name, key, axis in unswept if known and axis not in known}


def _unknown(name: str, key: str, axis: str, known: set[str]) -> str:
    near = most_like(axis, sorted(known))
    return f"{name}: {key}: no config has a key {axis}" + (f" ({near} is the most like it)" if near else "")
