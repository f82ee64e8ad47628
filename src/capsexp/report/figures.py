"""Pictures over two axes: a smoothed surface beside the raw values as a heat map."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from mpl_toolkits.mplot3d.art3d import Poly3DCollection  # type: ignore[import-untyped]
from scipy.ndimage import gaussian_filter

from capsexp.report import kernels, lines
from capsexp.report.canvas import GREY, PAPER, RULE, Drawn, blank, compact, head, ink_on, room, save, style
from capsexp.report.cells import is_number
from capsexp.report.compare import axis_text
from capsexp.report.panels import Grid, Panel, panels, shape
from capsexp.report.results import Results
from capsexp.report.spec import Figure, Spec

MAP = "viridis"
READABLE = 4.5
"""Points; numbers that would have to be smaller are left out of a heat map."""


def draw_all(spec: Spec, results: Results) -> tuple[list[Drawn], list[str]]:
    """Every figure of the report, and one line for each that could not be drawn."""
    drawn, problems = [], []
    for figure in default_figures(results) if spec.figures is None else spec.figures:
        chosen, problem = panels(figure, spec, results)
        problems += [problem] if problem else []
        for panel in chosen:
            made, problem = draw(panel)
            drawn += [made] if made else []
            problems += [problem] if problem else []
    return drawn, problems


def default_figures(results: Results) -> list[Figure]:
    """Without a word in the block: the test accuracy over two axes, or along one."""
    axes = [axis for axis, values in results.axes.items() if len(values) > 1]
    if len(axes) == 2:
        return [Figure("heatmap", "test_acc", "Test accuracy", "test/acc", x=axes[0], y=axes[1])]
    return [Figure("line", "test_acc", "Test accuracy", "test/acc", x=axes[0])] if len(axes) == 1 else []


def draw(panel: Panel) -> tuple[Drawn | None, str]:
    """One picture, or a line saying why there is none."""
    with style():
        match shape(panel):
            case "surface":
                return _surface(panel), ""
            case "heatmap":
                return _heatmap(panel), ""
            case "line":
                return lines.draw(panel), ""
        return kernels.draw(panel)


def smooth(values: Grid, sigma: float) -> Grid:
    """Gaussian filter over a grid with holes: each value is the weighted mean of the finite ones around it.

    Without holes this is ``scipy.ndimage.gaussian_filter(values, sigma)``; holes stay holes.
    """
    finite = np.isfinite(values)
    total = gaussian_filter(np.where(finite, values, 0.0), sigma)
    weight = gaussian_filter(finite.astype(np.float64), sigma)
    with np.errstate(invalid="ignore", divide="ignore"):
        smoothed: Grid = np.where(finite, total / weight, np.nan)
    return smoothed


def _surface(panel: Panel) -> Drawn:
    figure = panel.figure
    values, states = panel.grid()
    norm = _norm(values)
    lines_below = head(panel, 14.2)
    height = 6.6 + room(lines_below)
    canvas, up = blank(panel, 14.2, height, 0.035, lines_below), 6.6 / height
    space: Any = canvas.add_axes((-0.005, 0.0, 0.455, 0.87 * up), projection="3d")
    _draw_surface(space, panel, smooth(values, figure.sigma), norm)
    words = f"Gaussian-smoothed, sigma = {figure.sigma:g} grid steps" if figure.sigma else "Not smoothed"
    canvas.text(0.22, 0.855 * up, words, ha="center", va="top", color=GREY)
    flat = canvas.add_axes((0.51, 0.115 * up, 0.40, 0.71 * up))
    flat.set_title("Raw values", fontsize=9.5, color=GREY, pad=8)
    _draw_heatmap(flat, panel, values, states, norm)
    _colour_bar(canvas, panel, norm, (0.925, 0.115 * up, 0.013, 0.71 * up))
    return save(canvas, panel, _legend(panel, states))


def _heatmap(panel: Panel) -> Drawn:
    values, states = panel.grid()
    norm = _norm(values)
    lines_below = head(panel, 9.2)
    height = 6.6 + room(lines_below)
    canvas, up = blank(panel, 9.2, height, 0.05, lines_below), 6.6 / height
    flat = canvas.add_axes((0.09, 0.115 * up, 0.76, 0.74 * up))
    _draw_heatmap(flat, panel, values, states, norm)
    _colour_bar(canvas, panel, norm, (0.875, 0.115 * up, 0.02, 0.74 * up))
    return save(canvas, panel, _legend(panel, states))


def _norm(values: Grid) -> Normalize:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.0 if high > low else abs(high) * 0.05 or 0.5
    return Normalize(low - margin, high + margin)


def _positions(values: list[Any]) -> list[float]:
    """Where values stand on an axis: numbers at themselves, words one after the other."""
    return [float(v) for v in values] if all(is_number(v) for v in values) else [float(i) for i in range(len(values))]


def _draw_surface(space: Any, panel: Panel, heights: Grid, norm: Normalize) -> None:
    xs, ys = panel.values(panel.figure.x), panel.values(panel.figure.y)
    x, y = _positions(xs), _positions(ys)
    quads = [
        [(x[i], y[j], heights[j, i]) for i, j in ((a, b), (a + 1, b), (a + 1, b + 1), (a, b + 1))]
        for a in range(len(x) - 1)
        for b in range(len(y) - 1)
        if np.isfinite(heights[b : b + 2, a : a + 2]).all()
    ]
    colours = mpl.colormaps[MAP](norm([float(np.mean([corner[2] for corner in quad])) for quad in quads]))
    if quads:
        space.add_collection3d(Poly3DCollection(quads, facecolors=colours, edgecolors="#ffffffb0", linewidths=0.5))
    space.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), zlim=(norm.vmin, norm.vmax))
    space.set_xticks(*_thinned(x, xs))
    space.set_yticks(*_thinned(y, ys))
    space.tick_params(labelsize=8, pad=0)
    space.set_xlabel(panel.spec.axis(panel.figure.x).title, labelpad=4)
    space.set_ylabel(panel.spec.axis(panel.figure.y).title, labelpad=4)
    space.set_zlabel(panel.measure.title, labelpad=8)
    space.view_init(elev=28, azim=panel.figure.azim)
    space.set_box_aspect((1, 1, 0.72), zoom=0.93)
    for axis in (space.xaxis, space.yaxis, space.zaxis):
        axis.set_pane_color(PAPER)
        axis._axinfo["grid"].update(color=RULE, linewidth=0.6)


def _thinned(positions: list[float], values: list[Any]) -> tuple[list[float], list[str]]:
    """Ticks at the swept values; every second or third of them where they would touch."""
    step = -(-len(values) // 9)
    return positions[::step], [axis_text(value) for value in values[::step]]


def _draw_heatmap(flat: Axes, panel: Panel, values: Grid, states: dict[tuple[int, int], str], norm: Normalize) -> None:
    xs, ys = panel.values(panel.figure.x), panel.values(panel.figure.y)
    edges = np.arange(len(xs) + 1) - 0.5, np.arange(len(ys) + 1) - 0.5
    flat.pcolormesh(*edges, values, norm=norm, cmap=MAP, edgecolors="white", linewidth=0.6)
    flat.set_xticks(range(len(xs)), [axis_text(x) for x in xs])
    flat.set_yticks(range(len(ys)), [axis_text(y) for y in ys])
    flat.tick_params(length=0)
    flat.spines[:].set_visible(False)
    flat.set_xlabel(panel.spec.axis(panel.figure.x).title)
    flat.set_ylabel(panel.spec.axis(panel.figure.y).title)
    texts = compact(values)
    for row, column in panel.short():
        texts[row][column] += "*"
    font = _font(flat, texts)
    _write_values(flat, texts, mpl.colormaps[MAP](norm(values)), font)
    for (row, column), state in states.items():
        flat.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=PAPER, edgecolor=RULE, hatch="////", lw=0))
        flat.text(column, row, _letter(state), ha="center", va="center", fontsize=max(font, READABLE), color=GREY)


def _font(flat: Axes, texts: list[list[str]]) -> float:
    """The size in points at which the longest number still fits into its field."""
    box, dpi = flat.get_window_extent(), flat.figure.dpi
    longest = max(len(text) for row in texts for text in row)
    wide, high = box.width / dpi * 72 / len(texts[0]), box.height / dpi * 72 / len(texts)
    return min(10.0, wide / (0.68 * longest), high * 0.55)


def _write_values(flat: Axes, texts: list[list[str]], colours: Any, font: float) -> None:
    if font < READABLE:
        return
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            colour = ink_on(colours[row, column])
            flat.text(column, row, text, ha="center", va="center", fontsize=font, color=colour)


def _letter(state: str) -> str:
    return "∅" if state in ("not finite", "no value") else state[0].upper()


def _legend(panel: Panel, states: dict[tuple[int, int], str]) -> str:
    """What letters in hatched fields and stars mean."""
    letters = ", ".join(f"{_letter(state)} {state}" for state in sorted(set(states.values())))
    parts = [f"Hatched fields have no value: {letters}."] if states else []
    parts += ["* mean of fewer trainings than planned."] if panel.short() else []
    return " ".join(parts)


def _colour_bar(canvas: Any, panel: Panel, norm: Normalize, place: tuple[float, float, float, float]) -> None:
    bar = canvas.colorbar(mpl.cm.ScalarMappable(norm, MAP), cax=canvas.add_axes(place))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, labelsize=8.5)
    bar.set_label(panel.measure.title)
