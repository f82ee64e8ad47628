"""How active each capsule of a network is: which cells are shown, and their layers in order."""

import re
from dataclasses import replace

from capsexp.analysis import ticks
from capsexp.analysis.activity_maps import Layers, draw_activity
from capsexp.analysis.arrays import ArrayError, caption, choose, facts, lacking, numbers, read_all
from capsexp.analysis.captions import Words
from capsexp.analysis.cells import Cell, hashable
from capsexp.analysis.panels import Panel
from capsexp.analysis.style import Drawn, Grid

PREFIX = "activity/"


def draw(panel: Panel) -> tuple[Drawn | None, str]:
    """The activities of one cell for each value of ``by``, or a line saying why there are none."""
    figure = panel.figure
    chosen = [(head, part, choose(part)) for head, part in _parts(panel)]
    rows = {_heading(head, part, cell): _row(part, cell) for head, part, cell in chosen}
    cells = [cell for _, _, cell in chosen if cell]
    if not cells:
        return None, lacking(panel)
    said = [row for row, (_, _, cell) in zip(rows.values(), chosen, strict=True) if cell and isinstance(row, str)]
    if len(said) == len(cells):
        return None, f"{figure.name}: {cells[0].name}: {said[0]}"
    return draw_activity(rows, _words(panel, cells), threshold=figure.threshold), ""


def _heading(head: str, part: Panel, cell: Cell | None) -> str:
    return "   ·   ".join([head, *(facts(part, cell) if cell else [])]) if head else ""


def _words(panel: Panel, cells: list[Cell]) -> Words:
    """What is said around the picture: of a single cell above it, of several below, since their names are long."""
    figure = panel.figure
    among = max(sum(len(point.done) for point in part.points) for _, part in _parts(panel))
    parts = [*panel.around.parts, *([f"one of {among} trainings"] if among > 1 else [])]
    if not figure.by:
        return replace(panel.around, parts=(*parts, caption(panel, cells[0])))
    note = f"Shown: {', '.join(cell.name for cell in cells)}."
    return replace(panel.around, parts=tuple(parts), note=" ".join(text for text in (note, figure.note) if text))


def _parts(panel: Panel) -> list[tuple[str, Panel]]:
    """The points of each row, with the words that tell it from the others."""
    by = panel.figure.by
    if not by:
        return [("", panel)]
    label, values = panel.spec.axis(by).label, panel.values(by)
    return [
        (f"{label} = {text}", replace(panel, points=[p for p in panel.points if hashable(p.axes.get(by)) == key]))
        for key, text in zip(map(hashable, values), ticks.texts(values), strict=True)
    ]


def _row(part: Panel, cell: Cell | None) -> Layers | str:
    """A cell's layers, or why there are none to be drawn."""
    if cell is None:
        metric, done = part.figure.metric, any(point.done for point in part.points)
        return f"no cell has {metric}" if done else f"no cell has finished ({part.points[0].state})"
    try:
        return layers(read_all(cell.directory, PREFIX), part.figure.layers) if cell.directory else "it has no folder"
    except ArrayError as error:
        return str(error)


def layers(found: Layers, which: str) -> dict[str, Grid]:
    """The layers to be drawn, the primary capsules first and then in the order of their numbers.

    Args:
        found: arrays [type, y, x], by their names in ``arrays.npz``.
        which: ``all``, or ``intermediate``: those called ``layer`` and a number.

    Raises:
        ArrayError: there is none, or one holds no numbers in three dimensions.
    """
    if not found:
        raise ArrayError(f"no {PREFIX} in arrays.npz")
    names = {name: name.removeprefix(PREFIX) for name in found}
    chosen = [name for name, short in names.items() if which == "all" or re.fullmatch(r"layer\d+", short)]
    if not chosen:
        raise ArrayError("no intermediate capsule layer")
    chosen.sort(key=lambda name: (names[name] != "primary", _natural(names[name])))
    return {names[name]: numbers(found[name], name, 3) for name in chosen}


def _natural(name: str) -> list[tuple[int, str]]:
    """So that layer2 comes before layer10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
