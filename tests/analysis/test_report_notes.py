"""Failures, retries, environments, and what else lies in a cell's folder."""

import dataclasses
import html
import os
import re

from report_fakes import TIMINGS, accuracy, contents, finish, finished, report, rows, sweep

from capsexp import records

AXES = {"a": [1, 2, 3]}


def fail(root, cell, **changes):
    records.write_status(root / cell.name, records.Status("failed", cell.id, **changes))


def test_failures_are_listed_with_kind_cause_and_retries(tmp_path):
    _, *cells = sweep(tmp_path, {"a": [0, 1, 2, 3]}, {})
    finish(tmp_path, cells[0], 0.5)
    fail(tmp_path, cells[1], cause="no <memory>", kind="out-of-memory", retried=("killed", "killed"))
    fail(tmp_path, cells[2], cause="a.b must be 1", kind="config", retried=("killed",))
    out = report(tmp_path)
    assert "| state | kind | cause | retried |" in (out / "cells.md").read_text()
    found = [tuple(row[key] for key in ("state", "kind", "cause", "retried")) for row in rows(out, "cells")]
    assert found == [
        ("missing", "", "", ""),
        ("done", "", "", ""),
        ("failed", "out-of-memory", "no <memory>", "2"),
        ("failed", "config", "a.b must be 1", "1"),
    ]
    page = (out / "index.html").read_text()
    assert "<td>failed</td><td>out-of-memory</td><td>no &lt;memory&gt;</td><td>2 times</td>" in page
    assert "<td>failed</td><td>config</td><td>a.b must be 1</td><td>once</td>" in page
    listed = page[page.index('id="missing"') :]
    assert listed.index("<td>a-03") < listed.index("<td>a-00")  # failures come first


def test_how_a_sweep_ran_changes_no_byte_but_of_the_timings(tmp_path):
    """Another process, machine and time, a retry that went well, and a cell that was set back and trained anew."""
    made = []
    for name, host, again in (("x", "one", False), ("y", "two", True)):
        root = tmp_path / name / "fake"
        cells = sweep(root, {"a": [1, 2, 3, 4]}, {})
        for cell in cells[:2]:
            directory = finish(root, cell, 0.25, seconds=1.0)
            if again:
                records.set_aside(directory)
                finish(root, cell, accuracy(cell), seconds=7.0)
                retried = ("killed by signal 9",)
                records.write_status(directory, records.Status("done", cell.id, pid=7, host=host, retried=retried))
            else:
                finish(root, cell, accuracy(cell), seconds=1.0)
        fail(root, cells[2], cause="killed", kind="signal", host=host, pid=len(host) + again, started=float(again))
        # A process of another machine that has not been heard of since: how long is another number every time.
        lost = records.Status("running", cells[3].id, host="gone", updated=1e9 + again * 9e6, pid=5 + again)
        records.write_status(root / cells[3].name, lost)
        made.append(contents(report(root)))
    assert made[0].keys() == made[1].keys()
    assert {name for name in made[0] if made[0][name] != made[1][name]} == TIMINGS
    assert b"interrupted,,its process died," in made[0]["cells.csv"]


def test_a_process_that_is_gone_has_no_number_in_the_report(tmp_path):
    (cell,) = sweep(tmp_path, {"a": [1]}, {})
    status = records.Status("running", cell.id)
    records.write_status(tmp_path / cell.name, dataclasses.replace(status, boot="another"))
    out = report(tmp_path)
    (row,) = rows(out, "cells")
    assert (row["state"], row["cause"]) == ("interrupted", "its process died")
    assert not re.search(rf"\b{os.getpid()}\b", (out / "cells.csv").read_text())


def test_a_written_cause_of_an_interruption_stays(tmp_path):
    (cell,) = sweep(tmp_path, {"a": [1]}, {})
    records.write_status(tmp_path / cell.name, records.Status("interrupted", cell.id, cause="stopped by the user"))
    assert rows(report(tmp_path), "cells")[0]["cause"] == "stopped by the user"


def test_columns_of_causes_are_there_where_a_cell_has_one(tmp_path):
    _, other = sweep(tmp_path, {"a": [0, 1]}, {})
    finished(tmp_path, {"a": [0, 1]}, {})
    out = report(tmp_path)
    assert "| chosen on | state | test accuracy" in (out / "cells.md").read_text()
    assert {"kind", "cause", "retried"} <= rows(out, "cells")[0].keys(), "the CSV has all of them"
    records.remove(tmp_path / other.name / records.RESULT)
    fail(tmp_path, other, cause="no")
    assert "| chosen on | state | cause | test accuracy" in (report(tmp_path) / "cells.md").read_text()


def test_configs_and_results_that_were_set_aside_are_no_results(tmp_path):
    cells = sweep(tmp_path, AXES, {})
    frozen = {cell.id: records.FrozenCell({"a": cell.axes["a"]}, []) for cell in cells}
    records.write_configs(tmp_path, frozen)
    for cell in cells:
        finish(tmp_path, cell, accuracy(cell))
    records.set_aside(tmp_path / cells[1].name)
    assert (tmp_path / cells[1].name / records.PREVIOUS_RESULT).exists()
    out = report(tmp_path)
    found = rows(out, "cells")
    assert [row["state"] for row in found] == ["done", "pending", "done"]
    assert (found[1]["test/acc"], found[1]["cause"]) == ("", "set back by sweep.rerun")
    assert "Orphaned" not in (out / "index.html").read_text()


def test_a_generated_data_set_is_not_said_to_have_an_original(tmp_path):
    (cell, *_) = sweep(tmp_path, {"a": [1]}, {})
    body = records.read_result(finish(tmp_path, cell, 0.5))
    records.write_result(tmp_path / cell.name, body | {"data": {**body["data"], "name": "tangle", "generated": True}})
    page = (report(tmp_path) / "index.html").read_text()
    assert "<li>Data set tangle is generated: its images were computed.</li>" in page


def test_other_threads_or_torch_are_a_note(tmp_path):
    cells = sweep(tmp_path, AXES, {})
    finish(tmp_path, cells[0], 0.5, environment={"threads": 16})
    finish(tmp_path, cells[1], 0.5, environment={"threads": 2})
    finish(tmp_path, cells[2], 0.5, environment={"threads": 2})
    page = (report(tmp_path) / "index.html").read_text()
    said = "Cells ran with different numbers of threads (2 in 2 cells, 16 in 1 cell): their numbers may differ in the"
    assert said in page
    finish(tmp_path, cells[0], 0.5, environment={"threads": 2, "torch": "2.14.0"})
    page = (report(tmp_path) / "index.html").read_text()
    assert "different versions of torch (2.14.0 in 1 cell, 2.13.0+cpu in 2 cells): their" in page


def test_the_same_threads_and_an_older_result_without_them_are_no_note(tmp_path):
    root = finished(tmp_path / "same", AXES, {})
    assert "last digits" not in (report(root) / "index.html").read_text()
    directory = next(root.glob("a-01*"))
    body = records.read_result(directory)
    del body["environment"]
    records.write_result(directory, body)
    assert "last digits" not in (report(root) / "index.html").read_text()


def test_settings_that_differ_from_the_experiments_are_named(tmp_path):
    root = finished(tmp_path, {"model.c2": [2, 4]})
    plan = records.read_sweep(root)
    said = ["+experiment=fake", "model.c2=2,4", "trainer.max_epochs=2", "threads=1", "hydra/launcher=stacked"]
    records.write_sweep(root, dataclasses.replace(plan, overrides=said))
    page = html.unescape((report(root) / "index.html").read_text())
    assert "<li>Settings that differ from the experiment's: model.c2=2,4, trainer.max_epochs=2.</li>" in page
    for others in (["+experiment=fake", "threads=1"], ["model.c2=2,4"]):
        records.write_sweep(root, dataclasses.replace(plan, overrides=others))
        assert "Settings that differ" not in (report(root) / "index.html").read_text()


def test_the_papers_count_of_parameters_is_shown_where_there_is_a_paper(tmp_path):
    root = finished(tmp_path, {"model.c2": [2, 4]}, {})
    out = report(root)
    assert "paper" not in (out / "results.md").read_text()
    assert "paper" not in (out / "cells.tex").read_text()
    assert "params_paper" in (out / "results.csv").read_text().splitlines()[0]
    plan = records.read_sweep(root)
    records.write_sweep(root, dataclasses.replace(plan, report={"source": "Somebody 2019"}))
    assert "paper's formula" in (report(root) / "results.md").read_text()
