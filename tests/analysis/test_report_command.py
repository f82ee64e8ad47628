import dataclasses
import html
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser

from report_fakes import BLOCK, finish, finished, report, rows, sweep

from capsexp import records
from capsexp.report import main

GRID = {"model.c2": [2, 3], "model.c3": [2, 3], "seed": [0]}
FIGURE = {"kind": "heatmap", "name": "fig", "title": "<T>", "x": "model.c2", "y": "model.c3", "metric": "test/acc"}


def test_the_last_line_is_the_pages_path(tmp_path, capsys):
    root = finished(tmp_path, GRID)
    assert main([str(root)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(root / "report" / "index.html")
    assert main([str(root), "--out", str(tmp_path / "else")]) == 0
    assert (tmp_path / "else" / "index.html").exists()


def test_a_figure_that_no_cell_can_fill_is_told_and_never_another_kind(tmp_path, capsys):
    """A plan with an axis that no config has is refused; one of an older version may be there."""
    figures = [{**FIGURE, "y": "optimiser.lr"}, {**FIGURE, "name": "acc", "metric": "test/accuracy"}]
    root = finished(tmp_path, GRID, {**BLOCK, "figures": figures})
    frozen = records.FrozenCell({"model": {"c2": 2, "c3": 2}, "optimizer": {"lr": 0.1}, "seed": 0}, [])
    records.write_configs(root, {"0123456789": frozen})
    assert main([str(root)]) == 0
    counts, *said, _ = capsys.readouterr().out.splitlines()
    assert counts.endswith(" figures: 0")
    assert said == [
        "  fig: y: no config has a key optimiser.lr (optimizer.lr is the most like it)",
        "  acc: the cells have no metric test/accuracy (test/acc is the most like it)",
    ]
    page = (root / "report" / "index.html").read_text()
    assert all(f"<li>{line.strip()}</li>" in page for line in said)


def test_a_figure_says_which_of_its_axes_are_not_swept_and_what_is_drawn_instead(tmp_path, capsys):
    changes = ({"y": "lr", "by": "data"}, {"kind": "surface", "x": "seed", "y": "model.c2"}, {"x": "a", "y": "b"})
    figures = [{**FIGURE, **each, "name": f"fig{place}"} for place, each in enumerate(changes)]
    assert main([str(finished(tmp_path, {"model.c2": [2, 3], "seed": [0]}, {**BLOCK, "figures": figures}))]) == 0
    counts, *said, _ = capsys.readouterr().out.splitlines()
    assert counts.endswith(" figures: 2")
    assert said == [
        "  fig0: y: lr is not swept in this sweep, so lines over model.c2 are drawn instead of a heatmap; "
        "by: data is not swept in this sweep, so the figure is drawn without it",
        "  fig1: x: seed is averaged over, so lines over model.c2 are drawn instead of a surface",
        "  fig2: x: a is not swept in this sweep, so nothing is drawn; "
        "y: b is not swept in this sweep, so nothing is drawn",
    ]


def fails(capsys, path, *words):
    assert main([str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("capsexp.report: error: ")
    assert captured.err.count("\n") == 1
    assert all(word in captured.err for word in words)


def test_folders_that_are_no_sweep(tmp_path, capsys):
    fails(capsys, tmp_path / "none", "is not a folder")
    fails(capsys, tmp_path, "has no plan (sweep.json)")
    cell = finish(tmp_path, sweep(tmp_path, GRID)[0], 0.9)
    fails(capsys, cell, "a single cell", str(tmp_path))
    (tmp_path / records.SWEEP).write_text('{"schema": 1, "cells": ')
    fails(capsys, tmp_path, "not a whole plan")
    (tmp_path / records.SWEEP).write_text('{"schema": 1, "cells": [{"odd": 1}]}')
    fails(capsys, tmp_path, "not a whole plan")


def test_a_folder_without_a_plan_is_reported_by_what_its_cells_differ_in(run, quick, in_tmp, capsys):
    for seed in (0, 1):
        assert run(*quick, "model.c2=2", f"seed={seed}") == 0
    assert run(*quick, "model.c2=3") == 0
    folder = in_tmp / "multirun" / "adhoc"
    assert not (folder / records.SWEEP).exists()
    capsys.readouterr()
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out.startswith("adhoc: complete: 3 of 3 cells done")
    assert [(row["model.c2"], row["n"]) for row in rows(folder / "report", "results")] == [("2", "2"), ("3", "1")]
    page = (folder / "report" / "index.html").read_text()
    assert "as in the file" in page  # its author did not publish the split
    assert ">published<" not in page


def test_a_wrong_block_is_one_line(tmp_path, capsys):
    root = finished(tmp_path, GRID, {"figures": [{"kind": "surface", "x": "a", "y": "b"}]})
    fails(capsys, root, "report.figures[0].metric must be given")


def test_neither_torch_nor_hydra_is_imported_and_help_loads_no_matplotlib(tmp_path):
    root = finished(tmp_path, GRID, {**BLOCK, "figures": [FIGURE]})
    code = (
        "import sys; from capsexp.report import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'matplotlib', 'numpy', 'scipy'} & set(sys.modules); assert not heavy, heavy\n"
        f"assert main([{str(root)!r}]) == 0\n"
        "banned = {'torch', 'lightning', 'hydra', 'omegaconf', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "assert not banned, banned"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)


class Tags(HTMLParser):
    """Collects what a page refers to, and checks that every tag is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.images = [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [values["href"]] if "href" in values else []
        self.images += [values["src"]] if "src" in values else []
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_escaped_and_needs_no_other_file(tmp_path):
    cells = sweep(tmp_path, GRID, {**BLOCK, "claim": "a < b & c", "figures": [FIGURE]})
    for cell in cells[1:]:
        finish(tmp_path, cell, 0.9, data="<script>alert(1)</script>")
    out = report(tmp_path)
    page = (out / "index.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert page.count("<script") == 2, "the data of the cells and the script, none from a result"
    assert "&lt;script&gt;alert(1)" in page
    assert "A &lt;fake&gt; sweep &amp; more" in page
    assert "a &lt; b &amp; c" in page
    assert [image[:22] for image in tags.images] == ["data:image/png;base64,"]
    assert all(f'id="{link[1:]}"' in page if link[0] == "#" else (out / link).exists() for link in tags.links)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg\b)|@import|url\(", page), "it asks no network"


def test_the_command_is_the_one_that_was_given(tmp_path):
    root = finished(tmp_path, {"model.c2": [2, 3]})
    sweep = records.read_sweep(root)
    said = ["+experiment=fake", "model.c2=2,3", "+note='a, b',c", "paths.output=else where"]
    records.write_sweep(root, dataclasses.replace(sweep, overrides=said))
    page = (report(root) / "index.html").read_text()
    first, second = page[page.index("<pre>python") :].removeprefix("<pre>").split("</pre>")[0].splitlines()
    assert shlex.split(html.unescape(first)) == ["python", "-m", "capsexp", *said, "-m"]
    assert shlex.split(html.unescape(second)) == ["python", "-m", "capsexp.report", "else where/fake"]
