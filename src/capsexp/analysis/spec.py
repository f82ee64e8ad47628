"""What a report shows, as plain values: the checked form of the ``report:`` block that :mod:`.schema` describes."""

from dataclasses import dataclass, field, replace
from typing import Any

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
    """How a metric or an axis is shown: its key in the files, its label, its unit and its decimals."""

    key: str
    label: str
    unit: str = ""
    digits: int = 4

    @property
    def title(self) -> str:
        """Label with unit, for axes and table heads."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True)
class Condition:
    """What an axis' value must be: between bounds, or one of some values."""

    values: tuple[Any, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None

    def holds(self, value: object) -> bool:
        """Whether an axis' value satisfies this condition; a text never lies between bounds."""
        if self.values is not None:
            return value in self.values
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        above = self.minimum is None or value >= self.minimum
        return above and (self.maximum is None or value <= self.maximum)


@dataclass(frozen=True)
class Comparison:
    """One number beside the paper's; its fields are the keys of a row under ``compare``."""

    what: str
    metric: str
    reduce: str | None
    where: dict[str, Condition]
    minus: str | None
    paper: float | str | dict[str, float] | None
    paper_data: str | None
    note: str

    def on(self, data: str | None) -> "Comparison":
        """The row for one data set, where the paper has a number for each of several."""
        if not isinstance(self.paper, dict):
            return self
        if data in self.paper:
            return replace(self, paper=self.paper[data], paper_data=data)
        return replace(self, paper=f"none for {data}" if data else None, paper_data=" or ".join(self.paper))


@dataclass(frozen=True)
class Figure:
    """One figure; its fields are the keys of an item under ``figures``.

    ``x`` and ``y`` are axes: the two arrays of ``series`` stand as ``x`` and ``y`` among its ``arrays``.
    """

    kind: str
    name: str
    title: str
    metric: str = ""
    x: str = ""
    y: str = ""
    by: str = ""
    sigma: float = 0.5
    azim: float = -125.0
    layer: str = ""
    pick: str = "max"
    array: str = ""
    arrays: dict[str, str] = field(default_factory=dict)
    labels: str = ""
    images: str = ""
    steps: str = ""
    metrics: tuple[str, ...] = ()
    triangle: bool = False
    sort: bool = False
    range: tuple[float, float] | None = None
    x_label: str = ""
    y_label: str = ""
    value_label: str = ""
    layers: str = "intermediate"
    threshold: float = 0.01
    style: str = ""
    panels: str = ""
    reference: dict[str, Condition] = field(default_factory=dict)
    reference_label: str = ""
    rows: tuple[str, ...] = ()
    where: dict[str, Condition] = field(default_factory=dict)
    paper: str = ""
    note: str = ""

    @property
    def shown_axes(self) -> set[str]:
        """The axes whose values stand side by side in one picture; each value of another gives a picture of its own."""
        return {self.x, self.y, self.by, self.style, self.panels, *self.reference} - {""}

    @property
    def over_axes(self) -> bool:
        """Whether it shows a metric over the sweep's axes."""
        return self.kind in ("surface", "heatmap", "line")


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper beside ours, an item under ``grids``.

    Attributes:
        figure: which of our numbers are shown: ``x`` are its columns, ``y`` its rows.
        scale: the paper's unit in ours: 100 where the paper prints per cent and our metric is a share.
        unit: the paper's.
        digits: decimals.
        paper: the paper's numbers, by the texts of row and column.
        paper_columns: texts of the paper's columns, in its order; those of the rows are the keys of ``paper``.
        paper_data: the paper's data set.
    """

    figure: Figure
    scale: float
    unit: str
    digits: int
    paper: dict[str, dict[str, float]]
    paper_columns: tuple[str, ...]
    paper_data: str | None


@dataclass(frozen=True)
class Spec:
    """A checked ``report:`` block; ``columns`` and ``figures`` are None where the block does not name them."""

    title: str = ""
    source: str = ""
    claim: str = ""
    paper_data: str | None = None
    axes: dict[str, Measure] = field(default_factory=dict)
    metrics: dict[str, Measure] = field(default_factory=dict)
    columns: list[str] | None = None
    timings: list[str] = field(default_factory=list)
    compare: list[Comparison] = field(default_factory=list)
    grids: list[PaperTable] = field(default_factory=list)
    figures: list[Figure] | None = None

    def measure(self, metric: str) -> Measure:
        """How to show a metric: as the block says, else as is usual."""
        return self.metrics.get(metric) or usual(metric)

    def axis(self, key: str) -> Measure:
        """How to show an axis: as the block says, else by the last part of its key."""
        return self.axes.get(key) or Measure(key, key.rpartition(".")[2])


def usual(metric: str) -> Measure:
    """How a metric is shown that the block says nothing about."""
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
