import math
import statistics

import pytest
from report_fakes import BLOCK, accuracy, finish, finished, report, rows, sweep

from capsexp import records
from capsexp.analysis import formats
from capsexp.analysis.cells import Stat
from capsexp.analysis.measures import number
from capsexp.analysis.tables import Table, stat_text

GRID = {"model.c2": [3, 2], "model.c3": [2, 10]}


def test_one_training_a_point_has_its_own_number_and_no_deviation(tmp_path):
    out = report(finished(tmp_path, GRID))
    found = rows(out, "results")
    assert [(row["model.c2"], row["model.c3"]) for row in found] == [("2", "2"), ("2", "10"), ("3", "2"), ("3", "10")]
    expected = {(str(c.axes["model.c2"]), str(c.axes["model.c3"])): accuracy(c) for c in sweep(tmp_path, GRID)}
    for row in found:
        assert float(row["test/acc"]) == expected[row["model.c2"], row["model.c3"]]
        assert (row["test/acc:std"], row["test/acc:n"], row["n"], row["params"]) == ("", "1", "1", "12345")
    assert "±" not in (out / "results.md").read_text()


def test_seeds_become_mean_and_sample_deviation(tmp_path):
    cells = sweep(tmp_path, {"model.c2": [2], "seed": [0, 1, 2]})
    for cell, value in zip(cells, (0.9, 0.92, 0.97), strict=True):
        finish(tmp_path, cell, value)
    out = report(tmp_path)
    (row,) = rows(out, "results")
    assert float(row["test/acc"]) == pytest.approx(0.93, abs=1e-15)
    # ddof=1 by hand: deviations -.03, -.01, .04, squares .0026, over 2
    assert float(row["test/acc:std"]) == pytest.approx(math.sqrt(0.0026 / 2), abs=1e-15)
    assert row["n"] == "3"
    assert "seed" not in row
    assert "| 2 | 3 | done | 0.9300 ± 0.0361 | 12,345 |" in (out / "results.md").read_text()
    assert len(rows(out, "cells")) == 3


def test_holes_are_rows_with_their_state_and_no_number(tmp_path):
    cells = sweep(tmp_path, {"model.c2": [1, 2, 3, 4, 5, 6]})
    finish(tmp_path, cells[0], 0.9)
    records.write_status(tmp_path / cells[1].name, records.Status("failed", cells[1].id, cause="RuntimeError: <oom>"))
    records.write_status(tmp_path / cells[2].name, records.Status("running", cells[2].id))
    finish(tmp_path, cells[3], 0.5, numerics=records.NUMERICS_VERSION + 1)
    path = finish(tmp_path, cells[4], 0.6) / records.RESULT
    path.write_text(path.read_text().replace("0.6", "0.7"))
    (tmp_path / "c2-77-0123456789").mkdir()
    out = report(tmp_path)
    found = rows(out, "results")
    assert [row["state"] for row in found] == ["done", "failed", "running", "stale", "corrupt", "missing"]
    assert [row["test/acc"] for row in found] == ["0.9", "", "", "", "", ""]
    page = (out / "index.html").read_text()
    counts = "PARTIAL: 1 of 6 cells done (1 failed, 1 running, 1 missing, 1 corrupt, 1 stale)"
    assert counts in page
    assert counts in (out / "results.md").read_text()
    assert counts in (out / "results.tex").read_text()
    assert "RuntimeError: &lt;oom&gt;" in page
    assert f"{cells[1].name}/log.txt" in page
    assert "c2-77-0123456789" in page
    assert all("c2-77" not in path.read_text() for path in out.glob("*.csv"))


def test_a_mean_over_fewer_seeds_says_so(tmp_path):
    cells = sweep(tmp_path, {"model.c2": [2], "seed": [0, 1, 2, 3]})
    for cell, value in zip(cells[:3], (0.9, 0.8, None), strict=True):
        finish(tmp_path, cell, value)
    out = report(tmp_path)
    (row,) = rows(out, "results")
    assert (row["planned"], row["n"], row["state"], row["test/acc:n"]) == ("4", "3", "1 missing", "2")
    assert float(row["test/acc"]) == pytest.approx(0.85)
    assert "(n=2)" in (out / "results.md").read_text()
    assert "not finite in 1 of 4 cells" in (out / "index.html").read_text()


def test_protocols_are_never_averaged_together(tmp_path):
    cells = sweep(tmp_path, {"model.c2": [2], "seed": [0, 1, 2]})
    finish(tmp_path, cells[0], 0.9)
    finish(tmp_path, cells[1], 0.5, data="dhcd", select_on="test")
    finish(tmp_path, cells[2], 0.7)
    out = report(tmp_path)
    found = {row["data"]: row for row in rows(out, "results")}
    assert float(found["digits"]["test/acc"]) == pytest.approx(0.8)
    assert (found["dhcd"]["test/acc"], found["dhcd"]["select_on"]) == ("0.5", "test")
    compared = {row["data"]: row["flags"] for row in rows(out, "comparison")}
    assert "other data: digits" in compared["digits"]
    assert "model chosen on the test set" in compared["dhcd"]
    assert "other data" not in compared["dhcd"]
    assert "The cells differ in data, select_on" in (out / "index.html").read_text()


def test_clocks_stand_in_the_timings_alone(tmp_path):
    out = report(finished(tmp_path, GRID, seconds=98.765))
    assert float(rows(out, "timings")[0]["clocks.total_s"]) == 98.765
    for name in ("results.csv", "cells.csv", "comparison.csv", "index.html"):
        assert "98.76" not in (out / name).read_text()


def test_a_metric_measured_with_a_clock_goes_to_the_timings(tmp_path):
    block = {**BLOCK, "timings": ["speed/step_ms"]}
    cells = sweep(tmp_path, {"model.c2": [2]}, block)
    finish(tmp_path, cells[0], 0.9, metrics={"speed/step_ms": 7.5})
    assert rows(report(tmp_path), "timings")[0]["speed/step_ms"] == "7.5"


def test_without_a_block_the_axes_and_the_standard_metrics_are_shown(tmp_path):
    out = report(finished(tmp_path, GRID, {}))
    header = rows(out, "results")[0]
    assert {"model.c2", "model.c3", "test/acc", "test/loss", "params", "params_paper"} <= header.keys()
    assert "val/acc" not in header
    assert (out / "test_acc.png").exists()
    assert rows(out, "comparison") == []


def test_a_single_cell_without_axes_is_a_table_of_one_row(tmp_path):
    out = report(finished(tmp_path, {}, {**BLOCK, "figures": None}))
    (row,) = rows(out, "results")
    assert row["cell"].startswith("cell-")
    assert list(out.glob("*.png")) == []


# -- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.95, 4, "0.9500"), (12345, 0, "12,345"), (1e-7, 4, "1.00e-07"), (math.nan, 2, "not finite"), (0.0, 2, "0.00")],
)
def test_numbers_as_text(value, digits, text):
    assert number(value, digits) == text


def test_the_difference_of_paired_seeds_has_its_own_deviation():
    ours, other = Stat({0: 0.9, 1: 0.8}), Stat({0: 0.95, 1: 0.9})
    difference = ours.minus(other)
    assert difference.mean == pytest.approx(-0.075)
    assert difference.std == pytest.approx(statistics.stdev([-0.05, -0.1]))
    unpaired = ours.minus(Stat({0: 0.95, 2: 0.9}))
    assert (unpaired.mean, unpaired.std) == (pytest.approx(-0.075), None)


def test_equal_counts_stay_whole_numbers():
    assert stat_text(Stat({0: 20, 1: 20}), 1) == "20"
    assert stat_text(Stat({0: 20}), 1) == "20"


def odd_table(rows_=1):
    text = 'a|b & 50% of_$x#{1} <i>~^\\ -5 "q"\nnext'
    return Table("odd", text, [text], [[text]] * rows_, [text], [[text]] * rows_, [False] * rows_)


def test_latex_escapes_and_labels():
    text = formats.to_latex(odd_table())
    escaped = (
        r"a\textbar{}b \& 50\% of\_\$x\#\{1\} \textless{}i\textgreater{}\textasciitilde{}\textasciicircum{}"
        r'\textbackslash{} $-$5 "q" next'
    )
    assert text.count(escaped) == 3
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{", r"\label{tab:odd}", r"\begin{table}"):
        assert part in text
    assert r"\begin{longtable}" in formats.to_latex(odd_table(100))


def test_markdown_keeps_every_row_on_its_line():
    lines = formats.to_markdown(odd_table()).splitlines()
    assert lines[3] == "| --- |"
    assert lines[4].startswith(r"| a\|b & 50% of\_$x#\{1\} \<i\>")
    assert len(lines) == 5


def test_csv_is_rfc_4180_with_bare_newlines():
    text = formats.to_csv(Table("t", "", [], [], ["x", "y,z"], [['q"', None], [0.1 + 0.2, 3]], []))
    assert text == 'x,"y,z"\n"q""",\n0.30000000000000004,3\n'


EACH = {
    "compare": [
        {"what": "best", "metric": "test/acc", "at": {"routing": "a"}, "paper": {"mnist": 0.99, "rmnist": 0.95}}
    ],
    "figures": [],
}


def test_a_row_may_have_a_number_for_each_data_set(tmp_path):
    """One row for each data set that has finished cells; a point that has none is of no data set."""
    axes = {"data": ["mnist", "rmnist", "digits"], "routing": ["a", "b"]}
    for cell in sweep(tmp_path, axes, EACH):
        if cell.axes != {"data": "rmnist", "routing": "a"}:
            finish(tmp_path, cell, 0.5, data=cell.axes["data"])
    found = rows(report(tmp_path), "comparison")
    assert {(row["data"], row["ours"], row["paper"], row["difference"]) for row in found} == {
        ("mnist", "0.5", "0.99", "-0.49"),
        ("digits", "0.5", "none for digits", ""),
    }
    (digits,) = (row for row in found if row["data"] == "digits")
    assert "other data: digits, the paper's is mnist or rmnist" in digits["flags"]


def test_a_row_without_any_number_has_none_of_the_papers(tmp_path):
    cells = sweep(tmp_path, {"data": ["mnist"], "routing": ["a", "b"]}, EACH)
    finish(tmp_path, cells[1], 0.5, data="mnist")
    (row,) = rows(report(tmp_path), "comparison")
    assert (row["ours"], row["paper"], row["difference"], row["data"]) == ("", "", "", "")


def test_a_clock_has_its_own_unit(tmp_path):
    (cell,) = sweep(tmp_path, {"model.c2": [2]})
    finish(tmp_path, cell, 0.9)
    result = records.read_result(tmp_path / cell.name)
    assert result is not None
    result["clocks"] |= {"folded_batch1_ms": 1.25}
    records.write_result(tmp_path / cell.name, result)
    header = (report(tmp_path) / "timings.md").read_text().splitlines()[2]
    assert "| epoch (s) | folded batch1 (ms) | total (s) |" in header
