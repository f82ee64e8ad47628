"""The figures of several sweeps: those of the first one's block over all, and maps of two and their difference."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from capsexp.analysis import beside, defaults
from capsexp.analysis.cells import hashable, is_number
from capsexp.analysis.comparison.joined import SWEEP, Joined
from capsexp.analysis.comparison.paired_tables import Compared
from capsexp.analysis.conditions import Condition
from capsexp.analysis.drawing import draw
from capsexp.analysis.figures.base import Figure
from capsexp.analysis.figures.style import Picture
from capsexp.analysis.figures.surface import Surface
from capsexp.analysis.panels import Panel, all_panels, count, first_panels, shape
from capsexp.analysis.results import Results
from capsexp.analysis.spec import Spec

MAPS = ("heatmap", "surface")
"""The kinds of pictures that share the limits of their colours."""

OWN_SEEDS = (
    "The maps subtract means over each sweep's own seeds, the tables of paired differences take common seeds alone."
)


def draw_figures(joined: Joined, spec: Spec) -> tuple[list[Picture], list[str]]:
    """Every figure of the block over all sweeps, and one line for each that cannot be drawn.

    A line along one axis becomes one picture with a line for each sweep; of any other figure each sweep has its own
    picture, in the order of the sweeps.  The maps of one figure share a scale where their data and choice of the model
    are the same.  A block without figures has the default one, over the axes of all sweeps.
    """
    figures, problem = _default(joined, spec) if spec.figures is None else (spec.figures, "")
    drawn: list[Picture] = []
    problems = [problem] if problem else []
    for figure in figures:
        for asked in _over_sweeps(figure, joined):
            every, problem = all_panels(asked, spec, joined.results)
            chosen, left = first_panels(asked, sorted(every, key=lambda panel: _place(panel, joined)))
            said = [problem, left, _without(asked, chosen, joined), _scales(asked, chosen)]
            problems += [each for each in said if each]
            for panel in chosen:
                made, problem = draw(_titled(panel, joined))
                drawn += [made] if made else []
                problems += [problem] if problem else []
    return drawn, problems


def _default(joined: Joined, spec: Spec) -> tuple[Sequence[Figure], str]:
    """The default figure over the swept axes; of sweeps without axes, over the sweeps."""
    axes = {axis: values for axis, values in joined.results.axes.items() if axis != SWEEP}
    figures, problem = defaults.figures(spec, replace(joined.results, axes=axes))
    return (figures, problem) if figures or problem else defaults.figures(spec, joined.results)


def _over_sweeps(figure: Figure, joined: Joined) -> Iterator[Figure]:
    """The figures to draw in place of one of the block."""
    if figure.kind == "line" and not getattr(figure, "by", "") and SWEEP not in figure.shown_axes:
        yield figure.model_copy(update={"by": SWEEP})
    elif figure.whole_sweep:
        for name in joined.names:
            where = {**figure.where, SWEEP: Condition((name,))}
            yield figure.model_copy(update={"where": where, "name": f"{figure.name}_{file_stem(name)}"})
    else:
        yield figure


def _sweeps(panel: Panel) -> list[str]:
    """The sweeps that a picture shows something of."""
    return [str(point.axes[SWEEP]) for point in panel.points if count(panel.figure, point)]


def _place(panel: Panel, joined: Joined) -> int:
    """The place of the first sweep of a picture among the sweeps."""
    return min(map(joined.names.index, _sweeps(panel)), default=len(joined.names))


def _without(figure: Figure, chosen: Sequence[Panel], joined: Joined) -> str:
    """The sweeps that no picture of a figure shows, unless there is no picture or the figure asks for some of them."""
    shown = {name for panel in chosen for name in _sweeps(panel)}
    lacking = [name for name in joined.names if name not in shown]
    asked = SWEEP in figure.where
    return f"{figure.name}: shows nothing of {', '.join(lacking)}" if chosen and lacking and not asked else ""


def _scales(figure: Figure, chosen: Sequence[Panel]) -> str:
    """Says so if pictures of one figure are not on one scale."""
    if not figure.over_axes or len(chosen) < 2:
        return ""
    maps = [panel for panel in chosen if shape(panel) in MAPS]
    if len(maps) == len(chosen) and len({panel.limits for panel in maps}) == 1:
        return ""
    why = "those of other data, and lines, have scales of their own" if maps else "each line has its own"
    return f"{figure.name}: the pictures are not all on one scale; {why}"


def file_stem(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)


def _titled(panel: Panel, joined: Joined) -> Panel:
    """The picture of a single sweep with its name in the title, and how far that sweep is."""
    names = {str(point.axes[SWEEP]) for point in panel.points}
    if len(names) != 1:
        return panel
    name = names.pop()
    figure = panel.figure.model_copy(update={"title": f"{panel.figure.title}: {name}"})
    filled = next(member.filled for member in joined.members if member.name == name)
    said = f"{panel.spec.axis(SWEEP).label} = {name}"
    remarks = tuple(remark for remark in panel.remarks if remark != said)
    return replace(panel, figure=figure, results=filled, remarks=remarks)


# -- two sweeps and their difference ----------------------------------------------------------------------------------


def draw_differences(joined: Joined, spec: Spec, compared: Sequence[Compared]) -> tuple[list[Picture], list[str], str]:
    """Maps of two sweeps and of their difference, one for each metric over the first two common axes of numbers.

    There are none of more than two sweeps, nor without two such axes.

    Returns:
        The pictures, what must be known of them, and what stands below them.
    """
    axes = _common_axes([member.filled for member in joined.members]) if len(joined.members) == 2 else []
    if len(axes) < 2:
        return [], [], ""
    figures, equal = [], []
    for metric, _, _, pairs, _ in compared:
        differences = [pair.difference for each in pairs for pair in each.pairs]
        if differences and not any(differences):
            equal.append(metric.label)
        elif differences:
            title = f"{metric.label[:1].upper()}{metric.label[1:]}"
            figures.append(Surface(name=file_stem(metric.key), title=title, metric=metric.key, x=axes[0], y=axes[1]))
    first, second = joined.members
    drawn, flags = beside.draw_maps(figures, spec, (first.filled, second.filled), (first.name, second.name))
    notes = [OWN_SEEDS] if drawn else []
    notes += [f"Equal in all pairs, without a map: {', '.join(equal)}."] if equal else []
    return drawn, flags, " ".join(notes)


def _common_axes(sweeps: Sequence[Results]) -> list[str]:
    """The axes of numbers with at least two values that all sweeps have."""
    return [
        axis
        for axis, values in sweeps[0].axes.items()
        if len(set.intersection(*({hashable(value) for value in each.axes[axis]} for each in sweeps))) > 1
        and all(is_number(value) for value in values)
    ]
