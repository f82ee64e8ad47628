"""The paper's numbers in a ``report:`` block: the rows of ``compare`` and the tables of ``grids``."""

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from capsexp.analysis.conditions import axis_text
from capsexp.analysis.figures.base import Figure
from capsexp.analysis.validation import Choice, Digits, Extreme, FileName, Scalar, named
from capsexp.errors import ConfigError, require, require_number

NUMBER = re.compile(r"-?(0|[1-9]\d*)?(\.\d*)?(?<=[\d.])(e[-+]?\d+)?", re.IGNORECASE)
"""A text that YAML and people read as a number; 08 is a name."""


def _paper(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: require_number(name, number) for name, number in named(value).items()}
    if value is not None and not isinstance(value, str):
        require_number("", value)
    return value


class Comparison(Choice):
    """One of our numbers beside the paper's."""

    what: str = Field(description="the number in words")
    metric: str
    reduce: Extreme | None = Field(default=None, description="of the chosen points; not needed where one point is left")
    minus: Extreme | None = Field(
        default=None, description="subtract the metric's maximum or minimum over the whole sweep"
    )
    paper: Annotated[
        float | str | dict[str, float] | None,
        PlainValidator(_paper, json_schema_input_type=float | str | dict[str, float] | None),
    ] = Field(
        default=None,
        description="a number, a sentence, null where the paper is silent, or a number for each of several data sets",
    )
    paper_data: str | None = Field(default=None, description="default: that of the block")
    note: str = ""

    def on(self, data: str | None) -> "Comparison":
        """The row for one data set, where the paper has a number for each of several."""
        if not isinstance(self.paper, dict):
            return self
        if data in self.paper:
            return self.model_copy(update={"paper": self.paper[data], "paper_data": data})
        lacking = f"none for {data}" if data else None
        return self.model_copy(update={"paper": lacking, "paper_data": " or ".join(self.paper)})


class TableFigure(Figure):
    """Our numbers in a table of the paper, as a figure would ask for them."""

    kind: str = "grid"
    metric: str
    x: str
    y: str


class PaperTable(Choice):
    """A table of the paper beside ours.

    Attributes:
        paper: the rows as they are given; ``numbers`` has them checked and by column.
        paper_columns: the columns as they are given; ``heads`` has their texts.
    """

    name: FileName = Field(description="stem of the table's files")
    title: str = Field(default="", description="default: the name")
    rows: str = Field(description="an axis")
    columns: str = Field(description="another axis")
    metric: str
    scale: Annotated[float, Field(gt=0), BeforeValidator(partial(require_number, "", minimum=0, open_ends="<"))] = (
        Field(default=1.0, description="factor from our unit to the paper's: 100 where the paper prints per cent")
    )
    unit: str = Field(default="", description="the paper's unit; default: that of the metric, where there is no scale")
    digits: Digits = Field(default=4, description="decimals; default: those of the metric")
    paper_columns: list[Annotated[Any, PlainValidator(lambda value: _head(value), json_schema_input_type=Scalar)]] = (
        Field(default=[], description="values of the axis; equal numbers match however they are written")
    )
    paper: Annotated[
        dict[str, list[float | None] | dict[str, float | None]],
        PlainValidator(named, json_schema_input_type=dict[str, list[float | None] | dict[str, float | None]]),
    ] = Field(
        default={}, description="rows of numbers: a list with one for each of paper_columns, or a mapping by column"
    )
    paper_data: str | None = Field(default=None, description="default: that of the block")
    note: str = ""

    @model_validator(mode="after")
    def _check(self) -> "PaperTable":
        require(self.rows != self.columns, "columns", "be another axis than rows", self.columns)
        _refuse_twins("paper_columns", self.paper_columns)
        require(bool(self.paper) or not self.paper_columns, "paper", "be given with paper_columns", None)
        _refuse_twins("paper", self.paper)
        for row, value in self.paper.items():
            _row(f"paper.{row}", value, self.paper_columns)
        return self

    @cached_property
    def figure(self) -> TableFigure:
        """The figure of our numbers: ``x`` are the table's columns, ``y`` its rows."""
        return TableFigure(
            name=self.name,
            title=self.title or self.name,
            metric=self.metric,
            x=self.columns,
            y=self.rows,
            where=self.where,
            note=self.note,
        )

    @cached_property
    def numbers(self) -> dict[str, dict[str, float]]:
        """The paper's numbers, by the texts of row and column."""
        rows = self._given
        every = [number for row in rows.values() for number in row.values() if number is not None]
        kind = int if all(isinstance(number, int) for number in every) else float  # 75 is 75.0 beside 77.4
        return {row: {at: kind(x) for at, x in each.items() if x is not None} for row, each in rows.items()}

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """The texts of the paper's columns, in its order; those of the rows are the keys of ``numbers``."""
        columns = (column for row in self._given.values() for column in row)
        return tuple(dict.fromkeys([*map(canonical, self.paper_columns), *columns]))

    @cached_property
    def _given(self) -> dict[str, dict[str, Any]]:
        return {canonical(row): _row(row, value, self.paper_columns) for row, value in self.paper.items()}


def canonical(text: str) -> str:
    """One text for equal numbers, however they were written (0.5, .50, 5e-1); words stay as they are."""
    number = NUMBER.fullmatch(text) and any(char.isdigit() for char in text)
    return axis_text(float(text)) if number else text


def _head(value: object) -> str:
    require(not isinstance(value, Mapping | list), "", "be a number or a word", value)
    return axis_text(value)


def _refuse_twins(key: str, texts: Collection[str]) -> None:
    """Two names for one value of an axis."""
    seen: set[str] = set()
    for text in texts:
        require(canonical(text) not in seen, key, "name each value once", text)
        seen.add(canonical(text))


def _row(key: str, value: object, columns: Sequence[str]) -> dict[str, Any]:
    """A row's numbers by column; None where the paper has none."""
    if isinstance(value, list):
        fits = bool(columns) and len(value) == len(columns)
        rule = f"have a number or null for each of the {len(columns)} paper_columns"
        require(fits, key, rule if columns else "be given with paper_columns, or be a mapping", value)
        value = dict(zip(columns, value, strict=True))
    elif not isinstance(value, Mapping):
        raise ConfigError(key, "be a list of numbers, or a mapping from columns to numbers", value)
    by_column = named(value)
    _refuse_twins(key, by_column)
    for column, number in by_column.items():
        if number is not None:
            require_number(f"{key}.{column}", number)
    return {canonical(column): number for column, number in by_column.items()}
