"""Every figure of a report, drawn."""

from collections.abc import Mapping
from types import MappingProxyType

from capsexp.analysis import defaults
from capsexp.analysis.figures import drawer
from capsexp.analysis.figures.style import Picture, style
from capsexp.analysis.panels import Panel, panels, shape
from capsexp.analysis.results import Results
from capsexp.analysis.spec import Spec

NONE: Mapping[str, str] = MappingProxyType({})


def draw_all(spec: Spec, results: Results, refused: Mapping[str, str] = NONE) -> tuple[list[Picture], list[str]]:
    """Every figure of the report, and one line for each that could not be drawn.

    Args:
        spec: the block.
        results: the sweep.
        refused: why a figure cannot be drawn, by its name, where that is known already.
    """
    figures, problem = defaults.figures(spec, results) if spec.figures is None else (spec.figures, "")
    drawn, problems = [], [problem] if problem else []
    for figure in figures:
        why = refused.get(figure.name, "")
        chosen, problem = ([], why) if why else panels(figure, spec, results)
        problems += [problem] if problem else []
        for panel in chosen:
            made, problem = draw(panel)
            drawn += [made] if made else []
            problems += [problem] if problem else []
    return drawn, problems


def draw(panel: Panel) -> tuple[Picture | None, str]:
    """One picture, or a line saying why there is none."""
    with style():
        made: tuple[Picture | None, str] = drawer(shape(panel)).draw(panel)
    return made
