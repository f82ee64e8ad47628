"""Figures of one cell: the cell is chosen, its arrays are read, and a function that draws gets numbers and words."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from capsexp.analysis.arrays import Array, ArrayError, about, choose, lacking, load
from capsexp.analysis.figures.style import Caption, Picture
from capsexp.analysis.panels import Panel

Read = Callable[[str], Array]


def draw_chosen(panel: Panel, picture: Callable[[Any, Read, Caption], Picture]) -> tuple[Picture | None, str]:
    """The chosen cell's picture, or a line saying what is missing.

    Args:
        panel: the points among which the cell is chosen.
        picture: draws the figure of the arrays that it reads by their names.
    """
    cell = choose(panel)
    if cell is None:
        return None, lacking(panel)
    among = sum(len(point.done) for point in panel.points)
    parts = (*panel.caption.parts, *([f"one of {among} trainings"] if among > 1 else []), about(panel, cell))
    caption = replace(panel.caption, parts=parts)
    try:
        return picture(panel.figure, lambda name: load(cell, name), caption), ""
    except ArrayError as error:
        return None, f"{panel.figure.name}: {cell.name}: {error}"
