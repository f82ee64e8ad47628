"""What a sweep of any keys gets without a word in its report block."""

import html
import math

import numpy as np
import pytest
from report_fakes import accuracy, contents, finish, finished, report, rows, sweep

from capsexp import records
from capsexp.analysis import defaults, drawing, panels, results
from capsexp.analysis.figures import heatmap
from capsexp.analysis.figures.style import compact
from capsexp.analysis.spec import parse

SEEDS = {"seed": [0, 1, 2]}
OPTIMIZERS = ["torch.optim.Adam", "torch.optim.SGD"]


def drawn(root, axes, **changes):
    """What the default report of a finished sweep draws."""
    read = results.read(finished(root, axes, {}, **changes))
    return drawing.draw_all(defaults.fill(parse({}), read), read)


def default(root, axes):
    """The default figure itself, and what is said where there is none."""
    sweep(root, axes, {})
    read = results.read(root)
    chosen, problem = defaults.figures(defaults.fill(parse({}), read), read)
    return (chosen[0] if chosen else None), problem


def layout(figure):
    return figure.kind, *(getattr(figure, key, "") for key in ("x", "y", "by"))


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({"model.c2": [4, 8]}, ("line", "model.c2", "", "")),
        ({"data": ["digits", "mnist"]}, ("line", "data", "", "")),
        ({"model.c3": [4, 8], "model.c2": [4, 8, 16]}, ("heatmap", "model.c3", "model.c2", "")),
        ({"data": ["digits", "mnist"], "model.c2": [4, 8]}, ("heatmap", "model.c2", "data", "")),
        ({"data": ["a", "b"], "optimizer._target_": OPTIMIZERS}, ("heatmap", "data", "optimizer._target_", "")),
        ({"a": [1, 2], "b": [1, 2, 3], "c": [1, 2, 3, 4]}, ("heatmap", "c", "b", "a")),
        ({"w": ["x", "y", "z"], "a": [1, 2], "b": [1, 2]}, ("heatmap", "a", "b", "w")),
        ({"model.c2": [4, 8], "model.c3": [7]}, ("line", "model.c2", "", "")),
    ],
)
def test_the_figure_suits_the_axes(tmp_path, axes, expected):
    figure, problem = default(tmp_path, {**axes, **SEEDS})
    assert (layout(figure), figure.metric, problem) == (expected, "test/acc", "")


def test_too_many_axes_are_a_table_alone_and_the_page_says_so(tmp_path):
    axes = {"a": [1, 2, 3, 4], "b": [1, 2, 3, 4], "c": [1, 2, 3], "d": [1, 2, 3, 4, 5]}
    figure, problem = default(tmp_path / "just", {**axes, "c": [1, 2, 3]})
    assert figure.by == "b"  # 4 x 3 = 12 heat maps
    assert problem == ""
    axes["c"] = [1, 2, 3, 4]
    sweep(tmp_path, axes, {})
    out = report(tmp_path)
    said = "4 axes would make 16 heat maps, more than 12"
    assert said in (out / "index.html").read_text()
    assert list(out.glob("*.png")) == []
    assert len(rows(out, "results")) == 4**3 * 5


def test_only_seeds_are_one_row_with_a_deviation(tmp_path):
    out = report(finished(tmp_path, SEEDS, {}))
    (row,) = rows(out, "results")
    assert (row["cell"], row["n"]) == ("3 seeds", "3")
    assert float(row["test/acc:std"]) > 0
    assert list(out.glob("*.png")) == []


def test_the_first_standard_metric_that_is_there_is_drawn(tmp_path):
    cells = sweep(tmp_path, {"a": [1, 2]}, {})
    for cell in cells:
        directory = finish(tmp_path, cell, 0.5)
        body = records.read_result(directory)
        del body["metrics"]["test/acc"]
        records.write_result(directory, body)
    assert [path.name for path in report(tmp_path).glob("*.png")] == ["test_loss.png"]


@pytest.mark.parametrize(
    ("axes", "title"),
    [
        ({"model.c2": [4, 8], "model.c3": [2], **SEEDS}, "fake: model.c2, 3 seeds"),
        ({"model.dropout": [0, 0.5], "data.select_on": ["val", "test"]}, "fake: model.dropout × data.select_on"),  # noqa: RUF001
        (SEEDS, "fake: 3 seeds"),
        ({}, "fake"),
    ],
)
def test_the_title_says_what_was_swept(tmp_path, axes, title):
    page = (report(finished(tmp_path, axes, {})) / "index.html").read_text()
    assert f"<h1>{html.escape(title)}</h1>" in page


def test_axes_of_one_name_are_told_apart_and_the_blocks_words_win(tmp_path):
    axes = {"optimizer._target_": OPTIMIZERS, "data.size": [1], "model.size": [1, 2]}
    read = results.read(finished(tmp_path, axes, {}))
    spec = defaults.fill(parse({"title": "T", "axes": {"model.size": {"label": "width"}}}), read)
    assert [spec.axis(axis).title for axis in axes] == ["optimizer", "data.size", "width"]
    assert spec.title == "T"


# -- data and choice of the model as axes -----------------------------------------------------------------------------


def test_swept_data_are_one_picture_and_a_column_each(tmp_path):
    for cell in sweep(tmp_path, {"data": ["digits", "mnist"], "data.select_on": ["val", "test"]}, {}):
        finish(tmp_path, cell, accuracy(cell), data=cell.axes["data"], select_on=cell.axes["data.select_on"])
    out = report(tmp_path)
    assert [path.name for path in out.glob("*.png")] == ["test_acc.png"]
    header = (out / "results.csv").read_text().splitlines()[0].split(",")
    assert header[:5] == ["data", "data.select_on", "planned", "n", "state"]
    header = (out / "cells.csv").read_text().splitlines()[0].split(",")
    assert len(set(header)) == len(header)
    assert rows(out, "cells")[3]["data"] == rows(out, "cells")[3]["data.name"] == "mnist"
    page = (out / "index.html").read_text()
    assert "Some models were chosen on the test set:" in page
    assert "The cells differ in" not in page


def test_data_that_no_axis_explains_are_still_apart(tmp_path):
    for cell in sweep(tmp_path, {"data": ["digits", "mnist"], "a": [1, 2, 3, 4]}, {}):
        name = "other" if cell.axes["data"] == "mnist" and cell.axes["a"] > 2 else cell.axes["data"]
        finish(tmp_path, cell, accuracy(cell), data=name)
    out = report(tmp_path)
    assert "The cells differ in data: shown apart" in (out / "index.html").read_text()
    names = sorted(path.name for path in out.glob("*.png"))
    assert names == ["test_acc_digits1.png", "test_acc_mnist2.png", "test_acc_other3.png"]


def test_only_a_key_of_the_data_explains_other_data(tmp_path):
    for cell in sweep(tmp_path, {"a": [1, 2, 3, 4], "b": [1, 2]}, {}):
        finish(tmp_path, cell, accuracy(cell), data="digits" if cell.axes["a"] > 2 else "mnist")
    out = report(tmp_path)
    assert "The cells differ in data: shown apart" in (out / "index.html").read_text()
    assert sorted(path.name for path in out.glob("*.png")) == ["test_acc_digits1.png", "test_acc_mnist2.png"]


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_of_every_kind_are_drawn(tmp_path):
    sweeps = [
        {"model.c2": [4, 8, 16], "model.c3": [4, 8]},
        {"optimizer.lr": [0.0001, 0.001, 0.01], "optimizer._target_": OPTIMIZERS},
        {"optimizer.lr": [0.0001, 0.001, 0.01]},
        {"augment": ["crop28", "a_very_long_name_that_does_not_fit_anywhere_" * 2]},
        {"model.c2": [4, 8], "model.c3": [4, 8], "model.bn": [True, False]},
    ]
    for place, axes in enumerate(sweeps):
        pictures, problems = drawn(tmp_path / str(place), {**axes, **SEEDS})
        assert (len(pictures), problems) == (1, [])
        assert pictures[0].png.startswith(b"\x89PNG")


def panel_of(root, figure):
    read = results.read(root)
    spec = defaults.fill(parse({"figures": [figure]}), read)
    return panels.panels(spec.figures[0], spec, read)[0]


HEAT = {"kind": "heatmap", "x": "a", "y": "b", "metric": "test/acc"}


def test_every_map_of_a_figure_has_the_same_colours_and_its_own_numbers(tmp_path):
    axes = {"a": [1, 2], "b": [1, 2, 3], "c": [1, 2], "d": ["x", "y"]}
    root = finished(tmp_path, axes, {})
    pictures = panel_of(root, {**HEAT, "by": "c"})
    values = {tuple(cell.axes.values()): accuracy(cell) for cell in sweep(root, axes, {})}
    assert {panel.limits for panel in pictures} == {(min(values.values()), max(values.values()))}
    for panel, d in zip(pictures, "xy", strict=True):
        groups = heatmap.groups(panel)
        assert list(groups) == ["c = 1", "c = 2"]
        for c, points in zip((1, 2), groups.values(), strict=True):
            expected = [[values[a, b, c, d] for a in (1, 2)] for b in (1, 2, 3)]
            assert panel.grid(points)[0].tolist() == expected


def test_a_map_without_any_value_is_all_holes(tmp_path):
    for cell in sweep(tmp_path, {"a": [1, 2], "b": [1, 2], "c": ["x", "y"], **SEEDS}, {}):
        if cell.axes["c"] == "x":
            finish(tmp_path, cell, accuracy(cell))
    read = results.read(tmp_path)
    (picture,), problems = drawing.draw_all(defaults.fill(parse({}), read), read)
    assert (picture.note, problems) == ("Hatched fields have no value: M missing.", [])


def test_a_map_says_means_and_sample_deviations(tmp_path):
    cells = sweep(tmp_path, {"a": [1, 2], "b": [1, 2], **SEEDS}, {})
    for cell in cells:
        if cell.axes != {"a": 2, "b": 2, "seed": 0}:
            finish(tmp_path, cell, 0.5 + 0.1 * cell.axes["a"] + 0.02 * cell.axes["seed"])
    (panel,) = panel_of(tmp_path, HEAT)
    texts, deviations = heatmap.texts(panel, panel.points, (5.0, 3.0))
    # of .60, .62, .64 the deviation is .02 (ddof=1); of .72, .74 it is .02 / sqrt 2
    assert (texts, deviations) == ([[".620\n± .020", ".720\n± .020"], [".620\n± .020", ".730*\n± .014"]], True)
    assert heatmap.texts(panel, panel.points, (0.9, 0.6)) == ([[".620", ".720"], [".620", ".730*"]], False)


def test_deviations_have_the_decimals_of_their_means():
    assert compact(np.array([[0.004, math.nan]]), np.array([[25.13, 1.0]])) == [[".0", ""]]


def test_the_default_report_has_the_same_bytes_twice(tmp_path):
    axes = {"a": [1, 2], "b": ["x", "y"], "c": [0.5, 0.25], **SEEDS}
    one, two = (contents(report(finished(tmp_path / name / "fake", axes, {}))) for name in "xy")
    assert one == two
