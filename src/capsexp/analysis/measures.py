"""Metrics and axes as they are shown: labels, units and decimals, and numbers as text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

LABELS = {
    "test/acc": ("test accuracy", "share", 4),
    "val/acc": ("validation accuracy", "share", 4),
    "test/loss": ("test loss", "", 4),
    "val/loss": ("validation loss", "", 4),
    "train/loss": ("training loss", "", 4),
    "train/acc": ("training accuracy", "share", 4),
    "params": ("parameters", "", 0),
    "params_paper": ("parameters, paper's formula", "", 0),
    "training.epochs": ("epochs", "", 1),
    "training.peak_epoch": ("peak epoch", "", 1),
    "capsules/dead_share": ("dead capsules", "share", 4),
    "capsules/silent_share": ("silent capsules", "share", 4),
    "capsules/dead_types_share": ("dead types of capsules", "share", 4),
}
STANDARD = ("test/acc", "test/loss", "val/acc", "val/loss", "params", "params_paper", "training.peak_epoch")
"""The columns of a report whose block names none."""


@dataclass(frozen=True)
class Measure:
    """A metric or an axis as it is shown: its key in the files, its label, its unit and its decimals.

    Attributes:
        binary: True if every cell's value is 0 or 1, so that their mean is a share of cells.
    """

    key: str
    label: str
    unit: str = ""
    digits: int = 4
    binary: bool = False

    @property
    def title(self) -> str:
        """Label with unit, for axes and table heads."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


class Labels(Protocol):
    """The part of a ``report:`` block that pictures and tables need to name what they show."""

    @property
    def paper_data(self) -> str | None:
        """Name of the paper's data set."""

    def measure(self, metric: str) -> Measure:
        """The way to show a metric."""

    def axis(self, key: str) -> Measure:
        """The way to show an axis."""


def usual(metric: str) -> Measure:
    """The way to show a metric that the block does not name."""
    if metric in LABELS:
        return Measure(metric, *LABELS[metric])
    match metric.split("/"):
        case ["distance", layer, "min"]:
            return Measure(metric, f"minimum cosine distance, {layer}", "", 4)
        case ["similarity", layer, "max"]:
            return Measure(metric, f"maximum cosine similarity, {layer}", "", 4)
        case ["capsules", layer, "dead_share" | "silent_share" | "dead_types_share" as share]:
            label = usual(f"capsules/{share}").label
            return Measure(metric, f"{label}, {layer}", "share", 4)
    return Measure(metric, metric)


# -- numbers as text -------------------------------------------------------------------------------------------------

MISSING = "\N{EN DASH}"


def number(value: float | int | None, digits: int) -> str:
    """A value with a fixed number of decimals; whole numbers with separators, tiny ones as powers of ten."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "not finite"
    if isinstance(value, int):
        return f"{value:,}"
    if value and abs(value) < 0.5 * 10.0**-digits:
        return f"{value:.2e}"
    return f"{value:,.{digits}f}"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the 95 % interval of a share (Wilson 1927), from one 0 or 1 for each cell.

    It is meant for few cells, and has two ends also where all have the same value.

    Example:
        >>> low, high = interval([1.0] * 8)
        >>> round(low, 3), round(high, 3)
        (0.676, 1.0)
    """
    n, z = len(values), 1.959963984540054
    share = sum(values) / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def interval_text(values: Sequence[float], scale: float, digits: int) -> str:
    """The interval in brackets, in a unit that is ``scale`` times smaller: `` [0.68, 1.00]``."""
    low, high = (scale * end for end in interval(values))
    return f" [{low:.{digits}f}, {high:.{digits}f}]"


def signed(value: float, digits: int) -> str:
    """A difference with its sign; one that rounds to nothing has none."""
    text = f"{value:+,.{digits}f}"
    return text[1:] if not text.strip("+-0.,") else text
