"""A kind of figure as a user's own module has it."""

DOTS = """
from typing import Literal

from capsexp.analysis.figures.base import Figure
from capsexp.analysis.figures.style import blank, room, save


class Dots(Figure):
    whole_sweep = True

    kind: Literal["KIND"] = "KIND"
    metric: str


def draw(panel):
    values = [cell.value(panel.figure.metric) for point in panel.points for cell in point.done]
    lines = panel.caption.lines(6.4)
    height = 4.6 + room(lines)
    canvas = blank(panel.caption, 6.4, height, 0.05, lines)
    canvas.add_axes((0.16, 0.6 / height, 0.78, 3.2 / height)).plot(values, "o")
    return save(canvas, panel.caption), ""
"""


def dots(kind: str) -> str:
    """The text of a module whose dotted name is the kind: a dot for each finished cell."""
    return DOTS.replace("KIND", kind)
