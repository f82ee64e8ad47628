"""The paper's tables beside ours: what stands at each place, what is said of holes, and how tables are laid out."""

import html
import json
import math

import pytest
from omegaconf import OmegaConf
from report_fakes import accuracy, finish, finished, report, rows, sweep

from capsexp import records
from capsexp.analysis import paper_tables, results
from capsexp.analysis.measures import MISSING
from capsexp.analysis.paper_numbers import canonical
from capsexp.analysis.spec import parse
from capsexp.errors import ConfigError

GRID = {
    "name": "table1",
    "title": "Table 1: accuracy",
    "rows": "net",
    "columns": "ratio",
    "metric": "test/acc",
    "scale": 100,
    "unit": "%",
    "digits": 1,
    "paper_columns": [0, 0.25, 0.6],
    "paper": {"small": [73.9, 74, 74.1], "large": [77.1, None, 76.9]},
}
AXES = {"net": ["large", "own"], "ratio": [0.0, 0.125, 0.25]}


def tables(root, *asked, **block):
    """The tables of a sweep's folder, and what is said of those that are none."""
    read = results.read(root)
    return paper_tables.grid_tables(parse({"grids": [*asked], **block}), read)


def lines(table):
    """The lines of a table by the names of their row and part."""
    found, name = {}, ""
    for row in table.rows:
        name = row[0] or name
        found[name, row[1]] = row[2:]
    return found


# -- the block --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"name": None}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "results"}, "name"),
        ({"rows": None}, "rows"),
        ({"rows": 3}, "rows"),
        ({"columns": "net"}, "columns"),
        ({"metric": None}, "metric"),
        ({"metric": ["test/acc"]}, "metric"),
        ({"metric": "clocks.fit_s"}, "metric"),
        ({"scale": 0}, "scale"),
        ({"scale": "100"}, "scale"),
        ({"digits": 0.5}, "digits"),
        ({"unit": 3}, "unit"),
        ({"by": "seed"}, "by"),
        ({"at": {"net": ["a"]}}, "at.net"),
        ({"paper": [1]}, "paper"),
        ({"paper": None}, "paper"),
        ({"paper": {"a": 1}}, "paper.a"),
        ({"paper": {"a": [1, 2]}}, "paper.a"),
        ({"paper": {"a": [1, 2, 3, 4]}}, "paper.a"),
        ({"paper": {"a": [1, 2, "x"]}}, "paper.a.0.6"),
        ({"paper": {"a": {"0": True}}}, "paper.a.0"),
        ({"paper": {"a": {"0": 1, "0.0": 2}}}, "paper.a"),
        ({"paper": {"1": [1, 2, 3], "1.0": [1, 2, 3]}}, "paper"),
        ({"paper_columns": None}, "paper.small"),
        ({"paper_columns": 3}, "paper_columns"),
        ({"paper_columns": [1, [2], 3]}, "paper_columns[1]"),
        ({"paper_columns": [0, 0.0, 1]}, "paper_columns"),
        ({"paper_data": 3}, "paper_data"),
        ({"note": 3}, "note"),
    ],
)
def test_a_wrong_grid_is_one_line_naming_its_key(changes, key):
    with pytest.raises(ConfigError) as error:
        parse({"grids": [{**GRID, **changes}]})
    assert error.value.key == f"report.grids[0].{key}"
    assert "\n" not in str(error.value)


def test_names_are_used_once_and_units_belong_to_the_scale():
    with pytest.raises(ConfigError, match=r"report.grids\[1\].name must be the name of no other table"):
        parse({"grids": [GRID, GRID]})
    (short,) = parse({"grids": [{key: GRID[key] for key in ("name", "rows", "columns", "metric")}]}).grids
    assert (short.scale, short.unit, short.digits, short.figure.title, short.numbers) == (1, "share", 4, "table1", {})
    (scaled,) = parse({"grids": [{key: value for key, value in GRID.items() if key != "unit"}]}).grids
    assert scaled.unit == ""  # not the metric's own, "share"


def test_rows_may_be_lists_or_mappings_and_whole_tables_of_whole_numbers_stay_whole():
    (grid,) = parse({"grids": [{**GRID, "paper": {"a": [73, None, 75], "b": {"0.60": 1, "0.625": 2}}}]}).grids
    assert grid.numbers == {"a": {"0": 73, "0.6": 75}, "b": {"0.6": 1, "0.625": 2}}
    assert grid.heads == ("0", "0.25", "0.6", "0.625")
    assert all(isinstance(number, int) for row in grid.numbers.values() for number in row.values())
    (grid,) = parse({"grids": [GRID]}).grids
    assert isinstance(grid.numbers["small"]["0.25"], float)


@pytest.mark.parametrize(
    ("text", "same"),
    [(".50", "0.5"), ("5e-1", "0.5"), ("2.0", "2"), ("1000000", "1e+06"), ("08", "08"), ("1_6", "1_6"), ("C8", "C8")],
)
def test_one_text_for_equal_numbers(text, same):
    assert canonical(text) == same


def test_numbers_as_keys_survive_yaml_and_json(tmp_path):
    text = "{name: t, rows: r, columns: c, metric: m, paper: {.125: {6: 1.5, 7.5: 2}, true: {7.0: 3}}}"
    block = json.loads(json.dumps(OmegaConf.to_container(OmegaConf.create(text), resolve=True)))
    (grid,) = parse({"grids": [block]}).grids
    assert grid.numbers == {"0.125": {"6": 1.5, "7.5": 2.0}, "true": {"7": 3.0}}


# -- the places -------------------------------------------------------------------------------------------------------


def test_every_place_against_hand_computation(tmp_path):
    cells = sweep(tmp_path, {**AXES, "seed": [0, 1]})
    values = {("large", 0.0): (0.70, 0.72), ("large", 0.25): (0.75,), ("own", 0.125): (0.5, None)}
    for cell in cells:
        own = values.get((cell.axes["net"], cell.axes["ratio"]), ())
        if cell.axes["seed"] < len(own):
            finish(tmp_path, cell, own[cell.axes["seed"]])
    failed = next(cell for cell in cells if cell.axes == {"net": "large", "ratio": 0.125, "seed": 0})
    records.write_status(tmp_path / failed.name, records.Status("failed", failed.id, cause="boom"))
    (table,), problems = tables(tmp_path, GRID)
    assert (table.header, problems) == (["net", "ratio =", "0", "0.125", "0.25", "0.6"], [])
    # of .70 and .72 the sample deviation is .02 / sqrt 2
    assert lines(table) == {
        ("small", "paper"): ["73.9", MISSING, "74.0", "74.1"],
        ("large", "ours"): ["71.0 ± 1.4", "failed", "75.0 (n=1)", MISSING],
        ("large", "paper"): ["77.1", MISSING, MISSING, "76.9"],
        ("large", "ours - paper"): ["-6.1", MISSING, MISSING, MISSING],
        ("own", "ours"): ["missing", "50.0 (n=1)", "missing", MISSING],
    }
    found = {(raw[0], raw[1]): dict(zip(table.raw_header, raw, strict=True)) for raw in table.raw_rows}
    assert found.keys() == {("small", c) for c in ("0", "0.25", "0.6")} | {("large", "0.6")} | {
        (net, ratio) for net in ("large", "own") for ratio in ("0", "0.125", "0.25")
    }
    first = found["large", "0"]
    assert first["ours"] == pytest.approx(71)
    assert first["std"] == pytest.approx(100 * math.sqrt(2 * 0.01**2))
    assert first["difference"] == pytest.approx(-6.1)
    assert [first[key] for key in ("unit", "planned", "n", "paper", "data")] == ["%", 2, 2, 77.1, "digits"]
    assert (found["own", "0.125"]["n"], found["own", "0.125"]["flags"]) == (1, "a seed's value is not finite")
    assert (found["large", "0.25"]["n"], found["large", "0.25"]["state"]) == (1, "1 missing")
    assert [found["large", "0.6"][key] for key in ("ours", "paper", "planned")] == [None, 76.9, 0]
    assert "; ".join(table.flags) == "partial: 2 of 6 points complete; a seed's value is not finite"
    assert table.caption == (
        "PARTIAL: 5 of 12 cells done (1 failed, 6 missing). Table 1: accuracy. Test accuracy (%), ours beside the "
        "paper's (here: data digits, model chosen on val; n = 2 unless stated; ± sample standard deviation)."
    )


def test_the_papers_rows_come_first_and_numbers_by_size():
    assert paper_tables.merged(["b", "a"], ["c", "a"]) == ["b", "a", "c"]
    assert paper_tables.merged(["0.5", "8"], ["10", "2", "0.50"]) == ["0.50", "2", "8", "10"]


def test_numbers_match_numbers_however_they_are_written(tmp_path):
    finished(tmp_path, {"ratio": [0.125, 0.5], "depth": [6, 7]})
    asked = {**GRID, "rows": "ratio", "columns": "depth", "paper_columns": [6.0], "paper": {".125": [1], "5e-1": [2]}}
    (table,), _ = tables(tmp_path, asked)
    assert {key: line[0] for key, line in lines(table).items() if key[1] == "paper"} == {
        ("0.125", "paper"): "1",
        ("0.5", "paper"): "2",
    }
    assert len([row for row in table.rows if row[0]]) == 2


def test_axes_that_are_not_named_give_a_table_each_and_never_one_mean(tmp_path):
    axes = {**AXES, "criterion": ["chip", "random"]}
    root = finished(tmp_path, axes)
    expected = {tuple(cell.axes.values()): accuracy(cell) for cell in results.read(root).sweep.cells}
    made, problems = tables(root, GRID)
    assert ([table.name for table in made], problems) == (["table1_chip", "table1_random"], [])
    assert [table.title for table in made] == [f"Table 1: accuracy, criterion = {c}" for c in ("chip", "random")]
    for table, criterion in zip(made, ("chip", "random"), strict=True):
        ours = [raw for raw in table.raw_rows if raw[6]]
        assert len(ours) == 6
        for raw in ours:
            assert raw[4] == 100 * expected[raw[0], float(raw[1]), criterion]
    (one,), _ = tables(root, {**GRID, "at": {"criterion": "random"}, "where": {"ratio": {"max": 0.2}}})
    assert one.name == "table1"
    assert [cell == MISSING for cell in lines(one)["large", "ours"]] == [False, False, True, True]


def test_before_any_cell_the_papers_numbers_stand_alone(tmp_path):
    sweep(tmp_path, {**AXES, "criterion": ["chip", "random"]})
    (table,), problems = tables(tmp_path, GRID)
    assert problems == []
    assert lines(table)["large", "paper"] == ["77.1", MISSING, MISSING, "76.9"]
    assert lines(table)["large", "ours"][:3] == ["missing"] * 3


def test_an_axis_that_was_not_swept_is_said(tmp_path):
    finished(tmp_path, AXES)
    assert tables(tmp_path, {**GRID, "rows": "depth"}) == ([], ["table1: depth was not swept"])
    assert tables(tmp_path, {**GRID, "at": {"depth": 1}}) == ([], ["table1: depth was not swept"])


def test_counts_stay_whole_and_tables_without_a_paper_are_ours_alone(tmp_path):
    finished(tmp_path, AXES)
    asked = {"name": "size", "rows": "net", "columns": "ratio", "metric": "params"}
    (table,), _ = tables(tmp_path, asked)
    assert lines(table) == {(net, "ours"): ["12,345"] * 3 for net in ("large", "own")}
    assert "Parameters, ours (" in table.caption


def test_other_data_and_the_test_set_are_flagged_and_protocols_apart(tmp_path):
    for cell in sweep(tmp_path, {**AXES, "seed": [0, 1]}):
        name = {"data": "cifar10"} if cell.axes["seed"] else {"select_on": "test"}
        finish(tmp_path, cell, 0.5 + cell.axes["seed"] / 4, **name)
    made, _ = tables(tmp_path, GRID, paper_data="cifar10")
    assert {table.name: "; ".join(table.flags) for table in made} == {
        "table1_cifar101": "",
        "table1_digits2": "other data: digits, the paper's is cifar10; model chosen on the test set",
    }
    assert {lines(table)["large", "ours"][0] for table in made} == {"75.0", "50.0"}
    quiet, _ = tables(tmp_path, {**GRID, "paper_data": None}, paper_data="cifar10")
    assert not any("other data" in flag for table in quiet for flag in table.flags)


# -- the files and the page -------------------------------------------------------------------------------------------


def test_files_and_page(tmp_path):
    block = {"grids": [{**GRID, "note": "A <note>."}], "figures": [], "paper_data": "cifar10"}
    cells = sweep(tmp_path, {**AXES, "seed": [0, 1]}, block)
    for cell in cells[1:]:
        finish(tmp_path, cell, 0.7 + cell.axes["seed"] / 50)
    out = report(tmp_path)
    assert len(rows(out, "table1")) == 6 + 4
    caveat = "Caveats: other data: digits, the paper's is cifar10; partial: 5 of 6 points complete."
    markdown = (out / "table1.md").read_text()
    assert f"A \\<note\\>. {caveat}\n" in markdown
    assert (
        f"| large | ours | 72.0 (n=1) | 71.0 ± 1.4 | 71.0 ± 1.4 | {MISSING} |\n|  | paper | 77.1 | {MISSING} |"
        in markdown
    )
    latex = (out / "table1.tex").read_text()
    assert r"\begin{tabular}{llrrrr}" in latex
    assert latex.count(r"\addlinespace") == 2
    assert caveat in latex
    page = html.unescape((out / "index.html").read_text())
    assert "<h3>Table 1: accuracy</h3>\n" in page
    assert '<p class="flag">other data: digits, the paper\'s is cifar10; partial: 5 of 6 points complete</p>' in page
    assert '<tr class="ours first"><td class="whole">large</td><td class="whole">ours</td>' in page
    assert '<tr class="difference"><td class="whole"></td>' in page
    assert '<a href="table1.csv">CSV</a>' in page
    assert page.index("<h3>Table 1") < page.index("<h2>Results")


def test_a_hole_is_marked_on_the_page(tmp_path):
    sweep(tmp_path, AXES, {"grids": [GRID], "figures": []})
    page = (report(tmp_path) / "index.html").read_text()
    assert page.count('<td class="num lacking">missing</td>') == 6
