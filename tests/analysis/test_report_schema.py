import pytest
from report_fakes import BLOCK, accuracy, finish, finished, report, rows, sweep

from capsexp.analysis.conditions import Condition
from capsexp.analysis.spec import parse
from capsexp.errors import ConfigError

SURFACE = {"kind": "surface", "name": "f", "x": "a", "y": "b", "metric": "test/acc"}


@pytest.mark.parametrize(
    ("block", "key"),
    [
        ([], "report"),
        ({"tite": "x"}, "report.tite"),
        ({"title": 3}, "report.title"),
        ({"columns": "test/acc"}, "report.columns"),
        ({"columns": ["test/acc", 3]}, "report.columns[1]"),
        ({"columns": ["clocks.total_s"]}, "report.columns[0]"),
        ({"columns": ["speed"], "timings": ["speed"]}, "report.columns[0]"),
        ({"metrics": {"test/acc": {"digits": -1}}}, "report.metrics.test/acc.digits"),
        ({"metrics": {"test/acc": {"decimals": 2}}}, "report.metrics.test/acc.decimals"),
        ({"axes": {"model.c2": "c2"}}, "report.axes.model.c2"),
        ({"compare": [{"what": "x"}]}, "report.compare[0].metric"),
        ({"compare": [{"what": "x", "metric": "m", "reduce": "median"}]}, "report.compare[0].reduce"),
        ({"compare": [{"what": "x", "metric": "m", "paper": True}]}, "report.compare[0].paper"),
        ({"compare": [{"what": "x", "metric": "m", "at": {"a": [1]}}]}, "report.compare[0].at.a"),
        ({"compare": [{"what": "x", "metric": "m", "where": {"a": {"least": 1}}}]}, "report.compare[0].where.a.least"),
        ({"compare": [{"what": "x", "metric": "m", "where": {"a": {}}}]}, "report.compare[0].where.a"),
        ({"figures": [SURFACE, {**SURFACE, "kind": "cube"}]}, "report.figures[1].kind"),
        ({"figures": [SURFACE, SURFACE]}, "report.figures[1].name"),
        ({"figures": [{**SURFACE, "name": "../f"}]}, "report.figures[0].name"),
        ({"figures": [{**SURFACE, "metric": None}]}, "report.figures[0].metric"),
        ({"figures": [{**SURFACE, "metric": "clocks.fit_s"}]}, "report.figures[0].metric"),
        ({"figures": [{**SURFACE, "sigma": -1}]}, "report.figures[0].sigma"),
        ({"figures": [{**SURFACE, "layer": "conv1"}]}, "report.figures[0].layer"),
        ({"figures": [{"kind": "kernels", "metric": "m", "layer": "conv1"}]}, "report.figures[0].pick"),
    ],
)
def test_a_wrong_block_is_one_line_naming_its_key(block, key):
    with pytest.raises(ConfigError) as error:
        parse(block)
    assert error.value.key == key
    assert "\n" not in str(error.value)


MIXED = {"kind": "surface", "x": 3, "y": "b", "metric": "test/acc", "sigma": -1}


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"figures": [{**MIXED, "colour": 1, "y": None}]}, "figures[0].colour must be one of at, azim, "),
        ({"figures": [{**MIXED, "y": None, "metric": None}]}, "figures[0].metric must be given, got None"),
        ({"figures": [MIXED]}, "figures[0].x must be a text, got 3"),
        ({"figures": [{**MIXED, "x": "a"}]}, "figures[0].sigma must be a number in [0, 100], got -1"),
        ({"figures": [{**MIXED, "kind": "cube"}]}, "figures[0].kind must be one of activity, bars, epochs, "),
        ({"figures": [MIXED], "tite": "x"}, "tite must be one of axes, claim, "),
        ({"columns": 3, "compare": [{"what": "x", "metric": 3}]}, "columns must be a list, got 3"),
    ],
)
def test_unknown_keys_are_reported_before_missing_ones_then_types_then_rules(block, said):
    with pytest.raises(ConfigError) as error:
        parse(block)
    assert str(error.value).startswith(f"report.{said}")


def test_null_is_a_key_that_is_left_out():
    (figure,) = parse({"figures": [{**SURFACE, "sigma": None, "note": None}]}).figures
    assert (figure.sigma, figure.note, figure.title) == (0.5, "", "f")
    (row,) = parse({"paper_data": "dhcd", "compare": [{"what": "x", "metric": "m", "paper_data": None}]}).compare
    assert row.paper_data is None  # null is a value of this key: no data set of the paper's


def test_an_empty_block_is_the_default_report():
    assert parse(None) == parse({})
    assert parse(None).columns is None


def test_labels_come_from_the_block_and_else_from_the_name():
    spec = parse({"metrics": {"test/acc": {"label": "hit rate", "digits": 2}}})
    assert (spec.measure("test/acc").title, spec.measure("test/acc").digits) == ("hit rate (share)", 2)
    assert spec.measure("distance/conv2/min").title == "minimum cosine distance, conv2"
    assert spec.measure("odd/name").title == "odd/name"
    assert spec.axis("model.c2").title == "c2"


@pytest.mark.parametrize(
    ("rule", "value", "holds"),
    [
        (Condition((1, "x")), "x", True),
        (Condition((1, "x")), 2, False),
        (Condition(minimum=7), 7, True),
        (Condition(minimum=7), 6, False),
        (Condition(maximum=7), 8, False),
        (Condition(minimum=7), "9", False),
        (Condition(minimum=0), True, False),
    ],
)
def test_conditions(rule, value, holds):
    assert rule.holds(value) is holds


# -- the comparison ---------------------------------------------------------------------------------------------------

GRID = {"a": [1, 2, 3], "b": [1, 2]}


def compared(root, *asked):
    return rows(report(finished(root, GRID, {**BLOCK, "compare": list(asked)})), "comparison")


def test_reduce_where_at_and_minus_against_hand_computation(tmp_path):
    found = compared(
        tmp_path,
        {"what": "best", "metric": "test/acc", "reduce": "max", "paper": 0.5},
        {"what": "low", "metric": "test/acc", "reduce": "min", "where": {"a": {"min": 2}, "b": [2]}},
        {"what": "drop", "metric": "test/acc", "reduce": "min", "where": {"a": {"min": 2}}, "minus": "max"},
        {"what": "size", "metric": "params_paper", "at": {"a": 3, "b": 1}, "paper": 11000},
    )
    values = {(c.axes["a"], c.axes["b"]): accuracy(c) for c in sweep(tmp_path, GRID)}
    best, low = max(values.values()), min(values[2, 2], values[3, 2])
    drop = min(value for (a, _), value in values.items() if a >= 2) - best
    assert float(found[0]["ours"]) == best
    assert float(found[0]["difference"]) == best - 0.5
    assert (float(found[1]["ours"]), found[1]["paper"], found[1]["difference"]) == (low, "", "")
    assert float(found[2]["ours"]) == drop
    assert (found[3]["ours"], found[3]["difference"], found[3]["at"]) == ("11622", "622", "a = 3, b = 1")


def test_a_row_without_an_answer_says_why(tmp_path):
    found = compared(
        tmp_path,
        {"what": "x", "metric": "test/acc", "at": {"c": 1}},
        {"what": "x", "metric": "test/acc"},
        {"what": "x", "metric": "test/acc", "at": {"a": 9, "b": 1}},
        {"what": "x", "metric": "nothing", "reduce": "max"},
    )
    assert [row["at"] for row in found] == [
        "c was not swept", "6 points match: give reduce or at", "no such point in the sweep", "no value there",
    ]  # fmt: skip
    assert all(row["ours"] == "" for row in found)


def test_flags_name_other_data_the_test_set_and_missing_points(tmp_path):
    cells = sweep(tmp_path, GRID)
    for cell in cells[:4]:
        finish(tmp_path, cell, 0.9, select_on="test")
    out = report(tmp_path)
    (row,) = rows(out, "comparison")
    assert row["flags"] == (
        "other data: digits, the paper's is dhcd; model chosen on the test set; partial: 4 of 6 points complete"
    )
    assert "chosen on the test set" in (out / "index.html").read_text()
    assert "no reproduction of its numbers" in (out / "index.html").read_text()


def test_the_papers_own_data_set_is_not_flagged(tmp_path):
    (row,) = rows(report(finished(tmp_path, GRID, data="dhcd")), "comparison")
    assert row["flags"] == ""
