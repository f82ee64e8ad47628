"""Curves of arrays against arrays: means and deviations against loops, the reference, panels, and what is refused."""

import itertools
import math
import statistics

import array_fakes
import numpy as np
import pytest
from report_fakes import BLOCK, body, sweep

from capsexp import records
from capsexp.analysis import drawing, results
from capsexp.analysis.figures import series
from capsexp.analysis.figures.legend import LegendTitles
from capsexp.analysis.figures.series import Curve, bands_note, draw_series, falls
from capsexp.analysis.figures.style import INK, Caption
from capsexp.analysis.spec import parse
from capsexp.errors import ConfigError

WALK = {
    "kind": "series",
    "name": "walk",
    "x": "walk/params",
    "y": "walk/acc",
    "by": "pruning",
    "style": "mode",
    "panels": "steps",
    "reference": {"mode": "reinit"},
    "reference_label": "trained anew",
}
PLAIN = {key: WALK[key] for key in ("kind", "name", "x", "y")}
AXES = {"mode": ["remove", "merge", "reinit"], "pruning": ["cosine", "random"], "steps": [0, 50], "seed": [2, 1]}
FEW = {"mode": ["remove", "reinit"], "pruning": ["cosine", "random"], "seed": [1, 2]}
SIZES = [90, 60, 50, 20]


def walk(axes):
    """Accuracies that differ in every axis and step; those of the reference in its seed alone."""
    seed = axes.get("seed", 0)
    if axes.get("mode") == "reinit":
        return [0.9 - 0.01 * seed * step for step in range(4)]
    kind = sum(AXES[axis].index(value) * 3**place for place, (axis, value) in enumerate(axes.items()))
    return [0.8 - 0.013 * kind * step - 0.002 * seed**2 * step for step in range(4)]


def written(root, axes, change=lambda axes, kept: kept):
    """A finished sweep; ``change`` alters what a cell keeps."""
    cells = sweep(root, axes, BLOCK)
    for cell in cells:
        kept = {"walk/params": np.array(SIZES), "walk/acc": np.array(walk(cell.axes))}
        directory = root / cell.name
        records.write_result(directory, body(cell, 0.9))
        array_fakes.keep(directory, change(cell.axes, kept))
    return cells


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep over all axes, which the tests leave as it is."""
    root = tmp_path_factory.mktemp("whole")
    written(root, AXES)
    return root


def drawn(root, figure=WALK):
    spec = parse({"axes": {"steps": {"label": "fine-tuning"}}, "figures": [figure]})
    return drawing.draw_all(spec, results.read(root))


def without(*keys):
    return {key: value for key, value in WALK.items() if key not in keys}


@pytest.fixture
def seen(monkeypatch):
    """What would be drawn."""
    calls = []
    monkeypatch.setattr(series, "draw_series", lambda groups, words, keys, **rest: calls.append((groups, words, rest)))
    return calls


# -- the block --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"x": None}, "x"),
        ({"y": None}, "y"),
        ({"x": 3}, "x"),
        ({"by": ["pruning"]}, "by"),
        ({"style": "pruning"}, "style"),
        ({"panels": "mode"}, "panels"),
        ({"reference": "reinit"}, "reference"),
        ({"reference": {}}, "reference"),
        ({"reference": {"mode": {"least": 1}}}, "reference.mode.least"),
        ({"reference": None}, "reference"),
        ({"reference_label": None}, "reference_label"),
        ({"metric": "test/acc"}, "metric"),
        ({"layer": "conv1"}, "layer"),
    ],
)
def test_a_wrong_figure_is_one_line_naming_its_key(change, key):
    with pytest.raises(ConfigError) as error:
        parse({"figures": [{**WALK, **change}]})
    assert error.value.key == f"report.figures[0].{key}"
    assert "\n" not in str(error.value)


def test_arrays_are_no_axes():
    (figure,) = parse({"figures": [WALK]}).figures
    assert (figure.x, figure.y) == ("walk/params", "walk/acc")
    assert figure.shown_axes == {"pruning", "mode", "steps"}
    assert not figure.over_axes


# -- which numbers ----------------------------------------------------------------------------------------------------


def test_every_line_holds_the_walks_of_its_cells_and_the_reference_stands_apart(whole, seen):
    assert drawn(whole)[1] == []
    ((groups, words, rest),) = seen
    assert list(groups) == ["fine-tuning = 0", "fine-tuning = 50"]
    for steps, group in zip(AXES["steps"], groups.values(), strict=True):
        assert list(group) == [(p, m) for p in AXES["pruning"] for m in ("remove", "merge")]
        for (criterion, mode), curve in group.items():
            axes = {"mode": mode, "pruning": criterion, "steps": steps}
            assert sorted(map(list, curve.ys)) == sorted(walk({**axes, "seed": seed}) for seed in (1, 2))
            assert curve.x.tolist() == SIZES
    anew = sorted(walk({"mode": "reinit", "seed": seed}) for seed in (1, 2))
    np.testing.assert_allclose(sorted(map(list, rest["reference"].ys)), anew, rtol=1e-14)
    assert words.parts[-2:] == ("here: data digits, model chosen on val", "n = 2")
    assert (rest["x_label"], rest["y_label"]) == ("walk/params", "walk/acc")


def test_axes_that_are_not_named_give_pictures_of_their_own(whole, seen):
    drawn(whole, without("panels"))
    assert [words.name for _, words, _ in seen] == ["walk_0", "walk_50"]
    for steps, (groups, _, rest) in zip(AXES["steps"], seen, strict=True):
        expected = sorted(walk({"mode": "merge", "pruning": "random", "steps": steps, "seed": seed}) for seed in (1, 2))
        assert sorted(map(list, groups[""]["random", "merge"].ys)) == expected
        assert rest["reference"].n == 2


def test_where_and_at_narrow_it_down(whole, seen):
    drawn(whole, {**WALK, "where": {"pruning": ["cosine"]}, "at": {"steps": 50}})
    ((groups, _, rest),) = seen
    lines = {head: list(group) for head, group in groups.items()}
    assert lines == {"fine-tuning = 50": [("cosine", "remove"), ("cosine", "merge")]}
    assert rest["reference"].n == 2


def test_without_further_keys_there_is_one_line(whole, seen):
    drawn(whole, {**PLAIN, "at": {"mode": "merge", "pruning": "cosine", "steps": 0}})
    ((groups, _, rest),) = seen
    assert {head: [(key, curve.n) for key, curve in group.items()] for head, group in groups.items()} == {
        "": [(("", ""), 2)]
    }
    assert rest["reference"] is None


def test_panels_colours_and_styles_stand_in_one_picture_without_a_reference_too(whole, seen):
    drawn(whole, {**PLAIN, "by": "pruning", "style": "steps", "panels": "mode"})
    ((groups, _, _),) = seen
    lines = [("cosine", "0"), ("cosine", "50"), ("random", "0"), ("random", "50")]
    assert [(head, list(group)) for head, group in groups.items()] == [
        (f"mode = {mode}", lines) for mode in AXES["mode"]
    ]


def test_a_reference_of_its_own_for_each_picture(tmp_path, seen):
    axes = {"mode": ["remove", "reinit"], "steps": [0, 50]}
    written(tmp_path, axes, lambda own, kept: {**kept, "walk/acc": kept["walk/acc"] + own["steps"]})
    drawn(tmp_path, without("panels", "by"))
    assert [rest["reference"].ys[0][0] for _, _, rest in seen] == [0.9, 50.9]


def test_reference_cells_of_one_seed_are_averaged_and_count_once(tmp_path, seen):
    def uneven(axes, kept):
        aside = 0.03 if axes["mode"] == "reinit" and axes["pruning"] == "random" else 0.0
        return {**kept, "walk/acc": kept["walk/acc"] + aside}

    written(tmp_path, FEW, uneven)
    drawn(tmp_path, without("panels"))
    ((_, words, rest),) = seen
    assert rest["reference"].n == 2
    np.testing.assert_allclose(rest["reference"].ys[0], [0.9 - 0.01 * step + 0.015 for step in range(4)])
    assert words.parts[-1] == "n = 2"


def test_the_references_own_number_of_trainings_is_said(tmp_path, seen):
    for cell in written(tmp_path, FEW):
        if cell.axes["mode"] == "reinit" and cell.axes["seed"] != 1:
            (tmp_path / cell.name / records.RESULT).unlink()
    drawn(tmp_path, without("panels"))
    assert seen[0][1].parts[-1] == "n = 2 (dark line: n = 1)"


# -- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", FEW["mode"])
def test_other_places_within_a_line_leave_the_figure_out(tmp_path, mode):
    odd = {"mode": mode, "pruning": "random", "seed": 2}
    cells = written(tmp_path, FEW, lambda own, kept: {**kept, "walk/params": kept["walk/params"] + (own == odd)})
    said = "its walk/params is not that of the other cells of its line"
    assert drawn(tmp_path, without("panels")) == ([], [f"walk: {name_of(cells, odd)}: {said}"])


def name_of(cells, axes):
    return next(cell.name for cell in cells if cell.axes == axes)


def test_cells_that_differ_in_more_than_the_seed_are_not_averaged(whole):
    said = "one line would mix values of mode (remove, merge): name it in by, style or panels, or narrow it with where"
    assert drawn(whole, without("style")) == ([], [f"walk: {said}"])


def test_an_axis_of_the_reference_must_be_swept(tmp_path):
    written(tmp_path, {"pruning": ["cosine"]})
    assert drawn(tmp_path) == ([], ["walk: mode was not swept"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: {"walk/params": x}, "no walk/acc in arrays.npz"),
        (lambda x, y: {"walk/params": x, "walk/acc": y[:3]}, "walk/params has 4 values, walk/acc 3"),
        (lambda x, y: {"walk/params": x, "walk/acc": y[:, None]}, "walk/acc must have 1 dimensions, has 2"),
        (lambda x, y: {"walk/params": x / [1, 1, math.nan, 1], "walk/acc": y}, "params has values that are not finite"),
        (lambda x, y: {"walk/params": x, "walk/acc": y * math.nan}, "walk/acc has no finite value"),
    ],
)
def test_a_cell_without_a_curve_is_said_and_the_others_are_drawn(tmp_path, seen, change, said):
    broken = {"pruning": "cosine", "seed": 2}
    axes = {"pruning": ["cosine", "random"], "seed": [1, 2]}
    cells = written(tmp_path, axes, lambda own, kept: change(*kept.values()) if own == broken else kept)
    (problem,) = drawn(tmp_path, {**PLAIN, "by": "pruning"})[1]
    assert problem.startswith(f"walk: {name_of(cells, broken)}: ")
    assert problem.endswith(said)
    assert {key: curve.n for key, curve in seen[0][0][""].items()} == {("cosine", ""): 1, ("random", ""): 2}
    assert seen[0][1].parts[-1] == "n = 1 to 2"


def test_where_no_cell_has_a_curve_one_line_says_so(tmp_path):
    cells = written(tmp_path, {"seed": [1, 2]}, lambda *_: {"other": np.ones(2)})
    assert drawn(tmp_path, PLAIN) == ([], [f"walk: {cells[0].name}: no walk/params in arrays.npz (and 1 more)"])


# -- the picture ------------------------------------------------------------------------------------------------------


@pytest.fixture
def canvas(monkeypatch):
    """The figure itself in place of its files."""
    monkeypatch.setattr(series, "save", lambda canvas, words, note="": (canvas, note))
    return lambda *given, **rest: draw_series(*given, **rest)[0]


def polygon(band):
    return band.get_paths()[0].vertices


def test_lines_are_means_and_bands_one_deviation_around_them(canvas):
    random = np.random.default_rng(0)
    ys = [random.normal(size=3) for _ in range(4)]
    ys[0][1] = math.nan
    single = Curve(np.array([3.0, 2.0, 1.0]), [np.array([0.5, 0.4, 0.3])])
    groups = {"a": {("p", "q"): Curve(np.array([3.0, 2.0, 1.0]), ys)}, "b": {("r", "s"): single}}
    made = canvas(groups, Caption("n", "T"), LegendTitles("colour", "style", "dark"), reference=single)
    left, right = made.axes
    assert [axes.get_title() for axes in made.axes] == ["a", "b"]
    assert [len(axes.lines) for axes in made.axes] == [2, 2]
    columns = [[y[step] for y in ys if math.isfinite(y[step])] for step in range(3)]
    mean = [statistics.fmean(column) for column in columns]
    spread = [statistics.stdev(column) for column in columns]
    assert left.lines[0].get_xdata().tolist() == [3, 2, 1]
    np.testing.assert_allclose(left.lines[0].get_ydata(), mean, rtol=1e-12)
    edges = {tuple(np.round(place, 12)) for place in polygon(left.collections[0])}
    ends = {(x, m + sign * s) for x, m, s in zip((3, 2, 1), mean, spread, strict=True) for sign in (-1, 1)}
    assert {tuple(np.round(place, 12)) for place in ends} <= edges
    assert not any(len(polygon(band)) for axes in made.axes for band in axes.collections[1:] if band.get_paths())
    for axes in made.axes:
        dark = axes.lines[-1]
        assert (dark.get_color(), dark.get_marker()) == (INK, "None")
        np.testing.assert_array_equal(dark.get_ydata(), single.ys[0])
    looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in (left.lines[0], right.lines[0])]
    assert [len(set(each)) for each in zip(*looks, strict=True)] == [2, 2, 2]


def test_the_axis_falls_where_every_walk_does(canvas):
    down, up = (Curve(np.array(x), [np.zeros(3)]) for x in ([3.0, 1.0, 2.0], [1.0, 3.0, 2.0]))
    for group, inverted in (([down, down], True), ([down, up], False), ([up], False)):
        made = canvas({"": {(str(i), ""): curve for i, curve in enumerate(group)}}, Caption("n", "T"), LegendTitles())
        assert bool(made.axes[0].xaxis_inverted()) is inverted
    assert not falls(np.ones(3))


def test_the_legend_names_colours_styles_and_the_reference(canvas):
    curve = Curve(np.array([20000.0, 1.0]), [np.zeros(2)])
    keys = LegendTitles("criterion", "mode", "initialised anew and trained at each size")
    made = canvas(
        {"": {(c, s): curve for c in ("cosine", "random") for s in ("remove", "merge")}},
        Caption("n", "T"),
        keys,
        reference=curve,
    )
    found = {each.get_title().get_text(): [text.get_text() for text in each.get_texts()] for each in made.legends}
    assert found == {
        "criterion": ["cosine", "random"],
        "mode": ["remove", "merge"],
        "": ["initialised anew and\ntrained at each size"],
    }
    made.draw_without_rendering()
    boxes = [each.get_window_extent() for each in made.legends]
    assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(boxes))
    assert all(box.y0 >= 0 and box.x1 <= made.bbox.x1 and box.x0 >= made.axes[0].bbox.x1 for box in boxes)
    assert "8k" in [text.get_text() for text in made.axes[0].get_xticklabels()]
    assert canvas({"": {("", ""): curve}}, Caption("n", "T"), LegendTitles("", "", "")).legends == []


def test_the_note_says_what_a_band_is_and_claims_none_for_one_seed():
    one, five = (Curve(np.ones(2), [np.ones(2)] * n) for n in (1, 5))
    assert bands_note([one, one]) == ""
    assert bands_note([five]) == "Bands: ± one sample standard deviation, n = 5."
    assert bands_note([five, one]) == "Bands: ± one sample standard deviation, n = 5, where n > 1."


def test_the_same_results_give_the_same_bytes_and_say_what_bands_are(whole):
    (first,), _ = drawn(whole, {**WALK, "note": "After the cut."})
    (second,), _ = drawn(whole, {**WALK, "note": "After the cut."})
    assert first == second
    assert (first.png[:4], first.pdf[:4]) == (b"\x89PNG", b"%PDF")
    assert first.note == "Bands: ± one sample standard deviation, n = 2. After the cut."


def test_on_a_logarithmic_axis_means_are_geometric_and_zeros_are_left_out(monkeypatch):
    canvases = []
    monkeypatch.setattr(series, "save", lambda canvas, caption, note: canvases.append((canvas, note)))
    curve = Curve(np.array([0.0, 1.0, 2.0]), [np.array([1e-2, 1e-4, 0.0]), np.array([1e-4, 1e-8, 1e-3])])
    for log in (True, False):
        draw_series({"": {("a", ""): curve}}, Caption("name", "title"), LegendTitles("kind", "", ""), log=log)
    means = []
    for canvas, _ in canvases:
        (axes,) = canvas.axes
        means.append((axes.get_yscale(), axes.get_lines()[0].get_ydata()))
    assert [scale for scale, _ in means] == ["log", "linear"]
    np.testing.assert_allclose(means[0][1], [1e-3, 1e-6, 1e-3])
    np.testing.assert_allclose(means[1][1], [5.05e-3, (1e-4 + 1e-8) / 2, 5e-4])
    assert "geometric" in canvases[0][1]
    assert "geometric" not in canvases[1][1]
