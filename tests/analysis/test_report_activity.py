"""Heat maps of capsules' activities: which cells and layers, dead shares, what is drawn where, and what is said."""

import array_fakes
import numpy as np
import pytest
from matplotlib.colors import LogNorm
from report_fakes import BLOCK, accuracy, finish, sweep

from capsexp.analysis import arrays, drawing, results
from capsexp.analysis.figures import activity
from capsexp.analysis.figures.activity import Layout, dead, draw_activity
from capsexp.analysis.figures.style import Caption
from capsexp.analysis.spec import parse
from capsexp.errors import ConfigError

ACTIVITY = {"kind": "activity", "name": "act", "by": "ratio", "paper": "more alive", "note": "A note."}
CAPTION = Caption("name", "Title")


def written(root, axes, figure=ACTIVITY, depth=2):
    """A finished sweep whose cells kept their activities."""
    for seed, cell in enumerate(sweep(root, axes, {**BLOCK, "figures": [figure]})):
        kept = array_fakes.activities(cell.axes.get("depth", depth), seed)
        array_fakes.keep(finish(root, cell, accuracy(cell)), kept)
    return root


def drawn(root):
    read = results.read(root)
    return drawing.draw_all(parse(read.sweep.report), read)


@pytest.fixture
def seen(monkeypatch):
    """What is handed to the drawing function, in place of a picture."""
    calls = []

    def keep(rows, words, *, threshold):
        calls.append((rows, words, threshold))
        return "drawn"

    monkeypatch.setattr(activity, "draw_activity", keep)
    return calls


def canvas_of(monkeypatch, rows, **options):
    """A picture before and after it is saved."""
    kept, save = [], activity.save
    monkeypatch.setattr(activity, "save", lambda canvas, *given: kept.append(canvas) or save(canvas, *given))
    picture = draw_activity(rows, CAPTION, **options)
    return kept[-1], picture


# -- the block --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"layers": "some"}, "layers"),
        ({"layers": 3}, "layers"),
        ({"threshold": 0}, "threshold"),
        ({"threshold": "x"}, "threshold"),
        ({"metric": "test/acc"}, "pick"),
        ({"array": "activity/"}, "array"),
        ({"x": "ratio"}, "x"),
    ],
)
def test_a_wrong_figure_is_one_line_naming_its_key(changes, key):
    with pytest.raises(ConfigError) as error:
        parse({"figures": [{**ACTIVITY, **changes}]})
    assert error.value.key == f"report.figures[0].{key}"


def test_what_a_figure_says_by_itself():
    (figure,) = parse({"figures": [{"kind": "activity"}]}).figures
    assert (figure.layers, figure.threshold, figure.by, figure.over_axes) == ("intermediate", 0.01, "", False)


# -- cells and layers -------------------------------------------------------------------------------------------------


def test_layers_in_natural_order():
    found = array_fakes.activities(11)
    shuffled = {name: found[name] for name in sorted(found, reverse=True)}
    numbered = [f"layer{place}" for place in range(1, 12)]
    assert list(activity.layers(shuffled, "intermediate")) == numbered
    everything = activity.layers({**shuffled, "activity/extra": found["activity/primary"]}, "all")
    assert list(everything) == ["primary", "extra", *numbered]
    for name, values in everything.items():
        if name != "extra":
            np.testing.assert_array_equal(values, found[f"activity/{name}"])


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "no activity/ in arrays.npz"),
        (array_fakes.activities(0), "no intermediate capsule layer"),
        ({"activity/layer1": np.ones((2, 3))}, "activity/layer1 must have 3 dimensions, has 2"),
        ({"activity/layer1": np.full((2, 3, 3), np.nan)}, "activity/layer1 has no finite value"),
    ],
)
def test_what_is_said_in_place_of_layers(found, said):
    with pytest.raises(arrays.ArrayError, match=said):
        activity.layers(found, "intermediate")


def test_a_row_for_each_value_with_the_arrays_of_its_first_seed(tmp_path, seen):
    root = written(tmp_path, {"ratio": [0, 0.25], "seed": [2, 1]})
    assert drawn(root) == (["drawn"], [])
    ((rows, words, threshold),) = seen
    cells = {(cell.axes["ratio"], cell.axes["seed"]): cell for cell in results.read(root).cells}
    for (head, found), ratio in zip(rows.items(), (0, 0.25), strict=True):
        cell = cells[ratio, 1]
        assert head == f"ratio = {ratio}   ·   test accuracy {accuracy(cell):.4f}"
        np.testing.assert_array_equal(found["layer2"], arrays.load(cell, "activity/layer2"))
        assert cell.name in words.note
    assert threshold == 0.01
    assert words.parts[1:] == (
        "paper (dhcd): more alive",
        "here: data digits, model chosen on val",
        "one of 2 trainings",
    )
    assert words.note.endswith("A note.")


@pytest.mark.parametrize("pick", ["max", "min"])
def test_each_row_shows_the_extreme_cell_if_a_metric_is_named(tmp_path, seen, pick):
    root = written(tmp_path, {"ratio": [0, 0.25], "seed": [0, 1, 2]}, {**ACTIVITY, "metric": "test/acc", "pick": pick})
    drawn(root)
    for found, ratio in zip(seen[0][0].values(), (0, 0.25), strict=True):
        own = [cell for cell in results.read(root).cells if cell.axes["ratio"] == ratio]
        best = (max if pick == "max" else min)(own, key=accuracy)
        np.testing.assert_array_equal(found["layer1"], arrays.load(best, "activity/layer1"))


def test_axes_that_are_not_named_give_pictures_and_no_by_a_single_row(tmp_path, seen):
    root = written(tmp_path, {"ratio": [0, 0.25], "depth": [1, 2]}, {"kind": "activity", "name": "act"})
    assert len(drawn(root)[0]) == 4
    assert [words.name for _, words, _ in seen] == ["act_0_1", "act_0_2", "act_0.25_1", "act_0.25_2"]
    assert all(list(rows) == [""] for rows, _, _ in seen)
    assert "ratio-00" in seen[0][1].parts[-1]


def test_rows_without_layers_are_said_in_words(tmp_path, seen):
    figure = {**ACTIVITY, "by": "depth"}
    cells = sweep(tmp_path, {"depth": [0, 1, 2, 3]}, {**BLOCK, "figures": [figure]})
    for cell in cells[:3]:
        array_fakes.keep(finish(tmp_path, cell, 0.5), array_fakes.activities(cell.axes["depth"]))
    (tmp_path / cells[1].name / "arrays.npz").unlink()
    assert drawn(tmp_path) == (["drawn"], [])
    rows = {head[:9]: row if isinstance(row, str) else list(row) for head, row in seen[0][0].items()}
    assert rows == {
        "depth = 0": "no intermediate capsule layer",
        "depth = 1": "no arrays.npz",
        "depth = 2": ["layer1", "layer2"],
        "depth = 3": "no cell has finished (missing)",
    }


def test_a_figure_without_any_layer_is_a_line(tmp_path, seen):
    written(tmp_path / "flat", {"depth": [0]}, {**ACTIVITY, "by": "depth"})
    _, (problem,) = drawn(tmp_path / "flat")
    assert problem.startswith("act: depth-00-")
    assert problem.endswith(": no intermediate capsule layer")
    sweep(tmp_path / "none", {"ratio": [0]}, {**BLOCK, "figures": [ACTIVITY]})
    assert drawn(tmp_path / "none") == ([], ["act: no cell has finished yet"])
    assert seen == []


# -- the picture ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.5, 0.02, 0.01, 0.0], "50 % dead"),
        ([0.5] * 3, "0 % dead"),
        ([0.01] * 3, "100 % dead"),
        ([0.0] + [1.0] * 999, "<1 % dead"),
        ([1.0] + [0.0] * 999, ">99 % dead"),
        ([np.nan, 0.0], "50 % dead"),
    ],
)
def test_dead_shares(values, text):
    assert dead(np.array(values).reshape(-1, 1, 1), 0.01) == text


def test_panels_show_the_arrays_on_one_scale(monkeypatch):
    found = activity.layers(array_fakes.activities(2), "all")
    found["layer2"][0, 0] = [0.0, np.nan, 1e-7]
    rows = {"one": found, "two": "nothing there"}
    canvas, picture = canvas_of(monkeypatch, rows, threshold=0.05)
    *panels, bar = canvas.axes
    heads = [axes.get_title() for axes in panels]
    assert heads == [f"{name}: {dead(found[key], 0.05)}" for name, key in
                     (("primary", "primary"), ("layer 1", "layer1"), ("layer 2", "layer2"))]  # fmt: skip
    for axes, values in zip(panels, found.values(), strict=True):
        (image,) = axes.images
        assert isinstance(image.norm, LogNorm)
        assert (image.norm.vmin, image.norm.vmax, image.cmap.name) == (1e-4, 1, "viridis")
        shown = np.ma.filled(image.get_array().astype(float), np.nan)
        for kind, y, x in np.ndindex(values.shape):
            value = values[kind, y, x]
            np.testing.assert_equal(shown[kind, y * 3 + x], np.nan if np.isnan(value) else max(value, 1e-4))
    assert {line.get_ydata()[0] for line in bar.lines} == {0.05}
    assert [text.get_text() for text in bar.get_yticklabels()] == ["0.0001", "0.001", "0.01", "1", "≤ 0.05: dead"]
    said = [text.get_text() for text in canvas.texts]
    assert {"one", "two", "nothing there", "place, row by row", "type of capsule"} <= set(said)
    assert picture.note == (
        "Activities below 0.0001, zero among them, have the colour of that. Light grey: no finite value."
    )
    assert picture.png.startswith(b"\x89PNG")
    assert picture.pdf.startswith(b"%PDF")


@pytest.mark.parametrize("counts", [[1], [6], [7, 7, 7, 7], [30], [0, 1, 2], [13, 0, 12]])
@pytest.mark.parametrize("varied", [True, False])
def test_panels_wrap_and_do_not_overlap(counts, varied):
    layout = Layout(counts, heads=True, varied=varied, longest=19)
    assert layout.columns == min(12, max(counts))
    corners = [layout.corner(row, place) for row, count in enumerate(counts) for place in range(count)]
    assert len(set(corners)) == sum(counts)
    for left, down in corners:
        assert left + layout.wide <= layout.right + 1e-9 <= 12.5
        assert activity.TALL <= down <= layout.end
        others = [corner for corner in corners if corner != (left, down)]
        assert all(abs(left - x) >= layout.wide or abs(down - y) >= activity.TALL + 0.2 for x, y in others)
    for row, count in enumerate(counts):
        for place in range(count):
            down = layout.corner(row, place)[1]
            assert layout.tops[row] + layout.head + activity.TALL <= down <= layout.tops[row + 1]


def test_many_layers_have_titles_of_two_lines(monkeypatch):
    found = {f"layer{place}": np.full((2, 2, 2), 0.5) for place in range(1, 14)}
    canvas, picture = canvas_of(monkeypatch, {"": found})
    assert canvas.axes[12].get_title() == "layer 13:\n0 % dead"
    assert picture.note == ""


def test_the_same_activities_give_the_same_bytes():
    one, two = (draw_activity({"": activity.layers(array_fakes.activities(1), "all")}, CAPTION) for _ in range(2))
    assert (one.png, one.pdf) == (two.png, two.pdf)
