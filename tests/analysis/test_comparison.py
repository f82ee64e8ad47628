"""The comparison of several sweeps by the command: its tables, its page, and what is refused in one line."""

import html
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
from comparison_fakes import plain, written
from report_fakes import contents, rows

from capsexp import records
from capsexp.analysis.comparison import figures as comparison_figures
from capsexp.analysis.comparison import page as comparison
from capsexp.records.identity import FORMER_TARGETS
from capsexp.report import main

GRID = {"model.c2": [2, 3], "seed": [0, 1]}
BLOCK = {"columns": ["test/acc", "params"], "figures": []}


def lower(axes):
    return plain(axes) - 0.125


def compared(*roots, words=(), out="comparison"):
    """The folder of the comparison."""
    assert main([*map(str, roots), *words]) == 0
    return roots[0] / out


def page_of(folder):
    return (folder / "index.html").read_text()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two sweeps that differ in a key, with the folder of their comparison."""
    root = tmp_path_factory.mktemp("two")
    one = written(root / "one", GRID, plain, base={"copy": {"optimizer": {"lr": 0.1}}}, block=BLOCK)
    base = {"optimizer": {"lr": 0.3}, "copy": {"optimizer": {"lr": 0.3}}, "threads": 4}
    other = written(root / "two", GRID, lower, base=base, block=BLOCK, environment={"torch": "2.14.0"})
    return one, other, compared(one, other)


# -- the tables -------------------------------------------------------------------------------------------------------


def test_the_leaderboard_has_every_point_in_order(two):
    found = rows(two[2], "leaderboard")
    assert [(row["rank"], row["sweep"], row["model.c2"]) for row in found] == [
        ("1", "one", "3"),
        ("2", "one", "2"),
        ("3", "two", "3"),
        ("4", "two", "2"),
    ]
    assert float(found[0]["test/acc"]) == plain({"model.c2": 3}) + 0.5 / 1024
    assert [found[0][key] for key in ("test/acc:n", "planned", "params", "data", "select_on")] == [
        *("2", "2", "12345", "digits", "val")
    ]
    markdown = (two[2] / "leaderboard.md").read_text()
    assert "| 1 | one | 3 | 0.5474 ± 0.0007 | 2 | 12,345 | digits | val |" in markdown
    assert r"\label{tab:leaderboard}" in (two[2] / "leaderboard.tex").read_text()


def test_the_differences_are_those_of_the_configs_without_copies_and_volatile_keys(two):
    assert rows(two[2], "differences") == [{"key": "optimizer.lr", "one": "0.1", "two": "0.3", "swept": ""}]
    assert rows(two[2], "environments") == [{"fact": "torch", "one": "2.13.0+cpu", "two": "2.14.0", "swept": ""}]


def test_the_paired_differences_stand_in_the_tables_and_on_the_page(two):
    (accuracy, params) = rows(two[2], "paired")
    assert [accuracy[key] for key in ("metric", "first", "second", "pairs", "points", "seeds", "over")] == [
        *("test/acc", "one", "two", "4", "2", "2", "seeds")
    ]
    assert [float(accuracy[key]) for key in ("mean", "std", "low", "high")] == [0.125, 0.0, 0.125, 0.125]
    assert [params[key] for key in ("greater", "equal", "less")] == ["0", "4", "0"]
    points = [row for row in rows(two[2], "paired_points") if row["metric"] == "test/acc"]
    assert [(row["model.c2"], row["seeds"], row["mean"]) for row in points] == [
        ("2", "2", "0.125"),
        ("3", "2", "0.125"),
    ]
    assert '<td class="num">+0.1250 to +0.1250</td>' in page_of(two[2])


def test_a_class_that_was_renamed_is_no_difference(tmp_path):
    names = next(iter(FORMER_TARGETS.items()))
    bases = [{"guard": {"_target_": name}} for name in names]
    roots = [written(tmp_path / name, GRID, plain, base=base) for name, base in zip("ab", bases, strict=True)]
    folder = compared(*roots)
    assert not (folder / "differences.csv").exists()
    assert "The configs of all sweeps have the same values." in page_of(folder)


def test_a_metric_is_ranked_by_its_name_or_as_is_asked(tmp_path):
    losses = {cell: {"test/loss": value} for cell, value in (("one", 0.5), ("two", 0.25))}
    roots = [written(tmp_path / name, {}, plain, metrics=losses[name], block={"figures": []}) for name in losses]
    order = {
        ("--metric", "test/loss"): ["two", "one"],
        ("--metric", "test/loss", "--best", "max"): ["one", "two"],
        ("--metric", "training.epochs"): ["one", "two"],
    }
    for words, expected in order.items():
        folder = compared(*roots, words=words)
        assert [row["sweep"] for row in rows(folder, "leaderboard")] == expected
        assert shlex.join(words) in page_of(folder)
    assert [row["rank"] for row in rows(folder, "leaderboard")] == ["1", "1"], "equal means share a rank"
    assert rows(folder, "paired")[0]["metric"] == "training.epochs", "what ranks is compared, too"
    assert (folder / "leaderboard.md").read_text().startswith("Points of one, two by epochs, the largest first;")


def test_ranks_begin_again_for_each_protocol_and_nothing_is_paired_between_them(tmp_path):
    one = written(tmp_path / "one", GRID, plain, block=BLOCK)
    other = written(tmp_path / "two", GRID, lower, block=BLOCK, data="<dhcd>", select_on="test")
    folder = compared(one, other)
    found = [(row["rank"], row["sweep"], row["data"]) for row in rows(folder, "leaderboard")]
    assert found == [("1", "two", "<dhcd>"), ("2", "two", "<dhcd>"), ("1", "one", "digits"), ("2", "one", "digits")]
    said = "Not the same data set: digits in one, <dhcd> in two."
    chosen = "Not the same choice of the model: val in one, test in two."
    (row,) = rows(folder, "paired")
    assert (row["metric"], row["pairs"], row["mean"]) == ("", "0", "")
    assert row["remarks"] == "not the same data set; not the same choice of the model"
    assert not (folder / "paired_points.csv").exists(), "no table without rows"
    assert f"<li>{html.escape(said)}</li><li>{chosen}</li>" in page_of(folder)


def test_an_axis_that_one_sweep_fixed_is_filled_from_its_configs(tmp_path):
    one = written(tmp_path / "one", {"model.c2": [2, 4], "seed": [0, 1]}, plain, block=BLOCK)
    axes = {"optimizer.lr": [0.1, 0.2], "seed": [0, 1]}
    other = written(tmp_path / "two", axes, lambda axes: lower({"model.c2": 4, **axes}), block=BLOCK)
    folder = compared(one, other)
    (row,) = [row for row in rows(folder, "paired") if row["metric"] == "test/acc"]
    assert [row[key] for key in ("pairs", "points", "seeds", "mean")] == ["2", "1", "2", "0.125"]
    assert (row["alone_first"], row["alone_second"]) == ("2", "2")
    found = rows(folder, "paired_points")[0]
    assert (found["model.c2"], found["optimizer.lr"]) == ("4", "0.1")
    assert {(r["sweep"], r["model.c2"], r["optimizer.lr"]) for r in rows(folder, "leaderboard")} == {
        *(("one", "2", "0.1"), ("one", "4", "0.1"), ("two", "4", "0.1"), ("two", "4", "0.2"))
    }


def test_missing_failed_stale_and_nan_cells_are_in_no_number(tmp_path):
    def value(axes):
        return None if axes == {"model.c2": 2, "seed": 0} else plain(axes)

    one = written(tmp_path / "one", GRID, value, block=BLOCK)
    other = written(tmp_path / "two", GRID, lower, block=BLOCK, missing=lambda axes: axes == {"model.c2": 3, "seed": 1})
    folder = compared(one, other)
    (row,) = [row for row in rows(folder, "paired") if row["metric"] == "test/acc"]
    assert [row[key] for key in ("pairs", "points", "seeds", "mean")] == ["2", "2", "2", "0.125"]
    assert row["remarks"] == "one seed: over points; 1 of 2 pairs left out of the mean, so that it has one seed"
    page = page_of(folder)
    assert "<li>two PARTIAL: 3 of 4 cells done (1 missing).</li>" in page
    assert '<p class="state partial">PARTIAL: 7 of 8 cells done (1 missing)</p>' in page
    found = rows(folder, "leaderboard")
    counts = {(row["sweep"], row["model.c2"]): (row["test/acc:n"], row["planned"]) for row in found}
    assert (counts["one", "2"], counts["two", "3"], counts["two", "2"]) == (("1", "2"), ("1", "2"), ("2", "2"))
    stale = written(tmp_path / "old", GRID, plain, block=BLOCK, numerics=0)
    folder = compared(one, stale)
    (row,) = rows(folder, "paired")
    assert row["remarks"] == "no value in old"
    assert "<li>old PARTIAL: 0 of 4 cells done (4 stale).</li>" in page_of(folder)
    assert {"fact": "NUMERICS_VERSION", "one": str(records.NUMERICS_VERSION), "old": "0", "swept": ""} in rows(
        folder, "environments"
    )


def test_the_same_cells_in_both_are_said_in_place_of_numbers(tmp_path):
    one = written(tmp_path / "one", GRID, plain, block=BLOCK, ids="x")
    copied = written(tmp_path / "two", GRID, plain, block=BLOCK, ids="x")
    folder = compared(one, copied)
    (row,) = rows(folder, "paired")
    assert (row["metric"], row["pairs"], row["mean"], row["remarks"]) == ("", "0", "", "the same cells")
    assert not (folder / "paired_points.csv").exists(), "no table without rows"
    assert "the same cells" in page_of(folder)


def test_the_same_cells_among_others_are_left_out(tmp_path):
    one = written(tmp_path / "one", GRID, plain, block=BLOCK, ids="x")
    other = written(tmp_path / "two", GRID, plain, block=BLOCK, ids="x", missing=lambda axes: axes["model.c2"] == 3)
    planned = records.read_sweep(other)
    third = written(tmp_path / "three", {"model.c2": [3], "seed": [0, 1]}, lower)
    added = records.read_sweep(third)
    assert planned is not None
    assert added is not None
    records.write_sweep(other, replace(planned, cells=[*planned.cells[:2], *added.cells]))
    for cell in added.cells:
        (third / cell.name).rename(other / cell.name)
    row, _ = rows(compared(one, other), "paired")
    assert [row[key] for key in ("pairs", "mean", "same", "alone_first", "alone_second")] == [
        "2",
        "0.125",
        "2",
        "0",
        "0",
    ]
    assert row["remarks"] == "the same cells in both: 2"


def test_one_common_seed_is_said_in_the_row(tmp_path):
    one = written(tmp_path / "one", {"model.c2": [2, 3], "seed": [0, 1]}, plain, block=BLOCK)
    other = written(tmp_path / "two", {"model.c2": [2, 3]}, lower, base={"seed": 1}, block=BLOCK)
    (row, _) = rows(compared(one, other), "paired")
    assert (row["seeds"], row["over"], row["remarks"]) == ("1", "points", "one seed: over points")


def test_of_many_sweeps_each_is_compared_with_the_first(tmp_path):
    roots = [written(tmp_path / f"s{place}", {"seed": [0]}, plain, block=BLOCK) for place in range(5)]
    found = rows(compared(*roots), "paired")
    assert {(row["first"], row["second"]) for row in found} == {("s0", f"s{place}") for place in range(1, 5)}
    found = rows(compared(*roots[:4]), "paired")
    assert len({(row["first"], row["second"]) for row in found}) == 6


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_needs_no_other_file_and_its_links_lead_somewhere(two):
    page = page_of(two[2])
    links = re.findall(r'<li><a href="#(\w+)">', page)
    assert (
        links
        == re.findall(r'<section id="(\w+)">', page)
        == [*("sweeps", "leaderboard", "differences", "paired", "reproduce")]
    )
    files = [link for link in re.findall(r'href="([^"#]+)"', page)]
    assert all((two[2] / link).exists() for link in files)
    assert {"leaderboard.csv", "paired_points.tex", "environments.md"} <= set(files)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg\b)|@import|url\(", page), "it asks no network"
    assert page.count("<table data-sortable>") == 3
    commands = html.unescape(page[page.index("<pre>") + 5 : page.index("</pre>")]).splitlines()
    assert commands[0] == "python -m capsexp model.c2=2,3 seed=0,1 -m"
    assert shlex.split(commands[-1]) == ["python", "-m", "capsexp.report", *map(str, two[:2])]


def test_a_long_table_of_points_stands_in_its_files_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "MOST_ROWS", 3)
    roots = [written(tmp_path / name, GRID, value, block=BLOCK) for name, value in (("one", plain), ("two", lower))]
    folder = compared(*roots)
    assert len(rows(folder, "paired_points")) == 4
    page = page_of(folder)
    assert "4 rows, too many for this page" in page
    assert 'href="paired_points.csv"' in page
    assert page.count("<table data-sortable>") == 2


def test_the_same_results_give_the_same_bytes(two):
    before = contents(two[2])
    assert contents(compared(*two[:2])) == before


def test_a_folder_of_sweeps_is_compared_and_its_comparison_is_no_sweep(tmp_path, capsys):
    for name in ("b", "a"):
        written(tmp_path / name, GRID, plain, block=BLOCK)
    folder = compared(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "Comparison of a, b: complete: 8 of 8 cells done; tables: 3, figures: 0",
        str(tmp_path / "comparison" / "index.html"),
    ]
    assert records.sweeps_below(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert {row["sweep"] for row in rows(compared(tmp_path), "leaderboard")} == {"a", "b"}
    compared(tmp_path, words=("--out", str(folder / "else")), out="comparison/else")
    main([str(tmp_path / "a")])
    assert 'href="../a/report/index.html"' in page_of(compared(tmp_path))


def test_a_damaged_sweep_below_the_folder_hides_no_other(tmp_path, capsys):
    for name in ("b", "a", "c"):
        written(tmp_path / name, GRID, plain, block=BLOCK)
    (tmp_path / "b" / records.SWEEP).write_text("{}")
    page = page_of(compared(tmp_path))
    assert capsys.readouterr().out.startswith("Comparison of a, c: complete")
    assert "b is left out: " in page
    (tmp_path / "c" / records.SWEEP).write_text("{}")
    assert main([str(tmp_path)]) == 2
    assert "DIR must have several sweeps below it" in capsys.readouterr().err


def test_sweeps_of_one_name_are_told_apart(tmp_path):
    roots = [written(tmp_path / place / "s", GRID, plain, block=BLOCK) for place in "xy"]
    third = written(tmp_path / "z", GRID, lower, name="s (1)", block=BLOCK)
    found = rows(compared(*roots, third), "leaderboard")
    assert {row["sweep"] for row in found} == {"s (2)", "s (3)", "s (1)"}


# -- what is refused --------------------------------------------------------------------------------------------------


def test_whatever_is_wrong_is_one_line(two, tmp_path, capsys):
    one, other, _ = map(str, two)
    (tmp_path / "alone").mkdir()
    single = written(tmp_path / "alone" / "single", GRID, plain)
    known = "distance/conv1/min, test/acc, test/loss, or a number by its dotted key, such as params"
    for words, said in [
        ([one, other, "--beside", other], f"--beside must be given with the folder of one sweep alone, got {other!r}"),
        ([one, one], f"DIR must name each sweep once, got {one!r}, the folder of {one!r}"),
        ([one, str(tmp_path / "none")], f"{tmp_path / 'none'} is not a folder"),
        ([one, str(tmp_path / "alone")], f"{tmp_path / 'alone'} has no plan (sweep.json): no sweep was launched in it"),
        (
            [str(tmp_path / "alone")],
            f"DIR must have several sweeps below it, or be one, got a folder with {single} alone",
        ),
        ([one, other, "--metric", "x"], f"--metric must be a metric of the finished cells ({known}), got 'x'"),
        ([one, other, "--metric", "clocks.total_s"], "--metric must be no clock, got 'clocks.total_s'"),
        ([one, other, "--best", "x"], "--best must be one of max, min, got 'x'"),
        ([one, "--metric", "x"], "--metric must be given with several sweeps, which it ranks, got 'x'"),
        ([one, "--best", "min"], "--best must be given with several sweeps, which it ranks, got 'min'"),
    ]:
        assert main(words) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", f"capsexp.report: error: {said}\n")


def test_help_and_refusals_load_no_figures(two):
    code = (
        "import sys; from capsexp.report import main\n"
        f"assert main([{str(two[0])!r}, {str(two[1])!r}, '--beside', 'x']) == 2\n"
        "heavy = {'matplotlib', 'numpy', 'scipy', 'pandas'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)


# -- figures ----------------------------------------------------------------------------------------------------------


def drawn(monkeypatch):
    """What would be drawn, in place of the drawing."""
    made = []
    monkeypatch.setattr(comparison_figures, "draw", lambda panel: made.append(panel) or (None, ""))
    return made


def test_a_line_has_a_line_for_each_sweep_and_other_kinds_a_picture_each(tmp_path, monkeypatch):
    figures = [
        {"kind": "line", "name": "fig", "x": "model.c2", "metric": "test/acc"},
        {"kind": "heatmap", "name": "map", "title": "Map", "x": "model.c2", "y": "model.c3", "metric": "test/acc"},
        {"kind": "kernels", "name": "best", "layer": "conv1", "metric": "test/acc", "pick": "max"},
        {"kind": "line", "name": "lost", "x": "model.c2", "metric": "none"},
    ]
    axes = {"model.c2": [2, 3], "model.c3": [8, 9]}
    one = written(tmp_path / "one", axes, plain, block={**BLOCK, "figures": figures})
    other = written(tmp_path / "two", {"model.c2": [2, 3]}, lower, missing=lambda axes: axes["model.c2"] == 3)
    made = drawn(monkeypatch)
    page = page_of(compared(one, other))
    assert [(panel.figure.kind, panel.figure.title, panel.results.partial) for panel in made] == [
        ("line", "fig", "PARTIAL: 5 of 6 cells done (1 missing)"),
        ("line", "fig: one", ""),
        ("heatmap", "Map: one", ""),
        ("heatmap", "Map: two", "PARTIAL: 1 of 2 cells done (1 missing)"),
        ("kernels", "best: one", ""),
        ("kernels", "best: two", "PARTIAL: 1 of 2 cells done (1 missing)"),
    ]
    line, _, heat, *_ = made
    assert (line.figure.by, line.values("sweep"), line.others) == ("sweep", ["one", "two"], ("c3 = 8",))
    assert heat.grid()[0].tolist() == [[plain({"model.c2": x, "model.c3": y}) for x in (2, 3)] for y in (8, 9)]
    assert "<li>lost: no cell has none yet</li>" in page


def test_missing_cells_stand_in_the_picture_of_their_own_sweeps_data(tmp_path, monkeypatch):
    figures = [{"kind": "line", "name": "fig", "x": "model.c2", "metric": "test/acc"}]
    one = written(tmp_path / "one", GRID, plain, block={**BLOCK, "figures": figures})
    other = written(tmp_path / "two", GRID, lower, data="dhcd", missing=lambda axes: axes["model.c2"] == 3)
    made = drawn(monkeypatch)
    page = page_of(compared(one, other))
    found = [[(point.axes["sweep"], point.state) for point in panel.points] for panel in made]
    assert found == [[("one", "done"), ("one", "done")], [("two", "done"), ("two", "2 missing")]]
    assert [panel.figure.title for panel in made] == ["fig: one", "fig: two"]
    assert "shown apart and never averaged together" in page


MAP = {"kind": "heatmap", "name": "map", "x": "model.c2", "y": "model.c3", "metric": "test/acc"}
FIELDS = {"model.c2": [2, 3], "model.c3": [8, 9]}


def test_pictures_follow_the_sweeps_and_share_a_scale_where_the_data_are_the_same(tmp_path, monkeypatch):
    one = written(tmp_path / "one", FIELDS, plain, block={**BLOCK, "figures": [MAP]}, data="mnist")
    two = written(tmp_path / "two", FIELDS, lower, data="dhcd")
    three = written(tmp_path / "three", FIELDS, lambda axes: plain(axes) + 0.25, data="mnist")
    made = drawn(monkeypatch)
    page = page_of(compared(one, two, three))
    assert [panel.figure.title for panel in made] == ["map: one", "map: two", "map: three"]
    low, high = plain({"model.c2": 2, "model.c3": 8}), plain({"model.c2": 3, "model.c3": 9})
    assert [panel.limits for panel in made] == [(low, high + 0.25), (low - 0.125, high - 0.125), (low, high + 0.25)]
    said = "map: the pictures are not all on one scale; those of other data, and lines, have scales of their own"
    assert f"<li>{said}</li>" in page
    page = page_of(compared(one, three))
    assert "on one scale" not in page
    row = written(tmp_path / "row", {"model.c2": [2, 3]}, lower, data="mnist")
    assert f"<li>{said}</li>" in page_of(compared(one, row))


def test_sweeps_without_a_picture_are_named_once_for_each_figure(tmp_path, monkeypatch):
    monkeypatch.setattr("capsexp.analysis.panels.MOST", 2)
    line = {"kind": "line", "name": "fig", "x": "model.c2", "metric": "test/acc"}
    one = written(tmp_path / "one", FIELDS, plain, block={**BLOCK, "figures": [MAP, line]})
    others = [written(tmp_path / f"s{place}", FIELDS, plain) for place in range(3)]
    late = written(tmp_path / "late", FIELDS, plain, missing=lambda _: True)
    made = drawn(monkeypatch)
    page = page_of(compared(one, others[2], *others[:2], late))
    assert [panel.figure.title for panel in made][:2] == ["map: one", "map: s2"]
    assert "<li>map: 2 more pictures are not drawn; narrow it with where</li>" in page
    assert "<li>map: shows nothing of s0, s1, late</li>" in page
    assert "<li>fig: shows nothing of late</li>" in page


def test_the_default_figure_counts_the_maps_that_have_cells(tmp_path, monkeypatch):
    monkeypatch.setattr("capsexp.analysis.defaults.MOST", 3)
    axes = [{**FIELDS, "optimizer.lr": [0.1, 0.2]}, {**FIELDS, "model.c4": [5, 6]}]
    base = {"model": {"c2": 4, "c3": 8, "c4": 5}}
    roots = [written(tmp_path / n, each, plain, block={}, base=base) for n, each in zip("ab", axes, strict=True)]
    made = drawn(monkeypatch)
    page = page_of(compared(*roots))
    assert "would make" not in page, "3 of the 4 combinations of both keys"
    assert made
    monkeypatch.setattr("capsexp.analysis.defaults.MOST", 2)
    assert "4 axes would make 3 heat maps, more than 2" in page_of(compared(*roots))


def test_the_pictures_are_written_and_on_the_page(tmp_path):
    figures = [{"kind": "line", "name": "fig", "x": "model.c2", "metric": "test/acc"}]
    one = written(tmp_path / "one", GRID, plain, block={**BLOCK, "figures": figures})
    folder = compared(one, written(tmp_path / "two", GRID, lower))
    assert (folder / "fig.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "fig.pdf").read_bytes().startswith(b"%PDF")
    assert page_of(folder).count('src="data:image/png;base64,') == 1
    assert comparison_figures.OWN_SEEDS not in html.unescape(page_of(folder))


def test_what_only_a_former_page_linked_to_is_removed_and_nothing_else(tmp_path):
    figures = [{"kind": "line", "name": "fig", "x": "model.c2", "metric": "test/acc"}]
    one = written(tmp_path / "one", GRID, plain, block={**BLOCK, "figures": figures})
    two = written(tmp_path / "two", GRID, lower, environment={"torch": "2.14.0"})
    folder = compared(one, two)
    before = contents(folder)
    for name in ("mine.csv", "notes.md", "other.png", "fig.svg"):
        (folder / name).write_text("mine")
    (folder / "environments.tex").unlink()
    (folder / "environments.tex").symlink_to(folder / "mine.csv")
    (folder / "fig.pdf").unlink()
    (folder / "fig.pdf").mkdir()
    planned = records.read_sweep(one)
    assert planned is not None
    records.write_sweep(one, replace(planned, report=BLOCK))
    compared(one, written(tmp_path / "three", GRID, lower), words=("--out", str(folder)))
    gone = before.keys() - {path.name for path in folder.iterdir()}
    assert gone == {"fig.png", "environments.csv", "environments.md"}
    kept = ("mine.csv", "notes.md", "other.png", "fig.svg", "environments.tex")
    assert [(folder / name).read_text() for name in kept] == ["mine"] * 5


def test_a_page_of_others_leads_to_no_removal(tmp_path):
    roots = [written(tmp_path / name, GRID, value, block=BLOCK) for name, value in (("one", plain), ("two", lower))]
    out = tmp_path / "site"
    out.mkdir()
    (out / "index.html").write_text('<a href="mine.csv">CSV</a>')
    (out / "mine.csv").write_text("mine")
    compared(*roots, words=("--out", str(out)))
    assert (out / "mine.csv").read_text() == "mine"
    assert main([str(roots[0]), "--out", str(out)]) == 0
    page = (out / "index.html").read_text()
    (out / "index.html").write_text(
        page.replace("</body>", '<a href="../one/x.csv">x</a><a href="old.csv">x</a></body>')
    )
    for file in (roots[0] / "x.csv", out / "old.csv"):
        file.write_text("old")
    assert main([str(roots[0]), "--out", str(out)]) == 0
    assert (roots[0] / "x.csv").exists()
    assert not (out / "old.csv").exists()
    assert (out / "timings.csv").exists()
    assert (out / "comparison.csv").exists(), "written without a link to it"


def test_maps_of_two_sweeps_are_on_the_page(tmp_path):
    axes = {"model.c2": [2, 3], "model.c3": [8, 9]}
    roots = [written(tmp_path / name, axes, value, block=BLOCK) for name, value in (("one", plain), ("two", lower))]
    folder = compared(*roots)
    page = html.unescape(page_of(folder))
    assert 'id="test_acc_beside"' in page
    assert "one is greater than two in 4 of 4 common points; mean difference +0.1250" in page
    assert comparison_figures.OWN_SEEDS in page


def test_two_sweeps_over_two_common_numbers_have_maps_of_each_metric_that_differs(tmp_path, monkeypatch):
    axes = {"model.c2": [2, 3], "model.c3": [8, 9], "kind": ["p", "q"]}
    asked = []
    monkeypatch.setattr(
        comparison_figures.beside,
        "draw_maps",
        lambda figures, spec, sweeps, names: asked.append((figures, sweeps, names)) or ([], ["said"]),
    )
    one = written(tmp_path / "one", axes, plain, block=BLOCK)
    other = written(tmp_path / "two", axes, lower)
    page = page_of(compared(one, other))
    ((figures, sweeps, names),) = asked
    assert [(each.name, each.metric, each.x, each.y) for each in figures] == [
        ("test_acc", "test/acc", "model.c2", "model.c3")
    ]
    assert names == ("one", "two")
    assert [list(each.axes) for each in sweeps] == [["model.c2", "model.c3", "kind"]] * 2
    assert "Equal in all pairs, without a map: parameters." in page
    assert "<li>said</li>" in page


def test_without_a_block_the_default_figure_is_over_the_axes_of_all_sweeps(tmp_path, monkeypatch):
    roots = [written(tmp_path / name, {"seed": [0, 1]}, plain, block={}) for name in ("one", "two")]
    made = drawn(monkeypatch)
    compared(*roots)
    assert [(panel.figure.kind, panel.figure.x) for panel in made] == [("line", "sweep")]
    made.clear()
    third = written(tmp_path / "three", {"model.c2": [2, 4]}, plain, block={})
    compared(*roots, third)
    assert [(panel.figure.kind, panel.figure.x, panel.figure.by) for panel in made] == [("line", "model.c2", "sweep")]
