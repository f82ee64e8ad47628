"""The ``report:`` block of an experiment: its keys, their rules, and the checked block.

Every key is optional.  An axis is a swept key (``model.c2``).  A metric is a name under ``metrics`` of a result
(``test/acc``) or a dotted path in the result itself (``params``, ``training.epochs``)::

    report:
      title: "..."
      axes:
        model.c2: {label: "c2", unit: "channels"}
      metrics:
        test/acc: {label: "test accuracy", unit: "share", digits: 4}
      columns: [test/acc, params]
      compare:
        - {what: "best accuracy", metric: test/acc, reduce: max, where: {model.c2: {min: 7}}, paper: 0.94}
      grids:
        - name: table1
          rows: study.net
          columns: pruning.ratio
          metric: test/acc
          scale: 100
          unit: "%"
          paper_columns: [0, 0.125, 0.25, 0.375]
          paper:
            C10D8: [73.92, 74.26, null, 74.53]      # a number for each of paper_columns, null where the paper has none
            C16D6: {0: 75.40, 0.625: 73.02}         # or by column, also where it is none of paper_columns
      figures:
        - {kind: surface, name: fig01, x: model.c2, y: model.c3, metric: test/acc}

``python -m capsexp.report --schema DIR`` writes all keys with their descriptions as JSON schema.  The kinds of figures
are the modules of :mod:`capsexp.analysis.figures`.  Axes that a figure or grid does not name (``seed`` apart, which is
averaged over) give one picture or table for each of their values.

A row of a grid has three lines: ours (mean, deviation, and n where it is not that of the caption), the paper's number,
and the difference.  A place without our number says why; rows and columns of the paper that were not run have the
paper's number alone.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from capsexp.analysis import figures
from capsexp.analysis.conditions import axis_text
from capsexp.analysis.figures.base import Figure
from capsexp.analysis.measures import Measure, usual
from capsexp.analysis.validation import (
    ByKind,
    Choice,
    Digits,
    Extreme,
    FileName,
    Label,
    Model,
    Named,
    Scalar,
    named,
    validated,
)
from capsexp.errors import ConfigError, require, require_number

TAKEN = ("results", "comparison", "cells", "timings")
"""Names of the files that every report has."""
NUMBER = re.compile(r"-?(0|[1-9]\d*)?(\.\d*)?(?<=[\d.])(e[-+]?\d+)?", re.IGNORECASE)
"""A text that YAML and people read as a number; 08 is a name."""


def parse(block: object) -> "Spec":
    """The checked form of a ``report:`` block.

    Args:
        block: the content of the block in plain types; None is an empty block.

    Raises:
        ConfigError: a key is unknown or missing, or a value breaks a rule.
    """
    spec = validated(Spec, "report", {} if block is None else block)
    compare = [_with(row, paper_data=spec.paper_data) for row in spec.compare]
    return spec.model_copy(update={"compare": compare, "grids": [_completed(grid, spec) for grid in spec.grids]})


def json_schema() -> dict[str, Any]:
    """The JSON schema of an experiment's file, of which it describes the ``report:`` block alone."""
    block = Spec.model_json_schema(ref_template="#/$defs/{model}")
    definitions = block.pop("$defs")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An experiment of capsexp",
        "type": "object",
        "properties": {"report": block},
        "$defs": definitions,
    }


def _with(model: Any, **defaults: Any) -> Any:
    """The model with other defaults."""
    left_out = {key: value for key, value in defaults.items() if key not in model.model_fields_set}
    return model.model_copy(update=left_out)


def _completed(grid: "PaperTable", spec: "Spec") -> "PaperTable":
    measure = spec.measure(grid.metric)
    unit = measure.unit if grid.scale == 1 else ""
    completed: PaperTable = _with(grid, paper_data=spec.paper_data, unit=unit, digits=measure.digits)
    return completed


# -- numbers of the paper ---------------------------------------------------------------------------------------------


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


# -- figures and the whole block --------------------------------------------------------------------------------------


AnyFigure = Annotated[Figure, ByKind(figures.kinds)]


def _with_names(value: object) -> object:
    """The figures with a name each."""
    if not isinstance(value, list):
        return value
    return [
        {"name": f"figure{place:02d}", **item} if isinstance(item, dict) else item
        for place, item in enumerate(value, start=1)
    ]


def _refuse_again(key: str, names: Sequence[str], taken: Sequence[str], rule: str) -> None:
    for place, name in enumerate(names):
        require(name not in (*taken, *names[:place]), f"{key}[{place}].name", rule, name)


class Spec(Model):
    """A checked ``report:`` block; ``columns`` and ``figures`` are None where the block does not name them."""

    CLOCKED: ClassVar[str] = "be no clock (those stand in the timings table alone)"

    title: str = Field(default="", description="heading of the page; default: the sweep's name and its axes")
    source: str = Field(default="", description="the paper, its sections and figures")
    claim: str = Field(default="", description="the paper's statement, in a sentence or two")
    paper_data: str | None = Field(default=None, description="data.name of the paper's data set; any other is flagged")
    axes: Annotated[dict[str, Label], Named] = Field(default={}, description="labels of axes")
    metrics: Annotated[dict[str, Label], Named] = Field(default={}, description="labels and decimals of metrics")
    columns: list[str] | None = Field(
        default=None, description="metrics in the tables; default: those that all results have"
    )
    timings: list[str] = Field(default=[], description="metrics measured with a clock, shown in timings.* only")
    compare: list[Comparison] = Field(default=[], description="one row each: our number, the paper's, the difference")
    grids: list[PaperTable] = Field(default=[], description="the paper's tables beside ours")
    figures: Annotated[list[AnyFigure] | None, BeforeValidator(_with_names)] = Field(
        default=None, description="default: one figure over all axes"
    )

    @model_validator(mode="after")
    def _names_once(self) -> "Spec":
        _refuse_again("figures", [figure.name for figure in self.figures or []], (), "be used once in the report")
        _refuse_again("grids", [grid.name for grid in self.grids], TAKEN, "be the name of no other table")
        return self

    @model_validator(mode="after")
    def _refuse_clocks(self) -> "Spec":
        """Clocks differ from run to run; one outside ``timings.*`` would make two equal reports differ."""
        used = [(f"columns[{i}]", metric) for i, metric in enumerate(self.columns or [])]
        for key, models in (("compare", self.compare), ("grids", self.grids), ("figures", self.figures or [])):
            for place, each in enumerate(models):
                used.append((f"{key}[{place}].metric", getattr(each, "metric", "")))
                several = enumerate(getattr(each, "metrics", []))
                used += [(f"{key}[{place}].metrics[{i}]", metric) for i, metric in several]
        for key, metric in used:
            require(not (metric.startswith("clocks.") or metric in self.timings), key, self.CLOCKED, metric)
        return self

    def measure(self, metric: str) -> Measure:
        """The way to show a metric: as the block says, else as is usual."""
        return self.metrics[metric].of(metric) if metric in self.metrics else usual(metric)

    def axis(self, key: str) -> Measure:
        """The way to show an axis: as the block says, else by the last part of its key."""
        return self.axes[key].of(key) if key in self.axes else Measure(key, key.rpartition(".")[2])
