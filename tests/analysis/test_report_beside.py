"""Surfaces of two sweeps side by side: which belong together, the numbers, the sentence, and what is flagged."""

import dataclasses
import math
import re
import statistics

import numpy as np
import pytest
from report_fakes import BLOCK, body, finish, sweep

from capsexp import records
from capsexp.analysis import beside, results
from capsexp.analysis.cells import Protocol
from capsexp.analysis.figures import side_by_side as maps
from capsexp.analysis.figures.side_by_side import Along, Side, draw_beside, sentence
from capsexp.analysis.figures.style import Caption
from capsexp.analysis.spec import parse
from capsexp.report import main

SURFACE = {"kind": "surface", "name": "fig", "title": "Figure 8", "x": "a", "y": "b", "metric": "test/acc"}
GRID = {"a": [3, 1, 2], "b": [1, 2]}
NAMES = ("one", "two")


def written(root, axes, value, name, hole=None, figures=(SURFACE,), **changes):
    """A sweep called ``name``; ``value`` gives a cell's accuracy by its axes."""
    cells = sweep(root, axes, {**BLOCK, "title": f"The {name} one", "figures": [*figures]})
    records.write_sweep(root, dataclasses.replace(records.read_sweep(root), name=name))
    for cell in cells:
        if cell.axes != hole:
            records.write_result(root / cell.name, body(cell, value(**cell.axes), **changes))
    return root


def found(mine, theirs, monkeypatch=None):
    """What stands beside; with a ``monkeypatch`` what would be drawn, too."""
    drawn = []
    if monkeypatch:
        monkeypatch.setattr(beside, "draw_beside", lambda *given, **rest: drawn.append((*given, rest)))
    read = results.read(mine)
    return beside.beside(parse(read.sweep.report), read, results.read(theirs)), drawn


def plain(a, b, seed=0):
    return a + 10 * b + 0.25 * seed


# -- which numbers ----------------------------------------------------------------------------------------------------


def test_both_maps_hold_the_means_of_the_common_places(tmp_path, monkeypatch):
    written(tmp_path / "x", {**GRID, "seed": [0, 1]}, plain, "one")
    axes = {"a": [5, 3, 2.0], "b": [2, 1, 7]}
    written(tmp_path / "y", axes, lambda a, b: 2 * plain(a, b), "two", hole={"a": 3, "b": 1})
    made, drawn = found(tmp_path / "x", tmp_path / "y", monkeypatch)
    ((left, right, words, x, y, rest),) = drawn
    assert (left.name, right.name, x.values, y.values) == ("one", "two", [2, 3], [1, 2])
    assert left.values.tolist() == [[plain(a, b) + 0.125 for a in (2, 3)] for b in (1, 2)]
    np.testing.assert_array_equal(right.values, [[24, math.nan], [44, 46]])
    assert rest == {"value_label": "test accuracy (share)", "digits": 4}
    assert (words.name, words.title) == ("fig_beside", "Figure 8, beside two")
    assert words.parts[1:] == (
        "two PARTIAL: 8 of 9 cells done (1 missing)",
        "one: data digits, model chosen on val, n = 2",
        "two: data digits, model chosen on val, n = 1",
    )
    assert words.note == "Not shown, since the other sweep has no such row or column: 2 of one, 5 of two."
    assert (made.name, made.title, made.flags) == ("two", "The two one", [])


def test_pictures_for_the_values_of_other_axes_are_paired_by_them(tmp_path, monkeypatch):
    for folder, kinds in (("x", ["p", "q", "r"]), ("y", ["q", "s", "p"])):
        written(tmp_path / folder, {**GRID, "kind": kinds}, lambda a, b, kind: a * b * ord(kind), folder)
    made, drawn = found(tmp_path / "x", tmp_path / "y", monkeypatch)
    assert [words.name for _, _, words, *_ in drawn] == ["fig_p_beside", "fig_q_beside"]
    assert [words.parts[2] for _, _, words, *_ in drawn] == ["kind = p", "kind = q"]
    assert all((left.values == right.values).all() for left, right, *_ in drawn)
    assert drawn[0][0].values[0, 0] == ord("p")
    assert made.flags == ["fig, kind = r: not in the other sweep (y)"]


def test_a_metric_that_the_other_lacks_and_grids_that_do_not_meet_are_said(tmp_path, monkeypatch):
    loss = {**SURFACE, "name": "loss", "metric": "extra"}
    elsewhere = {**SURFACE, "name": "far", "where": {"a": [1]}}
    written(tmp_path / "x", GRID, plain, "one", figures=[loss, elsewhere], metrics={"extra": 1.0})
    written(tmp_path / "y", GRID, plain, "two", hole={"a": 1, "b": 1})
    made, drawn = found(tmp_path / "x", tmp_path / "y", monkeypatch)
    assert made.flags == ["loss: no cell has extra yet (two)"]
    assert [(words.name, left.values.tolist()) for left, _, words, *_ in drawn] == [("far_beside", [[11], [21]])]
    written(tmp_path / "z", {"a": [8, 9], "b": [1, 2]}, plain, "two")
    written(tmp_path / "x", GRID, plain, "one")
    assert found(tmp_path / "x", tmp_path / "z")[0].flags == ["fig: no point that both sweeps have"]


def test_sweeps_of_one_name_are_told_apart(tmp_path, monkeypatch):
    written(tmp_path, GRID, plain, "one")
    made, drawn = found(tmp_path, tmp_path, monkeypatch)
    assert (drawn[0][0].name, drawn[0][1].name, made.name) == ("one (here)", "one (there)", "one (there)")


def test_what_keeps_two_sweeps_from_being_compared():
    digits = Protocol("digits", "0f", "seeded", select_on="val")
    chosen = dataclasses.replace(digits, select_on="test")
    other = dataclasses.replace(digits, data="dhcd", sha256="aa", generated=True)
    assert beside.protocol_differences([digits], [digits], NAMES) == []
    assert beside.protocol_differences([digits], [digits, chosen], NAMES) == [
        "Not the same choice of the model: val in one, test / val in two."
    ]
    assert beside.protocol_differences([chosen], [other], NAMES) == [
        "Not the same data set: digits in one, dhcd in two.",
        "Not the same choice of the model: test in one, val in two.",
    ]
    part = dataclasses.replace(digits, test_split="published")
    said = "Not the same test split: seeded in one, published in two."
    assert beside.protocol_differences([digits], [part], NAMES) == [said]


# -- the sentence and the picture -------------------------------------------------------------------------------------

X, Y = Along([2, 4, 8], "c1", "c1 (kernels)"), Along(["p", "q"], "kind", "kind")


def tables():
    random = np.random.default_rng(1)
    left, right = random.normal(size=(2, 3)), random.normal(size=(2, 3))
    left[0, 1] = right[1, 2] = math.nan
    right[0, 0] = left[0, 0]
    return left, right


def test_the_sentence_against_loops():
    left, right = tables()
    pairs = [
        (left[j, i] - right[j, i], f"c1 = {x}, kind = {y}")
        for j, y in enumerate(Y.values)
        for i, x in enumerate(X.values)
        if math.isfinite(left[j, i]) and math.isfinite(right[j, i])
    ]
    values = [difference for difference, _ in pairs]
    (least, where), (most, there) = min(pairs), max(pairs)
    greater = sum(value > 0 for value in values)
    assert sentence(Side("one", left), Side("two", right), X, Y, 3) == (
        f"one is greater than two in {greater} of 4 common points, equal in 1; mean difference "
        f"{statistics.fmean(values):+.3f} ± {statistics.stdev(values):.3f} "
        "(sample standard deviation over the points); "
        f"least difference {least:+.3f} at {where}; greatest {most:+.3f} at {there}."
    )


def test_one_common_cell_has_no_deviation():
    one, other = np.full((2, 3), math.nan), np.ones((2, 3))
    one[1, 0] = 3.0
    assert sentence(Side("one", one), Side("two", other), X, Y) == (
        "one is greater than two in 1 of 1 common points; mean difference +2.0000; "
        "least difference +2.0000 at c1 = 2, kind = q; greatest +2.0000 at c1 = 2, kind = q."
    )


def test_the_first_two_maps_share_their_scale_and_the_third_changes_at_zero(monkeypatch):
    left, right = tables()
    monkeypatch.setattr(maps, "save", lambda canvas, words, note="": (canvas, note))
    canvas, note = draw_beside(Side("one", left), Side("two", right), Caption("n", "T"), X, Y, value_label="accuracy")
    assert note == sentence(Side("one", left), Side("two", right), X, Y) + " Hatched fields have no value."
    meshes = [axes.collections[0] for axes in canvas.axes if axes.get_title()]
    assert [axes.get_title() for axes in canvas.axes if axes.get_title()] == ["one", "two", "one \N{MINUS SIGN} two"]
    for mesh, values in zip(meshes, (left, right, left - right), strict=True):
        np.testing.assert_array_equal(np.ma.filled(mesh.get_array(), math.nan).reshape(2, 3), values)
    ends = [(mesh.norm.vmin, mesh.norm.vmax) for mesh in meshes]
    assert ends[0] == ends[1] == (np.nanmin([left, right]), np.nanmax([left, right]))
    most = np.nanmax(np.abs(left - right))
    assert ends[2] == (-most, most)
    assert meshes[2].cmap.name == "RdBu_r"
    assert [len(axes.patches) for axes in canvas.axes if axes.get_title()] == [1, 1, 2]
    assert [axes.get_ylabel() for axes in canvas.axes] == ["kind", "", "accuracy", "", "difference"]


def test_fields_of_the_difference_have_the_minus_sign_of_its_scale(monkeypatch):
    monkeypatch.setattr(maps, "save", lambda canvas, words, note="": canvas)
    left, right = np.array([[-0.5, 0.25, 1.0]] * 2), np.array([[0.25, 0.25, math.nan]] * 2)
    canvas = draw_beside(Side("one", left), Side("two", right), Caption("n", "T"), X, Y)
    fields = [[text.get_text() for text in axes.texts][:3] for axes in canvas.axes if axes.get_title()]
    assert fields == [["-.50", ".25", "1.00"], [".25", ".25", ""], ["\N{MINUS SIGN}.750", ".000", ""]]
    canvas.draw_without_rendering()
    assert "\N{MINUS SIGN}" in canvas.axes[-1].get_yticklabels()[0].get_text()


def test_equal_tables_are_drawn_and_empty_ones_refused():
    same = Side("one", np.ones((2, 3)))
    first, second = (draw_beside(same, same, Caption("n", "T"), X, Y) for _ in range(2))
    assert first == second
    assert "in 0 of 6 common points, equal in 6; mean difference 0.0000 ± 0.0000" in first.note
    for wrong in (np.full((2, 3), math.nan), np.ones((3, 2))):
        with pytest.raises(ValueError, match="no common value in 2 x 3 fields"):
            draw_beside(Side("one", wrong), Side("two", wrong), Caption("n", "T"), X, Y)


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_page_shows_both_sweeps_and_what_limits_the_comparison(tmp_path, capsys):
    mine = written(tmp_path / "x", GRID, plain, "one")
    theirs = written(tmp_path / "y", GRID, plain, "two", hole={"a": 1, "b": 1}, data="<dhcd>", select_on="test")
    assert main([str(mine), "--beside", str(theirs)]) == 0
    assert "figures: 2" in capsys.readouterr().out
    text = (mine / "report" / "index.html").read_text()
    part = re.sub('src="[^"]*"', "", text[text.index("<h2>Beside two") :].partition("</section>")[0])
    assert "<p>The two one</p>" in part
    assert "PARTIAL: 5 of 6 cells done" in part
    assert "<li>Not the same data set: digits in one, &lt;dhcd&gt; in two.</li>" in part
    assert "<li>Not the same choice of the model: val in one, test in two.</li>" in part
    assert "one is greater than two in 0 of 5 common points, equal in 5;" in part
    assert 'href="fig_beside.png"' in part
    assert (mine / "report" / "fig_beside.pdf").read_bytes().startswith(b"%PDF")
    assert "python -m capsexp.report multirun/one --beside multirun/two</pre>" in text


def test_without_another_sweep_the_page_has_no_such_part(tmp_path):
    assert main([str(written(tmp_path, GRID, plain, "one"))]) == 0
    said = (tmp_path / "report" / "index.html").read_text()
    assert 'id="beside"' not in said
    assert "--beside" not in said


def test_folders_with_nothing_in_common_are_one_line(tmp_path, capsys):
    mine = written(tmp_path / "x", GRID, plain, "one")
    for folder, axes in (("y", {"a": [1, 2], "c": [1, 2]}), ("z", {})):
        sweep(tmp_path / folder, axes)
        assert main([str(mine), "--beside", str(tmp_path / folder)]) == 2
        said = f"no surface of one can stand beside fake, which swept {', '.join(axes) or 'nothing'}"
        assert capsys.readouterr().err == f"capsexp.report: error: {said}\n"
    assert main([str(mine), "--beside", str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert not (mine / "report").exists()
    finish(mine, sweep(mine, GRID, {**BLOCK, "figures": []})[0], 0.5)
    written(tmp_path / "w", GRID, plain, "two")
    assert main([str(mine), "--beside", str(tmp_path / "w")]) == 2
    said = "the report block of fake asks for no surface, and --beside shows surfaces"
    assert capsys.readouterr().err == f"capsexp.report: error: {said}\n"


def test_a_sweep_does_not_stand_beside_itself(tmp_path, capsys, monkeypatch):
    mine = written(tmp_path / "x", GRID, plain, "one")
    (tmp_path / "link").symlink_to(mine)
    monkeypatch.chdir(tmp_path)
    for again in (mine, "x", "x/../x", "link"):
        assert main([str(mine), "--beside", str(again)]) == 2
        said = f"{again} is this sweep's own folder; give another sweep's to stand beside it"
        assert capsys.readouterr().err == f"capsexp.report: error: {said}\n"
    assert not (mine / "report").exists()
