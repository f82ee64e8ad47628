import itertools
import math

import numpy as np
import pytest
from matplotlib import colormaps
from report_fakes import BLOCK, TIMINGS, accuracy, contents, finish, finished, plan, report, sweep
from scipy.ndimage import gaussian_filter

from capsexp.analysis import arrays, drawing, panels, results
from capsexp.analysis.figures import kernels, line
from capsexp.analysis.figures.style import compact, ink_on
from capsexp.analysis.figures.surface import smooth
from capsexp.analysis.spec import parse

SURFACE = {
    "kind": "surface",
    "name": "fig",
    "title": "T",
    "x": "a",
    "y": "b",
    "metric": "test/acc",
    "paper": "best .94",
}
KERNELS = {
    "kind": "kernels",
    "name": "ker",
    "title": "K",
    "layer": "conv1",
    "metric": "distance/conv1/min",
    "pick": "max",
}
GRID = {"a": [1, 2, 3], "b": [1, 2, 4]}


def reflected(place: int, size: int) -> int:
    """scipy's mode "reflect": (d c b a | a b c d | d c b a)."""
    place %= 2 * size
    return place if place < size else 2 * size - 1 - place


def slow_smooth(values, sigma):
    """Weights by hand, truncated at four sigma as scipy does; holes weigh nothing and stay holes."""
    radius, (rows, columns) = int(4 * sigma + 0.5), values.shape
    out = np.full(values.shape, np.nan)
    for r, c in itertools.product(range(rows), range(columns)):
        total = weight = 0.0
        for dr, dc in itertools.product(range(-radius, radius + 1), repeat=2):
            value = values[reflected(r + dr, rows), reflected(c + dc, columns)]
            if math.isfinite(value):
                share = math.exp(-(dr * dr + dc * dc) / (2 * sigma * sigma))
                total, weight = total + share * value, weight + share
        if math.isfinite(values[r, c]):
            out[r, c] = total / weight
    return out


@pytest.mark.parametrize("sigma", [0.5, 1.3])
def test_smoothing_against_nested_loops(sigma):
    values = np.random.default_rng(0).normal(size=(6, 5))
    np.testing.assert_allclose(smooth(values, sigma), slow_smooth(values, sigma), atol=1e-12)
    np.testing.assert_allclose(smooth(values, sigma), gaussian_filter(values, sigma), atol=1e-12)
    values[[0, 2, 2], [0, 2, 3]] = np.nan
    np.testing.assert_allclose(smooth(values, sigma), slow_smooth(values, sigma), atol=1e-12)


def test_no_smoothing_at_sigma_zero():
    values = np.array([[1.0, np.nan], [3.0, 4.0]])
    np.testing.assert_array_equal(smooth(values, 0.0), values)


def test_a_large_sweep_has_the_same_bytes_whatever_its_clocks(tmp_path):
    block = {**BLOCK, "figures": [SURFACE, KERNELS]}
    axes = {"a": list(range(16, 10, -1)), "b": list(range(16, 10, -1))}
    first = contents(report(finished(tmp_path / "x" / "fake", axes, block, seconds=1.0)))
    second = contents(report(finished(tmp_path / "y" / "fake", axes, block, seconds=2.0)))
    assert first.keys() == second.keys()
    assert {"fig.png", "fig.pdf", "ker.png", "ker.pdf", "index.html"} < first.keys()
    assert {name for name in first if first[name] != second[name]} == TIMINGS
    assert len(first["results.csv"].splitlines()) == 37
    assert b"Software" not in first["fig.png"]
    assert b"CreationDate" not in first["fig.pdf"]


def drawn(root, figure, axes, hole=None):
    cells = sweep(root, axes, {**BLOCK, "figures": [figure]})
    for cell in cells:
        if cell.axes != hole:
            finish(root, cell, accuracy(cell))
    read = results.read(root)
    return drawing.draw_all(parse(read.sweep.report), read)


def test_a_surface_with_a_hole_keeps_the_hole(tmp_path):
    (picture,), problems = drawn(tmp_path, SURFACE, GRID, hole={"a": 2, "b": 2})
    assert picture.note == "Hatched fields have no value: M missing."
    assert problems == []


def test_the_grid_holds_each_value_at_its_place(tmp_path):
    cells = sweep(tmp_path, GRID, {**BLOCK, "figures": [SURFACE]})
    for cell in cells[:-1]:
        finish(tmp_path, cell, accuracy(cell))
    read = results.read(tmp_path)
    spec = parse(read.sweep.report)
    (panel,), _ = panels.panels(spec.figures[0], spec, read)
    grid, states = panel.grid()
    for cell in cells[:-1]:
        assert grid[GRID["b"].index(cell.axes["b"]), GRID["a"].index(cell.axes["a"])] == accuracy(cell)
    assert states == {(2, 2): "missing"}
    assert panel.remarks == ("paper (dhcd): best .94", "here: data digits, model chosen on val", "n = 1")


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        ({"a": [1, 2], "b": [5]}, ["fig"]),
        ({"b": [1, 2]}, ["fig"]),
        ({"a": ["x", "y"]}, ["fig"]),
        ({"a": [1], "b": [5]}, []),
        ({}, []),
        ({"a": [1, 2], "b": [1, 2], "z": ["p q", "r"]}, ["fig_p-q", "fig_r"]),
    ],
)
def test_a_surface_falls_back_to_what_the_axes_allow(tmp_path, axes, names):
    pictures, problems = drawn(tmp_path, SURFACE, axes)
    assert [picture.name for picture in pictures] == names
    assert bool(problems) is (not names or not axes.keys() >= {"a", "b"})


def test_lines_and_heat_maps(tmp_path):
    line = {"kind": "line", "name": "line", "x": "a", "by": "b", "metric": "test/acc"}
    (picture,), _ = drawn(tmp_path / "line", line, {**GRID, "seed": [0, 1]}, hole={"a": 1, "b": 1, "seed": 0})
    assert picture.png.startswith(b"\x89PNG")
    heat = {key: SURFACE[key] for key in ("name", "x", "y", "metric")} | {"kind": "heatmap"}
    (picture,), _ = drawn(tmp_path / "heat", heat, {**GRID, "seed": [0, 1]}, hole={"a": 1, "b": 1, "seed": 0})
    assert picture.note == "* mean of fewer trainings than planned."


def test_lines_break_at_holes_and_say_in_which_lines_they_are(tmp_path, monkeypatch):
    """A network without intermediate layers has no share of dead capsules; another one has not finished."""
    asked = {"kind": "line", "name": "line", "x": "depth", "by": "ratio", "metric": "capsules/dead_share"}
    for cell in sweep(tmp_path, {"depth": [0, 1, 3, 6], "ratio": [0, 0.25]}, {**BLOCK, "figures": [asked]}):
        depth, ratio = cell.axes.values()
        if (depth, ratio) != (3, 0.25):
            finish(tmp_path, cell, 0.5, metrics={"capsules/dead_share": depth / 10 + ratio} if depth else {})
    kept = []
    monkeypatch.setattr(line, "save", lambda canvas, words, note: kept.append((canvas.axes[0], note)))
    read = results.read(tmp_path)
    drawing.draw_all(parse(read.sweep.report), read)
    ((axes, note),) = kept
    assert note == "Dotted: no value at 0 (no value), 3 (ratio = 0.25: missing)."
    assert axes.get_ylabel() == "dead capsules (share)"
    nan = math.nan
    drawn_lines = [container.lines[0].get_ydata().tolist() for container in axes.containers]
    np.testing.assert_allclose(drawn_lines, [[nan, 0.1, 0.3, 0.6], [nan, 0.35, nan, 0.85]])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["0", "0.25"]
    assert axes.get_xlim()[0] < 0 < 6 < axes.get_xlim()[1]


def test_kernels_are_those_of_the_extreme_cell(tmp_path):
    root = finished(tmp_path, GRID, {**BLOCK, "figures": [KERNELS, {**KERNELS, "name": "low", "pick": "min"}]})
    read = results.read(root)
    spec = parse(read.sweep.report)
    by_value = sorted(plan(GRID), key=accuracy)
    for figure, expected in zip(spec.figures, (by_value[-1], by_value[0]), strict=True):
        (panel,), _ = panels.panels(figure, spec, read)
        cell = arrays.choose(panel)
        assert cell.id == expected.id
        truth = np.random.default_rng(int(expected.id, 16)).normal(size=(6, 1, 7, 7)).astype(np.float32)
        np.testing.assert_array_equal(kernels.load_kernels(cell, "conv1"), truth)


@pytest.mark.parametrize("values", [(1.0, 1.0), (0.9, 1.0), (0.9, 0.95)])
def test_an_axis_of_accuracies_ends_at_one(tmp_path, monkeypatch, values):
    kept = []
    save = line.save
    monkeypatch.setattr(line, "save", lambda canvas, *words: kept.append(canvas) or save(canvas, *words))
    figure = {"kind": "line", "name": "fig", "x": "a", "metric": "test/acc"}
    cells = sweep(tmp_path, {"a": [1, 2]}, {**BLOCK, "figures": [figure, {**figure, "name": "f", "metric": "extra"}]})
    for cell, value in zip(cells, values, strict=True):
        finish(tmp_path, cell, value, metrics={"extra": value})
    report(tmp_path)
    (low, high), other = (canvas.axes[0].get_ylim() for canvas in kept)
    assert low < values[0]
    assert values[1] <= high <= 1
    assert (other[1] > 1) == (values[1] == 1), "a metric that is no share"


def test_missing_kernels_and_metrics_are_said(tmp_path):
    pictures, problems = drawn(tmp_path / "a", {**KERNELS, "layer": "conv9"}, {"a": [1]})
    assert (pictures, "no kernels/conv9 in arrays.npz" in problems[0]) == ([], True)
    pictures, problems = drawn(tmp_path / "b", {**SURFACE, "metric": "nothing"}, GRID)
    assert (pictures, problems[0].partition(" (there are")[0]) == ([], "fig: the cells have no metric nothing")
    pictures, problems = drawn(tmp_path / "c", {**SURFACE, "where": {"q": 1}}, GRID)
    assert (pictures, problems) == ([], ["fig: q was not swept"])


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.9571, 0.5], [".957", ".500"]),
        ([1.234, 0.5], ["1.23", ".50"]),
        ([25.13, -0.5], ["25.1", "-.5"]),
        ([4206, 11], ["4206", "11"]),
        ([11622, 4206], ["11.6k", "4.2k"]),
        ([6824448e1, 0], ["68.2M", ".0M"]),
        ([math.nan, 0.25], ["", ".250"]),
    ],
)
def test_compact_numbers(values, texts):
    assert compact(np.array([values], dtype=float)) == [texts]


def test_numbers_stand_out_from_their_colour():
    assert ink_on(colormaps["viridis"](0.0)) == "white"
    assert ink_on(colormaps["viridis"](1.0)) == "black"
