"""Metrics and axes as they are shown: labels, units and decimals, and numbers as text."""

import math
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
}
STANDARD = ("test/acc", "test/loss", "val/acc", "val/loss", "params", "params_paper", "training.peak_epoch")
"""The columns of a report whose block names none."""


@dataclass(frozen=True)
class Measure:
    """A metric or an axis as it is shown: its key in the files, its label, its unit and its decimals."""

    key: str
    label: str
    unit: str = ""
    digits: int = 4

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
        case ["capsules", layer, "dead_share" | "silent_share" as share]:
            return Measure(metric, f"{share.removesuffix('_share')} capsules, {layer}", "share", 4)
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


def signed(value: float, digits: int) -> str:
    """A difference with its sign; one that rounds to nothing has none."""
    text = f"{value:+,.{digits}f}"
    return text[1:] if not text.strip("+-0.,") else text
