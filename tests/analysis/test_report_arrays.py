"""Figures that draw the arrays of one cell: which cell, which picture, and what is said where there is none."""

import array_fakes
import numpy as np
import pytest
from report_fakes import BLOCK, TIMINGS, accuracy, contents, finish, report, sweep

from capsexp import records
from capsexp.analysis import arrays, drawing, panels, results
from capsexp.analysis.figures import images
from capsexp.analysis.figures.bars import draw_bars, verdict
from capsexp.analysis.figures.images import draw_images, mosaic, plane, step_texts
from capsexp.analysis.figures.style import Caption
from capsexp.analysis.figures.tuning import draw_tuning, least_distinct
from capsexp.analysis.spec import parse
from capsexp.errors import ConfigError

MATRIX = {"kind": "matrix", "name": "mat", "array": "correlation/classes"}
IMAGES = {"kind": "matrix", "name": "hundred", "array": "correlation/images", "labels": "correlation/images/labels"}
BARS = {
    "kind": "bars",
    "name": "bars",
    "arrays": {"dynamic": "probabilities/dynamic", "fast": "probabilities/fast"},
    "labels": "probabilities/labels",
    "images": "probabilities/images",
}
TUNING = {"kind": "tuning", "name": "tun", "arrays": {"dynamic": "tuning/dynamic", "fast": "tuning/fast"}}
GRID = {"kind": "images", "name": "dec", "array": "decoded/class3", "steps": "decoded/steps"}
PAIRS = {"kind": "images", "name": "pairs", "array": "pairs/images", "labels": "pairs/labels", "rows": ["in", "out"]}
ALL = [MATRIX, {**IMAGES, "sort": True, "triangle": True, "range": [-1, 1]}, BARS, TUNING, GRID]
CAPTION = Caption("name", "Title", ("one", "two"))


def written(root, axes, shown, change=None, **sizes):
    """A finished sweep whose cells kept arrays; ``change`` alters those of every cell."""
    for seed, cell in enumerate(sweep(root, axes, {**BLOCK, "figures": shown})):
        kept = array_fakes.arrays(seed=seed, **sizes)
        array_fakes.keep(finish(root, cell, accuracy(cell)), kept | (change(kept) if change else {}))
    return root


def drawn(root):
    read = results.read(root)
    return drawing.draw_all(parse(read.sweep.report), read)


def panel_of(root):
    """The only picture of the only figure."""
    read = results.read(root)
    spec = parse(read.sweep.report)
    (panel,), problem = panels.panels(spec.figures[0], spec, read)
    assert problem == ""
    return panel


# -- the block --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figure", "key"),
    [
        ({"kind": "matrix"}, "array"),
        ({**MATRIX, "array": 3}, "array"),
        ({**MATRIX, "layer": "conv1"}, "layer"),
        ({**MATRIX, "triangle": "yes"}, "triangle"),
        ({**MATRIX, "sort": True}, "labels"),
        ({**IMAGES, "sort": 1}, "sort"),
        ({**MATRIX, "range": [1, 0]}, "range"),
        ({**MATRIX, "range": [0]}, "range"),
        ({**MATRIX, "range": 1}, "range"),
        ({**MATRIX, "range": [0, "x"]}, "range[1]"),
        ({**MATRIX, "metric": "test/acc"}, "pick"),
        ({**MATRIX, "pick": "max"}, "metric"),
        ({**MATRIX, "metric": "test/acc", "pick": "best"}, "pick"),
        ({**MATRIX, "metric": "clocks.fit_s", "pick": "max"}, "metric"),
        ({**BARS, "labels": None}, "labels"),
        ({**BARS, "images": None}, "images"),
        ({**TUNING, "arrays": {}}, "arrays"),
        ({**TUNING, "arrays": ["tuning/fast"]}, "arrays"),
        ({**TUNING, "arrays": {"a": 1}}, "arrays.a"),
        ({**TUNING, "arrays": {str(i): "tuning/fast" for i in range(5)}}, "arrays"),
        ({**GRID, "steps": 11}, "steps"),
        ({**GRID, "range": [0, 1]}, "range"),
        ({**GRID, "labels": "pairs/labels"}, "labels"),
        ({**PAIRS, "labels": 3}, "labels"),
        ({**PAIRS, "rows": "original"}, "rows"),
        ({**PAIRS, "rows": []}, "rows"),
        ({**PAIRS, "rows": ["original", 2]}, "rows[1]"),
        ({"kind": "epochs"}, "metrics"),
        ({"kind": "epochs", "metrics": "val/acc"}, "metrics"),
        ({"kind": "epochs", "metrics": []}, "metrics"),
        ({"kind": "epochs", "metrics": ["a", "a"]}, "metrics"),
        ({"kind": "epochs", "metrics": ["clocks.fit_s"]}, "metrics[0]"),
        ({"kind": "epochs", "metrics": ["val/acc"], "metric": "val/acc"}, "metric"),
    ],
)
def test_a_wrong_figure_is_one_line_naming_its_key(figure, key):
    with pytest.raises(ConfigError) as error:
        parse({"figures": [figure]})
    assert error.value.key == f"report.figures[0].{key}"
    assert "\n" not in str(error.value)


def test_right_figures_pass_and_keep_what_they_say():
    matrix, hundred, bars, tuning, grid = parse({"figures": ALL}).figures
    assert (matrix.array, matrix.metric, matrix.range, matrix.sort) == ("correlation/classes", "", None, False)
    assert (hundred.sort, hundred.triangle, hundred.range) == (True, True, (-1.0, 1.0))
    assert list(bars.arrays) == list(tuning.arrays) == ["dynamic", "fast"]
    assert grid.steps == "decoded/steps"
    assert not any(figure.over_axes for figure in (matrix, hundred, bars, tuning, grid))


# -- which cell, which pictures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pick", ["max", "min"])
def test_the_cell_is_the_extreme_one_or_the_first_seed(tmp_path, pick):
    seeds = {"seed": [3, 1, 2]}
    chosen = written(tmp_path / "a", seeds, [{**MATRIX, "metric": "test/acc", "pick": pick}])
    panel = panel_of(chosen)
    values = {cell.id: cell.value("test/acc") for cell in results.read(chosen).cells}
    assert arrays.choose(panel).id == (max if pick == "max" else min)(values, key=values.get)
    first = panel_of(written(tmp_path / "b", seeds, [MATRIX]))
    assert arrays.choose(first).axes == {"seed": 1}


def test_an_unfinished_first_seed_is_passed_over(tmp_path):
    cells = sweep(tmp_path, {"seed": [1, 2]}, {**BLOCK, "figures": [MATRIX]})
    assert drawn(tmp_path) == ([], ["mat: no cell has finished yet"])
    array_fakes.keep(finish(tmp_path, cells[1], 0.5), array_fakes.arrays())
    assert arrays.choose(panel_of(tmp_path)).axes == {"seed": 2}
    (picture,), problems = drawn(tmp_path)
    assert (picture.name, problems) == ("mat", [])


NOWHERE = {"at": {"model.c1": 2, "model.c2": 2}}


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ({**MATRIX, **NOWHERE}, "no finished cell at kernels = 2, c2 = 2"),
        ({**MATRIX, **NOWHERE, "metric": "test/acc", "pick": "max"}, "no finished cell at kernels = 2, c2 = 2"),
        ({**MATRIX, "where": {"model.c1": [2, 32], "model.c2": {"max": 0}}},
         "no finished cell at kernels = 2 or 32, c2 ≤ 0"),
        ({**MATRIX, "where": {"model.c1": {"min": 5, "max": 9.5}, "model.c2": []}},
         "no finished cell at kernels ≥ 5 and kernels ≤ 9.5, c2 = nothing"),
        ({**MATRIX, "at": {"model.c1": 16}}, "no finished cell at kernels = 16"),
        ({**MATRIX, "at": {"model.c1": 4}, "metric": "extra", "pick": "max"}, "no cell has extra yet"),
        ({**MATRIX, "metric": "extra", "pick": "max"}, "no cell has extra yet"),
    ],
)  # fmt: skip
def test_a_point_that_has_no_finished_cell_is_named_where_others_have(tmp_path, figure, said):
    axes = {"model.c1": [4, 16], "model.c2": [4, 16]}
    block = {**BLOCK, "axes": {"model.c1": {"label": "kernels", "unit": "channels"}}, "figures": [figure]}
    cells = sweep(tmp_path, axes, block)
    lacking = f"has {figure['metric']} yet" if "metric" in figure else "has finished yet"
    assert drawn(tmp_path) == ([], [f"mat: no cell {lacking}"])
    for cell in cells:
        if cell.axes["model.c1"] == 4:
            finish(tmp_path, cell, 0.5)
    assert drawn(tmp_path) == ([], [f"mat: {said}"])


def test_axes_that_are_not_named_give_a_picture_for_each_value(tmp_path, monkeypatch):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)  # the names are asked for alone
    axes = {"data": ["digits", "mnist"], "routing": ["dynamic", "max_min"], "seed": [0, 1]}
    pictures, problems = drawn(written(tmp_path, axes, [TUNING], components=1))
    expected = [f"tun_{data}_{routing}" for data in ("digits", "mnist") for routing in ("dynamic", "max-min")]
    assert ([picture.name for picture in pictures], problems) == (expected, [])
    narrow = written(tmp_path / "at", axes, [{**TUNING, "at": {"data": "mnist", "routing": "dynamic"}}], components=1)
    panel = panel_of(narrow)
    assert panel.remarks == ("data = mnist", "routing = dynamic", "here: data digits, model chosen on val")
    assert {cell.axes["data"] for point in panel.points for cell in point.cells} == {"mnist"}


@pytest.mark.parametrize(("classes", "channels", "side"), [pytest.param(46, 3, 32, marks=pytest.mark.slow), (2, 1, 5)])
def test_every_kind_is_drawn(tmp_path, classes, channels, side):
    sizes = {"classes": classes, "channels": channels, "side": side, "components": 3}
    pictures, problems = drawn(written(tmp_path, {"seed": [0]}, ALL, **sizes))
    assert [picture.name for picture in pictures] == ["mat", "hundred", "bars", "tun", "dec"]
    assert problems == []
    assert all(picture.png.startswith(b"\x89PNG") and picture.pdf.startswith(b"%PDF") for picture in pictures)


def test_the_same_results_give_the_same_bytes(tmp_path):
    made = []
    for folder in ("x", "y"):
        root = written(tmp_path / folder / "fake", {"seed": [0]}, [*ALL, EPOCHS], components=2)
        for path in root.glob("*/result.json"):
            array_fakes.history(path.parent, array_fakes.learning(0, 4))
        made.append(contents(report(root)))
    first, second = made
    assert {"mat.png", "hundred.pdf", "bars.png", "tun.pdf", "dec.png", "epo.png"} < first.keys()
    assert {name for name in first if first[name] != second[name]} <= TIMINGS


EPOCHS = {"kind": "epochs", "name": "epo", "metrics": ["val/acc"]}

# -- originals above reconstructions ----------------------------------------------------------------------------------


def pairs(columns, rows=2):
    """Arrays of that many images in two forms, and their classes."""
    images = np.random.default_rng(0).integers(0, 256, (rows, columns, 1, 6, 6), dtype=np.uint8)
    return {"pairs/images": images, "pairs/labels": np.arange(columns) * 3 % 50}


@pytest.fixture
def canvas(monkeypatch):
    """The texts of a grid of images, in place of its files."""
    monkeypatch.setattr(images, "save", lambda canvas, words, note="": (canvas, note))

    def texts(*given, **rest):
        made, note = draw_images(*given, **rest)
        made.draw_without_rendering()
        inside = all(text.get_window_extent().x0 >= 0 for text in made.axes[0].texts)
        return [text.get_text() for text in made.axes[0].texts], [text.get_text() for text in made.texts], inside, note

    return texts


def test_words_stand_beside_the_rows_and_classes_above_the_columns(canvas):
    kept = pairs(21)
    rows = ["original", "what the decoder makes of it in four lines, of which three are shown here"]
    around, _, inside, note = canvas(kept["pairs/images"], CAPTION, labels=kept["pairs/labels"], rows=rows, y_label="y")
    assert around[:21] == [str(label) for label in kept["pairs/labels"]]
    assert around[21:] == ["original", "what the decoder\nmakes of it in\nfour lines, of …"]
    assert (inside, note) == (True, "")
    assert canvas(kept["pairs/images"], CAPTION)[0] == [str(place + 1) for place in (*range(21), *range(2))]


def test_what_stands_around_pairs_is_not_what_stands_around_components(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(images, "draw_images", lambda grid, words, **rest: seen.append((grid, words, rest)))
    axes = {"model.c1": [2, 16], "model.c2": [2, 16]}
    cells = sweep(tmp_path, axes, {**BLOCK, "figures": [{**PAIRS, "at": {"model.c1": 16, "model.c2": 2}}]})
    for place, cell in enumerate(cells):
        kept = pairs(3 + place)
        array_fakes.keep(finish(tmp_path, cell, 0.5), {**kept, "pairs/labels": kept["pairs/labels"] + place})
    assert drawn(tmp_path)[1] == []
    ((grid, words, rest),) = seen
    chosen = next(cell for cell in cells if cell.axes == {"model.c1": 16, "model.c2": 2})
    assert words.parts[-1].startswith(chosen.name)
    assert grid.shape[1] == 3 + cells.index(chosen)
    assert rest.pop("labels")[0] == cells.index(chosen)
    assert rest == {"steps": None, "rows": ["in", "out"], "x_label": "class", "y_label": ""}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda kept: {**kept, "pairs/labels": kept["pairs/labels"][:2]}, "labels must be 4 whole numbers"),
        (lambda kept: {**kept, "pairs/labels": kept["pairs/labels"] / 2}, "labels must be 4 whole numbers"),
        (lambda kept: {"pairs/images": kept["pairs/images"]}, "no pairs/labels in arrays.npz"),
        (
            lambda kept: {**kept, **{"pairs/images": pairs(4, 3)["pairs/images"]}},
            "rows must be 3 texts, one a row, are 2",
        ),
    ],
)
def test_pairs_that_do_not_fit_are_said_in_one_line(tmp_path, change, said):
    (cell,) = sweep(tmp_path, {"seed": [0]}, {**BLOCK, "figures": [PAIRS]})
    array_fakes.keep(finish(tmp_path, cell, 0.5), change(pairs(4)))
    pictures, (problem,) = drawn(tmp_path)
    assert pictures == []
    assert problem.startswith(f"pairs: {cell.name}: {said}")


# -- what can be wrong with arrays ------------------------------------------------------------------------------------


def swapped(name, value):
    return lambda kept: {name: value(kept[name])}


@pytest.mark.parametrize(
    ("figure", "change", "said"),
    [
        ({**MATRIX, "array": "nothing"}, None, "no nothing in arrays.npz"),
        ({**BARS, "images": "nothing"}, None, "no nothing in arrays.npz"),
        (MATRIX, swapped("correlation/classes", lambda a: a[0]), "must have 2 dimensions, has 1"),
        (MATRIX, swapped("correlation/classes", lambda a: a * np.nan), "no finite value"),
        (MATRIX, swapped("correlation/classes", lambda a: a[:0]), "no finite value"),
        (MATRIX, swapped("correlation/classes", lambda a: a.astype(str)), "holds no numbers"),
        ({**MATRIX, "triangle": True}, swapped("correlation/classes", lambda a: a[:, :3]), "must be square, is 10 x 3"),
        (IMAGES, swapped("correlation/images/labels", lambda a: a[:9]), "labels must be 100 whole numbers"),
        (IMAGES, swapped("correlation/images/labels", lambda a: a * 1.5), "labels must be 100 whole numbers"),
        (BARS, swapped("probabilities/fast", lambda a: a[:, :7]), "dynamic is 5 x 10, fast is 5 x 7"),
        (BARS, swapped("probabilities/labels", lambda a: a + 100), "labels must lie between 0 and 9"),
        (BARS, swapped("probabilities/images", lambda a: a[:2]), "images must be 5"),
        (BARS, swapped("probabilities/images", lambda a: a / 255), "must be uint8"),
        (TUNING, swapped("tuning/dynamic", lambda a: a[:, :7]), "dynamic is 10 x 7, fast is 10 x 10"),
        ({**TUNING, "arrays": {"a": "probabilities/fast"}}, None, "a row and a column a class are needed"),
        (GRID, swapped("decoded/class3", lambda a: a[:, :, [0, 0]]), "1 or 3 channels"),
        (GRID, swapped("decoded/class3", lambda a: a[0]), "in 5 dimensions"),
        (GRID, swapped("decoded/steps", lambda a: a[:4]), "steps must be 11 numbers"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(tmp_path, figure, change, said):
    pictures, problems = drawn(written(tmp_path, {"seed": [0]}, [figure], change, components=1))
    assert pictures == []
    (problem,) = problems
    assert problem.startswith(f"{figure['name']}: seed-00-")
    assert said in problem
    assert "\n" not in problem


def test_a_missing_metric_is_said(tmp_path):
    _, (said,) = drawn(written(tmp_path, {"seed": [0]}, [{**MATRIX, "metric": "none", "pick": "max"}]))
    assert said.startswith("mat: the cells have no metric none (there are distance/conv1/min, params, ")


def test_a_cell_without_arrays_or_with_damaged_ones_is_said(tmp_path):
    root = written(tmp_path, {"seed": [0]}, [MATRIX], components=1)
    (file,) = root.glob(f"*/{records.ARRAYS}")
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    damaged = [b"", b"nonsense", whole[: len(whole) // 2]]
    for _ in range(40):
        bytes_ = bytearray(whole)
        for place in random.integers(0, len(whole), 30):
            bytes_[place] ^= 0xFF
        damaged.append(bytes(bytes_))
    said = []
    for content in damaged:
        file.write_bytes(content)
        try:
            arrays.read(file.parent, "correlation/classes")
        except arrays.ArrayError as error:
            said.append(str(error))
    assert len(said) > 10
    assert not any("\n" in text for text in said)
    file.write_bytes(whole[:-100])
    _, (problem,) = drawn(root)
    assert problem.endswith("correlation/classes in arrays.npz cannot be read")
    file.unlink()
    _, (problem,) = drawn(root)
    assert problem.endswith("no arrays.npz")


def test_pickled_arrays_are_not_loaded(tmp_path):
    np.savez(tmp_path / records.ARRAYS, odd=np.array([{"a": 1}], dtype=object))
    with pytest.raises(arrays.ArrayError, match="cannot be read"):
        arrays.read(tmp_path, "odd")


@pytest.mark.parametrize("kept", ["correlation/classes", "tuning/fast", "probabilities/fast"])
def test_single_values_that_are_not_finite_are_marked(tmp_path, kept, monkeypatch):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)  # the notes are asked for alone

    def change(found):
        values = found[kept].copy()
        values[1, :] = [np.nan, np.inf] * 5
        return {kept: values}

    pictures, problems = drawn(written(tmp_path, {"seed": [0]}, [MATRIX, BARS, TUNING], change, components=1))
    assert ([picture.name for picture in pictures], problems) == (["mat", "bars", "tun"], [])
    assert sum("finite" in picture.note for picture in pictures) == 1


# -- small pieces -----------------------------------------------------------------------------------------------------


def test_the_drawing_functions_need_no_sweep():
    found = array_fakes.arrays(components=2)
    ways = {name: found[f"probabilities/{name}"] for name in ("dynamic", "fast")}
    picture = draw_bars(ways, found["probabilities/images"], found["probabilities/labels"], CAPTION)
    assert (picture.name, picture.title, picture.note) == ("name", "Title", "")
    assert draw_tuning({"dynamic": found["tuning/dynamic"]}, CAPTION).png
    many = np.zeros((40, 25, 1, 4, 4), dtype=np.uint8)
    assert draw_images(many, CAPTION).note == "Shown: 32 of 40 rows, 21 of 25 columns."


def test_the_verdict_names_each_choice():
    lengths = {"dynamic": np.array([0.1, 0.93, 0.2]), "fast": np.array([0.55, np.nan, 0.2])}
    assert verdict(lengths, 1) == "true class 1   ·   dynamic: 1 (.93)   ·   fast: 0 (.55), wrong"
    assert verdict({"fast": np.full(3, np.nan)}, 1) == "true class 1"


def test_the_least_distinct_classes():
    first = np.array([[0.9, 0.1, 0.1], [0.2, 0.5, 0.4], [0.0, 0.1, 0.8]])
    second = np.array([[0.9, 0.6, 0.1], [0.2, 0.9, 0.4], [0.0, 0.1, 0.8]])
    assert least_distinct([first], 1) == [1]
    assert least_distinct([first, second], 2) == [0, 1]
    first[1] = np.nan
    assert least_distinct([first], 2) == [0, 2]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mosaic_holds_every_image_at_its_place(channels):
    images = np.random.default_rng(0).integers(0, 255, (3, 4, channels, 10, 6), dtype=np.uint8)
    sheet, corners = mosaic(images)
    used = np.zeros(sheet.shape[:2], dtype=bool)
    for row, column in np.ndindex(3, 4):
        y, x = corners[row, column]
        np.testing.assert_array_equal(sheet[y : y + 10, x : x + 6], plane(images[row, column]))
        assert not used[y : y + 10, x : x + 6].any()
        used[y : y + 10, x : x + 6] = True
    assert (sheet[~used] == 255).all()
    assert sheet.shape == ((3 * 11 - 1, 4 * 7 - 1, 3)[: 2 + (channels == 3)])


def test_colour_comes_last_and_gray_is_flat():
    image = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    assert plane(image[:1]).tolist() == [[0, 1], [2, 3]]
    assert plane(image)[1, 0].tolist() == [2, 6, 10]


@pytest.mark.parametrize(
    ("steps", "texts"),
    [
        ([-0.25, -0.2, 1e-12, 0.05], ["\N{MINUS SIGN}.25", "\N{MINUS SIGN}.20", "0", "+.05"]),
        ([-1.5, 0, 2], ["\N{MINUS SIGN}1.5", "0", "+2.0"]),
        ([-1, 0, 1], ["\N{MINUS SIGN}1", "0", "+1"]),
    ],
)
def test_texts_of_steps(steps, texts):
    assert step_texts(np.array(steps)) == texts
