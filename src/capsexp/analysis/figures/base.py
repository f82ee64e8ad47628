"""The keys that figures of all kinds share; each kind has a module of its own in this package."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from capsexp.analysis.cells import SEED
from capsexp.analysis.conditions import Condition
from capsexp.analysis.validation import Choice, Extreme, FileName
from capsexp.errors import require

MOST = 4
"""Arrays or metrics in one figure at most."""


def not_swept(axis: str) -> str:
    """Says why a figure cannot go over the values of a key, after the key's name."""
    return "is averaged over" if axis == SEED else "is not swept in this sweep"


class Figure(Choice):
    """One figure of a report.

    Attributes:
        kind: name of the module that draws it.
        name: stem of its files.
        title: the line at its top.
        paper: the paper's result, in the subtitle.
        note: text below the figure.
        AXES: the keys that name axes whose values stand side by side in one picture.
        over_axes: whether it shows a metric over the sweep's axes.
        whole_sweep: whether one picture is chosen among the cells of all axes.
    """

    AXES: ClassVar[tuple[str, ...]] = ("x", "y", "by")
    over_axes: ClassVar[bool] = False
    whole_sweep: ClassVar[bool] = False

    kind: str = Field(description="kind of figure")
    name: FileName = Field(default="", description="stem of the figure's files; default: figure01, figure02, ...")
    title: str = Field(default="", description="default: the name")
    paper: Annotated[str, BeforeValidator(str, json_schema_input_type=str | float)] = Field(
        default="", description="the paper's result, in the subtitle"
    )
    note: str = Field(default="", description="text below the figure")

    @model_validator(mode="before")
    @classmethod
    def _title_is_name(cls, value: object) -> object:
        untitled = isinstance(value, dict) and value.get("title") is None and isinstance(value.get("name"), str)
        return {**value, "title": value["name"]} if untitled and isinstance(value, dict) else value

    @property
    def shown_axes(self) -> set[str]:
        """The axes whose values stand side by side in one picture; each value of another gives a picture of its own."""
        return {getattr(self, key, "") for key in self.AXES} - {""}

    @property
    def named_axes(self) -> dict[str, str]:
        """The axes that its keys name, by key; of a kind that shows no metric over axes, ``x`` and ``y`` are others."""
        keys = self.AXES if self.over_axes or self.AXES != Figure.AXES else ("by",)
        return {key: getattr(self, key, "") for key in keys if getattr(self, key, "")}

    def unswept(self, swept: Mapping[str, Sequence[Any]]) -> dict[str, str]:
        """A line for each key that names an axis which is not swept, with what is drawn instead.

        Args:
            swept: the values of each axis: of the swept keys but the seed, which is averaged over.
        """
        lacking = {key: axis for key, axis in self.named_axes.items() if axis not in swept}
        return {key: f"{axis} {not_swept(axis)}, so {self._instead(key, swept)}" for key, axis in lacking.items()}

    def _instead(self, key: str, swept: Mapping[str, Sequence[Any]]) -> str:
        """What is drawn although a key's axis is not swept."""
        return "the figure is drawn without it"

    @property
    def conditions(self) -> dict[str, Condition]:
        """All conditions that name axes."""
        return self.where


class OverAxes(Figure):
    """A metric over one or two axes."""

    over_axes: ClassVar[bool] = True

    metric: str = Field(description="the metric that is shown")
    x: str = Field(description="the axis from left to right")

    def _instead(self, key: str, swept: Mapping[str, Sequence[Any]]) -> str:
        if key not in ("x", "y"):
            return super()._instead(key, swept)
        along = [axis for name, axis in self.named_axes.items() if name in ("x", "y") and len(swept.get(axis, ())) > 1]
        return f"lines over {along[0]} are drawn instead of a {self.kind}" if along else "nothing is drawn"


class OfCell(Figure):
    """Arrays of one cell: that with the largest or smallest metric, or the first finished one."""

    metric: str = Field(default="", description="the metric that chooses the cell; default: the first finished cell")
    pick: Extreme = Field(default="max", description="the cell whose metric is largest or smallest")

    @model_validator(mode="after")
    def _metric_with_pick(self) -> "OfCell":
        given = self.model_fields_set & {"metric", "pick"}
        require(given != {"metric"}, "pick", "be given with metric", None)
        require(given != {"pick"}, "metric", "be given with pick", None)
        return self


class Labelled(Figure):
    """A figure whose axes have texts of their own."""

    x_label: str = Field(default="", description="text below the x axis")
    y_label: str = Field(default="", description="text beside the y axis")


def few_arrays(arrays: dict[str, str]) -> dict[str, str]:
    """The arrays of one figure, by the names that it shows."""
    require(1 <= len(arrays) <= MOST, "", f"name 1 to {MOST} arrays", arrays)
    return arrays
