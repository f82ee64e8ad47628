"""Defaults for what a block leaves out: a title, labels, and a figure for any axes that were swept."""

from collections import Counter
from collections.abc import Sequence

from capsexp.analysis.cells import SEED, grouped, is_number
from capsexp.analysis.figures.base import Figure
from capsexp.analysis.figures.heatmap import Heatmap
from capsexp.analysis.figures.line import Line
from capsexp.analysis.measures import STANDARD
from capsexp.analysis.panels import MOST
from capsexp.analysis.results import Results
from capsexp.analysis.spec import Spec
from capsexp.analysis.validation import Label


def fill(spec: Spec, results: Results) -> Spec:
    """The block with a title and with a label for each axis."""
    labels = _labels(list(results.sweep.axes))
    axes = {key: Label(label=label) for key, label in labels.items()}
    return spec.model_copy(update={"title": spec.title or _title(results), "axes": {**axes, **spec.axes}})


def _title(results: Results) -> str:
    """The sweep's name and what was swept: ``adhoc: model.c2 × model.c3, 3 seeds``."""  # noqa: RUF002
    seeds = len({cell.axes.get(SEED) for cell in results.cells})
    parts = [" × ".join(_long(results))] if _long(results) else []  # noqa: RUF001
    parts += [f"{seeds} seeds"] if seeds > 1 else []
    return f"{results.sweep.name}: {', '.join(parts)}" if parts else results.sweep.name


def _labels(axes: list[str]) -> dict[str, str]:
    """The last part of each key, or all of it where two would be called the same."""
    short = {key: key.removesuffix("._target_").rpartition(".")[2] for key in axes}
    counts = Counter(short.values())
    return {key: label if counts[label] == 1 else key for key, label in short.items()}


def _long(results: Results) -> list[str]:
    """The axes that have more than one value."""
    return [axis for axis, values in results.axes.items() if len(values) > 1]


def figures(spec: Spec, results: Results) -> tuple[Sequence[Figure], str]:
    """A figure of the first standard metric over all axes, or a line saying why there is none.

    One axis: a line, or points over words.  Two: a heat map.  More: the heat maps of each value of the others.
    """
    axes = _long(results)
    if not axes:
        return [], ""
    metric = _metric(results)
    labels = [spec.axis(axis).label for axis in axes]
    over = " and ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels)
    label = spec.measure(metric).label
    name, title = metric.replace("/", "_").replace(".", "_"), f"{label[:1].upper()}{label[1:]} over {over}"
    if len(axes) == 1:
        return [Line(name=name, title=title, metric=metric, x=axes[0])], ""
    x, y, *others = _arranged(axes, results)
    maps = len(grouped(results.points, others))
    if maps > MOST:
        said = f"{len(axes)} axes would make {maps} heat maps, more than {MOST}"
        return [], f"No figure: {said}. The table has all numbers; figures in the report block choose among them."
    by = others[0] if others else ""
    return [Heatmap(name=name, title=title, metric=metric, x=x, y=y, by=by)], ""


def _metric(results: Results) -> str:
    """The first standard metric that a finished cell has."""
    done = [cell for cell in results.cells if cell.done]
    found = (metric for metric in STANDARD if any(cell.value(metric) is not None for cell in done))
    return next(found, STANDARD[0])


def _arranged(axes: list[str], results: Results) -> list[str]:
    """Numbers before words, and of more than two axes the longest first: the rest makes the fewest maps."""

    def rank(axis: str) -> tuple[bool, int]:
        values = results.axes[axis]
        return not all(is_number(value) for value in values), -len(values) if len(axes) > 2 else 0

    return sorted(axes, key=rank)
