"""Figures of one cell: the cell is chosen, its arrays are read, and whoever draws them gets plain numbers and words."""

from collections.abc import Callable
from dataclasses import replace

from capsexp.analysis.arrays import Array, ArrayError, caption, choose, lacking, load
from capsexp.analysis.captions import Words
from capsexp.analysis.matrices import draw_matrix
from capsexp.analysis.panels import Panel
from capsexp.analysis.pictures import draw_images
from capsexp.analysis.probabilities import draw_bars
from capsexp.analysis.spec import Figure
from capsexp.analysis.style import Drawn
from capsexp.analysis.tuning import draw_tuning

Read = Callable[[str], Array]
LENGTH = "length of the class capsule"


def draw(panel: Panel) -> tuple[Drawn | None, str]:
    """The chosen cell's picture, or a line saying what is missing."""
    cell = choose(panel)
    if cell is None:
        return None, lacking(panel)
    among = sum(len(point.done) for point in panel.points)
    parts = (*panel.around.parts, *([f"one of {among} trainings"] if among > 1 else []), caption(panel, cell))
    words = replace(panel.around, parts=parts)
    try:
        return DRAW[panel.figure.kind](panel.figure, lambda name: load(cell, name), words), ""
    except ArrayError as error:
        return None, f"{panel.figure.name}: {cell.name}: {error}"


def _matrix(figure: Figure, read: Read, words: Words) -> Drawn:
    return draw_matrix(
        read(figure.array),
        words,
        labels=read(figure.labels) if figure.labels else None,
        triangle=figure.triangle,
        sort=figure.sort,
        limits=figure.range,
        x_label=figure.x_label,
        y_label=figure.y_label,
        value_label=figure.value_label or figure.array.partition("/")[0],
    )


def _bars(figure: Figure, read: Read, words: Words) -> Drawn:
    lengths = {name: read(array) for name, array in figure.arrays.items()}
    texts = {"x_label": figure.x_label or "class", "y_label": figure.y_label or LENGTH}
    return draw_bars(lengths, read(figure.images), read(figure.labels), words, **texts)


def _tuning(figure: Figure, read: Read, words: Words) -> Drawn:
    lengths = {name: read(array) for name, array in figure.arrays.items()}
    texts = {"x_label": figure.x_label or "class capsule", "y_label": figure.y_label or "mean length"}
    return draw_tuning(lengths, words, **texts)


def _images(figure: Figure, read: Read, words: Words) -> Drawn:
    steps, labels = (read(name) if name else None for name in (figure.steps, figure.labels))
    across, beside = "class" if figure.labels else "change", "" if figure.rows else "component"
    texts = {"x_label": figure.x_label or across, "y_label": figure.y_label or beside}
    return draw_images(read(figure.array), words, steps=steps, labels=labels, rows=figure.rows, **texts)


DRAW = {"matrix": _matrix, "bars": _bars, "tuning": _tuning, "images": _images}
