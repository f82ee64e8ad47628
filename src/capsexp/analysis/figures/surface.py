"""The kind ``surface``: a metric over two axes, smoothed in 3-D beside the raw values as a heat map."""

from functools import partial
from typing import Annotated, Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from mpl_toolkits.mplot3d.art3d import Poly3DCollection  # type: ignore[import-untyped]
from pydantic import BeforeValidator, Field
from scipy.ndimage import gaussian_filter

from capsexp.analysis.cells import is_number
from capsexp.analysis.conditions import axis_text
from capsexp.analysis.figures.base import OverAxes
from capsexp.analysis.figures.heatmap import areas, draw_map, legend, normalise
from capsexp.analysis.figures.style import (
    GREY,
    PAPER,
    RULE,
    SEQUENTIAL,
    SPREAD,
    Grid,
    Picture,
    blank,
    colour_bar,
    room,
    save,
)
from capsexp.analysis.panels import Panel
from capsexp.errors import require_number

APART = 1 / 12
"""The smallest distance between two ticks of the surface, as a share of the axis."""


class Surface(OverAxes):
    """A smoothed 3-D surface beside a heat map of the raw values."""

    kind: Literal["surface"] = "surface"
    y: str = Field(description="the axis from front to back")
    sigma: Annotated[
        float, Field(ge=0, le=100), BeforeValidator(partial(require_number, "", minimum=0, maximum=100))
    ] = Field(default=0.5, description="of the Gaussian filter, in grid steps; the heat map is never smoothed")
    azim: Annotated[
        float, Field(ge=-360, le=360), BeforeValidator(partial(require_number, "", minimum=-360, maximum=360))
    ] = Field(default=-125.0, description="direction of view, in degrees")


def smooth(values: Grid, sigma: float) -> Grid:
    """Gaussian filter over a grid with missing values: each value is the weighted mean of the finite ones around it.

    Of a whole grid this is ``scipy.ndimage.gaussian_filter(values, sigma)``; what is missing stays missing.
    """
    finite = np.isfinite(values)
    total = gaussian_filter(np.where(finite, values, 0.0), sigma)
    weight = gaussian_filter(finite.astype(np.float64), sigma)
    with np.errstate(invalid="ignore", divide="ignore"):
        smoothed: Grid = np.where(finite, total / weight, np.nan)
    return smoothed


def draw(panel: Panel) -> tuple[Picture, str]:
    """The surface and the map."""
    figure = panel.figure
    values, states = panel.grid()
    norm = normalise(panel)
    lines_below = panel.caption.lines(14.2)
    height = 6.6 + room(lines_below)
    canvas, up = blank(panel.caption, 14.2, height, 0.035, lines_below), 6.6 / height
    space: Any = canvas.add_axes((-0.005, 0.0, 0.455, 0.87 * up), projection="3d")
    _draw_surface(space, panel, smooth(values, figure.sigma), norm)
    words = f"Gaussian-smoothed, sigma = {figure.sigma:g} grid steps" if figure.sigma else "Not smoothed"
    canvas.text(0.22, 0.855 * up, words, ha="center", va="top", color=GREY)
    flat = canvas.add_axes((0.51, 0.115 * up, 0.40, 0.71 * up))
    small = draw_map(flat, panel, values, states, norm)
    flat.set_title(f"Raw values ({SPREAD})" if small else "Raw values", fontsize=9.5, color=GREY, pad=8)
    colour_bar(canvas, norm, SEQUENTIAL, panel.measure.title, (0.925, 0.115 * up, 0.013, 0.71 * up))
    return save(canvas, panel.caption, legend(panel, states.values()), areas(canvas, flat, panel)), ""


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
    colours = mpl.colormaps[SEQUENTIAL](norm([float(np.mean([corner[2] for corner in quad])) for quad in quads]))
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
    """Ticks at the swept values; every second or third of them where they would touch, and one of those that crowd."""
    step = -(-len(values) // 9)
    kept: dict[float, str] = {}
    for position, value in list(zip(positions, values, strict=True))[::step]:
        if not kept or position - max(kept) >= APART * (positions[-1] - positions[0]):
            kept[position] = axis_text(value)
    return list(kept), list(kept.values())
