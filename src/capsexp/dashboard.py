"""``python -m capsexp.dashboard DIR``: a Weights & Biases workspace for a sweep, from its plan and report block.

wandb-workspaces has no heat map, so a metric over two axes is a scatter plot with the metric as height and colour.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capsexp import commands, records
from capsexp.errors import CommandError, ConfigError, require
from capsexp.text import install
from capsexp.tracking import login, names

if TYPE_CHECKING:
    from capsexp.analysis.spec import Spec

INSTALL = f"needs wandb-workspaces: {install('dashboard')}"
TARGET = "test/acc"
MOST_RUNS = 1000
"""The largest number of runs that Weights & Biases draws in one panel."""

GRADIENT = (("#440154", 0), ("#21918c", 50), ("#fde725", 100))
CURVES = {"training loss": ["train/loss"], "validation loss": ["val/loss"], "accuracy": ["train/acc", "val/acc"]}
PATTERNS = {
    "Kernels": {
        "maximum cosine similarity, each layer": r"^similarity/.*/max$",
        "minimum cosine distance, each layer": r"^distance/.*/min$",
    },
    "Capsules": {"share of dead capsules, each layer": r"capsules/(.*/)?dead_share$"},
}
"""Panels whose metrics are matched by name, so that they work for any layers of a network."""


@dataclass(frozen=True)
class Plan:
    """The input of a workspace: a sweep, its report block, and the config of one of its cells."""

    sweep: records.Sweep
    spec: "Spec"
    config: Mapping[str, Any]

    def setting(self, key: str, otherwise: Any) -> Any:
        """A value of the cells' ``logger.wandb`` group."""
        value = (self.config.get("logger") or {}).get("wandb", {}).get(key)
        return otherwise if value is None else value

    def is_value(self, axis: str) -> bool:
        """True if an axis is a single value in the config; the choice of a group (``data=digits,mnist``) is not."""
        node: Any = self.config
        for part in axis.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return False
            node = node[part]
        return not isinstance(node, Mapping | list)


def read_plan(directory: Path, *, trust: bool = False) -> Plan:
    """Read the plan of a sweep from its folder.

    Args:
        directory: the folder.
        trust: see :func:`~capsexp.analysis.spec.parse`.

    Raises:
        ConfigError: the folder holds no plan, or its report block is wrong.
    """
    from capsexp.analysis.spec import parse  # pydantic would make --help slow

    sweep = records.read_sweep(directory)
    if sweep is None:
        raise ConfigError("DIR", f"hold a sweep ({records.SWEEP} is missing or damaged)", str(directory))
    frozen = records.read_configs(directory)
    config = next((cell.config for cell in frozen.values()), {})
    return Plan(sweep, parse(sweep.report, trust=trust), config)


def workspace(plan: Plan, project: str, entity: str) -> Any:
    """The unsaved workspace (a ``wandb_workspaces.workspaces.Workspace``).

    Raises:
        ModuleNotFoundError: wandb-workspaces is not installed.
    """
    ws = importlib.import_module("wandb_workspaces.workspaces")
    panels = importlib.import_module("wandb_workspaces.reports.v2")
    shown = min(max(10, len(plan.sweep.cells)), MOST_RUNS)
    sections = {"Results": list(_results(plan, panels)), "Training": list(_curves(panels, shown))}
    for name, patterns in PATTERNS.items():
        sections[name] = [
            panels.LinePlot(title=title, x="epoch", metric_regex=regex, max_runs_to_show=shown)
            for title, regex in patterns.items()
        ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=plan.spec.title or plan.sweep.name,
        sections=[ws.Section(name=name, panels=found, is_open=True) for name, found in sections.items()],
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=shown),
        runset_settings=ws.RunsetSettings(filters=_filter(names.group(plan.sweep.name))),
    )


def as_json(made: Any) -> str:
    """A workspace as JSON in the format of Weights & Biases."""
    kept = made._to_model().model_dump(by_alias=True, exclude_none=True)
    return json.dumps(kept, indent=1)


# -- panels -----------------------------------------------------------------------------------------------------------


def _results(plan: Plan, panels: Any) -> Iterator[Any]:
    axes = [axis for axis, values in plan.sweep.axes.items() if len(values) > 1]
    for figure in _figures(plan.spec, axes):
        metric = _summary_key(figure.metric)
        if metric is None:
            continue
        x, height = _axis(plan, figure.x, panels), panels.SummaryMetric(metric)
        if hasattr(figure, "y"):
            over = {"y": _axis(plan, figure.y, panels), "z": height}
            gradient = [panels.GradientPoint(color, offset) for color, offset in GRADIENT]
            yield panels.ScatterPlot(title=figure.title, x=x, gradient=gradient, **over)
        else:
            yield panels.ScatterPlot(title=figure.title, x=x, y=height, running_ymean=True)
    if axes:
        column = panels.ParallelCoordinatesPlotColumn
        columns = [column(_axis(plan, axis, panels), display_name=plan.spec.axis(axis).title) for axis in axes]
        columns.append(column(panels.SummaryMetric(TARGET), display_name=plan.spec.measure(TARGET).title))
        yield panels.ParallelCoordinatesPlot(title="all axes", columns=columns)


def _figures(spec: "Spec", axes: Sequence[str]) -> list[Any]:
    """The report's figures that show a metric over axes, or the standard ones where it has none."""
    from capsexp.analysis.figures.line import Line
    from capsexp.analysis.figures.surface import Surface

    chosen: list[Any] = [figure for figure in spec.figures or [] if figure.over_axes]
    if chosen:
        return chosen
    title = spec.measure(TARGET).title
    shared: dict[str, Any] = {"name": "standard", "title": title, "metric": TARGET}
    pairs = [Surface(**shared, x=axes[0], y=axes[1])] if len(axes) > 1 else []
    return [*pairs, *(Line(**shared, x=axis) for axis in axes)]


def _curves(panels: Any, shown: int) -> Iterator[Any]:
    for title, metrics in CURVES.items():
        yield panels.LinePlot(title=title, x="epoch", y=metrics, max_runs_to_show=shown)


def _axis(plan: Plan, axis: str, panels: Any) -> Any:
    """The panel axis of a swept key: from the run's config, or from its summary, which holds every swept value."""
    return panels.Config(axis) if plan.is_value(axis) else panels.SummaryMetric(axis)


def _summary_key(metric: str) -> str | None:
    """The key of a report's metric in a run's summary; None for metrics that are not sent."""
    if "/" in metric or metric in ("params", "params_paper"):
        return metric
    head, _, rest = metric.partition(".")
    return f"training/{rest}" if head == "training" else None


def _filter(group: str) -> str:
    """A filter for one group's runs; escaped, since wandb-workspaces rewrites ``=`` and ``<`` in strings too."""
    plain = (char if char.isascii() and (char.isalnum() or char in "_-. ") else f"\\U{ord(char):08x}" for char in group)
    return f'Metric("Group") == "{"".join(plain)}"'


# -- the command ------------------------------------------------------------------------------------------------------


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 1 if Weights & Biases refused the workspace."""
    parser = commands.parser(
        "dashboard", "Make a Weights & Biases workspace for a sweep: its runs, its metrics over its axes, its curves."
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="a sweep's folder, such as multirun/cnn_prune")
    parser.add_argument("--json", action="store_true", help="print the workspace instead of saving it; needs no login")
    parser.add_argument("--project", metavar="P", help="default: the cells' logger.wandb.project")
    parser.add_argument("--entity", metavar="E", help="default: the cells' logger.wandb.entity, else your own")
    parser.add_argument("--trust", action="store_true", help=commands.TRUST_REPORT)
    return commands.run(parser, _make, words)


def _make(given: argparse.Namespace) -> None:
    plan = read_plan(given.directory, trust=given.trust)
    project = given.project if given.project is not None else plan.setting("project", "capsexp")
    entity = given.entity if given.entity is not None else plan.setting("entity", None)
    names.check(project, entity, plan.sweep.name)
    require(given.json or login.has_login(), "login", "exist (run `wandb login`, or set WANDB_API_KEY)", None)
    if entity is None and not given.json:
        entity = login.default_entity()
    try:
        made = workspace(plan, project, entity or "")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "wandb_workspaces":
            raise
        raise CommandError(INSTALL) from error
    sys.stdout.write(f"{as_json(made) if given.json else _save(made)}\n")


class RefusedError(CommandError):
    """Weights & Biases did not take the workspace."""

    exit_code = 1


def _save(made: Any) -> str:
    """Where the workspace is, once it is saved."""
    try:
        return str(made.save().url)
    except Exception as error:
        raise RefusedError(f"Weights & Biases did not take it: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
