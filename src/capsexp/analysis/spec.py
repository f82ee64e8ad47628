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
are the modules of :mod:`capsexp.analysis.figures`, and modules of one's own by their dotted names (``--kind`` adds them
to the schema).  Axes that a figure
or grid does not name (``seed`` apart, which is averaged over) give one picture or table for each of their values.

A row of a grid has three lines: ours (mean, deviation, and n where it is not that of the caption), the paper's number,
and the difference.  A place without our number says why; rows and columns of the paper that were not run have the
paper's number alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, create_model, model_validator

from capsexp.analysis import figures
from capsexp.analysis.cells import SEED
from capsexp.analysis.figures.base import Figure, not_swept
from capsexp.analysis.measures import Measure, usual
from capsexp.analysis.paper_numbers import Comparison, PaperTable
from capsexp.analysis.validation import ByKind, Choice, Label, Model, Named, validated
from capsexp.errors import require

TAKEN = ("results", "comparison", "cells", "timings")
"""Names of the files that every report has."""


def parse(block: object, *, trust: bool = False) -> "Spec":
    """The checked form of a ``report:`` block.

    Args:
        block: the content of the block in plain types; None is an empty block.
        trust: True if kinds of figures may be modules of one's own, which are imported and may run any code.

    Raises:
        ConfigError: a key is unknown or missing, or a value breaks a rule.
    """
    spec = validated(Spec, "report", {} if block is None else block, trust=trust)
    compare = [_with(row, paper_data=spec.paper_data) for row in spec.compare]
    return spec.model_copy(update={"compare": compare, "grids": [_completed(grid, spec) for grid in spec.grids]})


def json_schema(own: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON schema of an experiment's file, of which it describes the ``report:`` block alone.

    Args:
        own: kinds of figures of one's own that it knows too: dotted names of modules, which are imported.

    Raises:
        ConfigError: a module is none of a kind.
    """
    for name in own:
        require("." in name, "kind", "name a module of one's own by its dotted name", name)
    models: dict[str, Any] = {f"own{place}": (figures.of_module(name), ...) for place, name in enumerate(own)}
    whole = create_model("Whole", report=(Spec, ...), **models).model_json_schema(ref_template="#/$defs/{model}")
    definitions, (spec, *references) = whole["$defs"], whole["properties"].values()
    block = definitions.pop(spec["$ref"].rpartition("/")[2])
    kinds = block["properties"]["figures"]["anyOf"][0]["items"]
    for name, reference in zip(own, references, strict=True):
        kinds["oneOf"].append({"$ref": reference["$ref"]})
        kinds["discriminator"]["mapping"][name] = reference["$ref"]
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


def _completed(grid: PaperTable, spec: "Spec") -> PaperTable:
    measure = spec.measure(grid.metric)
    unit = measure.unit if grid.scale == 1 else ""
    completed: PaperTable = _with(grid, paper_data=spec.paper_data, unit=unit, digits=measure.digits)
    return completed


AnyFigure = Annotated[Figure, ByKind(figures.kinds, figures.of_module)]


def _with_names(value: object) -> object:
    """The figures with a name each."""
    if not isinstance(value, list):
        return value
    return [
        {"name": f"figure{place:02d}", **item} if isinstance(item, dict) else item
        for place, item in enumerate(value, start=1)
    ]


def _conditions(key: str, chosen: Choice) -> Iterator[tuple[str, str]]:
    """The axes of conditions, each with its key."""
    conditions = chosen.conditions if isinstance(chosen, Figure) else chosen.where
    for axis in conditions:
        said = "at" if axis in chosen.at else "where" if axis in chosen.where else "reference"
        yield f"{key}.{said}", axis


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

    def named_axes(self) -> Iterator[tuple[str, str]]:
        """The dotted key of everything in the block that names an axis of the sweep, with the axis; labels apart."""
        for place, figure in enumerate(self.figures or []):
            for key, axis in figure.named_axes.items():
                yield f"report.figures[{place}].{key}", axis
            yield from _conditions(f"report.figures[{place}]", figure)
        for place, grid in enumerate(self.grids):
            yield f"report.grids[{place}].rows", grid.rows
            yield f"report.grids[{place}].columns", grid.columns
            yield from _conditions(f"report.grids[{place}]", grid)
        for place, row in enumerate(self.compare):
            yield from _conditions(f"report.compare[{place}]", row)

    def unswept(self, swept: Mapping[str, Sequence[Any]]) -> Iterator[str]:
        """A line for everything in the block that names an axis which is not swept, with what the report does then.

        Args:
            swept: the values of each swept key.
        """
        over = {axis: values for axis, values in swept.items() if axis != SEED}
        figures = {f"report.figures[{place}]": figure.unswept(over) for place, figure in enumerate(self.figures or [])}
        for key, axis in self.named_axes():
            part, _, last = key.rpartition(".")
            if axis not in over:
                line = figures.get(part, {}).get(last)
                yield f"{key}: {line or f'{axis} {not_swept(axis)}, so the report has nothing to show for it'}"

    def named_metrics(self) -> Iterator[tuple[str, str]]:
        """The dotted key of everything in the block that names a metric of a result, with the metric; labels apart."""
        for place, column in enumerate(self.columns or []):
            yield f"report.columns[{place}]", column
        for key, models in (("figures", self.figures or []), ("grids", self.grids), ("compare", self.compare)):
            for place, each in enumerate(models):
                metric = getattr(each, "metric", "")
                if metric:
                    yield f"report.{key}[{place}].metric", metric

    def measure(self, metric: str) -> Measure:
        """The way to show a metric: as the block says, else as is usual."""
        return self.metrics[metric].of(metric) if metric in self.metrics else usual(metric)

    def axis(self, key: str) -> Measure:
        """The way to show an axis: as the block says, else by the last part of its key."""
        return self.axes[key].of(key) if key in self.axes else Measure(key, key.rpartition(".")[2])
