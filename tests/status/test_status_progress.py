"""Running cells whose fits say how far they are, and the time left that follows from it."""

import json
import time

import pytest
from status_fakes import body, finish, start, sweep

from capsexp import fit_progress, records
from capsexp.fit_progress import FitProgress
from capsexp.status.__main__ import main

FOUR = {"model.c2": [1, 2, 3, 4]}


def run_fit(
    root, cell, epoch, *, ago=60.0, fit="", epoch_s=2.0, ended=False, at=0.0, max_epochs=30, bucket=None, waits=False
):
    """Write a cell that runs a fit; ``at`` is how many seconds ago its last epoch ended."""
    start(root, cell, ago=ago)
    folder = "../../.stages/base-0123456789" if fit else "."
    updated = time.time() - at
    facts = FitProgress(fit, folder, epoch, max_epochs, "val/acc", 0.5, epoch_s, ended, updated, bucket, waits)
    fit_progress.write(root / cell.name, facts)


@pytest.fixture
def said(tmp_path, capsys):
    def run(*words):
        assert main([str(tmp_path), *words]) == 0
        out = capsys.readouterr().out
        return json.loads(out) if words else out

    return run


def test_what_is_said_of_a_fit(tmp_path, said):
    cells = sweep(tmp_path, FOUR)
    run_fit(tmp_path, cells[0], 12, fit="base", epoch_s=20.0)
    run_fit(tmp_path, cells[1], 30, ended=True)
    start(tmp_path, cells[2])
    lines = said().splitlines()
    listed = lines[lines.index("running:") + 1 :][:3]
    head = f"  {cells[0].name}  1 min 0 s  base: epoch 12/30  val/acc 0.5000  20 s per epoch  at most "
    assert listed[0].startswith(head)
    assert listed[0].endswith(" s left")
    assert listed[1] == f"  {cells[1].name}  1 min 0 s  trained for 30 epochs  val/acc 0.5000"
    assert listed[2].startswith(f"  {cells[2].name}  0.")
    first, second, third = said("--json")["running"]
    assert (first["fit"], first["epoch"], first["max_epochs"], first["ended"]) == ("base", 12, 30, False)
    assert (first["metric"], first["value"], first["epoch_s"]) == ("val/acc", 0.5, 20.0)
    assert first["left_s"] == pytest.approx(18 * 20, abs=5)
    assert first["history"] == str(tmp_path.parent / ".stages" / "base-0123456789" / records.METRICS)
    assert (second["fit"], second["ended"], second["left_s"]) == ("", True, 0.0)
    assert second["history"] == str(tmp_path / cells[1].name / records.METRICS)
    assert {key for key, value in third.items() if value is not None} == {"name", "seconds", "line"}


def test_progress_of_an_earlier_attempt_is_not_shown(tmp_path, said):
    """Both times are those of the machine that runs the cell, which may go an hour ahead."""
    first, second, *_ = sweep(tmp_path, FOUR)
    run_fit(tmp_path, first, 12, ago=60.0, at=61.0)
    run_fit(tmp_path, second, 12, ago=-3600.0, at=-3601.0)
    assert fit_progress.of_running(tmp_path / first.name) is None
    assert fit_progress.of_running(tmp_path / second.name) is not None
    assert [each["epoch"] for each in said("--json")["running"]] == [None, 12]


def test_the_first_cells_say_how_long_the_others_take(tmp_path, said):
    """Nothing has finished: a cell is 60 s old and lacks 20 epochs of 2 s, so that it takes 100 s."""
    cells = sweep(tmp_path, FOUR)
    run_fit(tmp_path, cells[0], 10)
    run_fit(tmp_path, cells[1], 10)
    found = said("--json")
    assert found["cell_s"] is None
    assert found["left_s"] == pytest.approx(2 * 100 + 2 * 40, abs=5)
    assert found["eta_s"] == pytest.approx(140, abs=5)


def test_a_cell_that_goes_on_from_a_checkpoint_stands_for_a_whole_one(tmp_path, said):
    """Its 29 epochs of 10 s are done, most of them by an earlier attempt: the others take 300 s each."""
    cells = sweep(tmp_path, FOUR)
    run_fit(tmp_path, cells[0], 29, epoch_s=10.0)
    assert said("--json")["left_s"] == pytest.approx(3 * 300 + 10, abs=20)


def test_a_running_cell_lacks_its_own_epochs(tmp_path, said):
    """The finished cells were quick, the last one is wide: the mean says nothing of it."""
    cells = sweep(tmp_path, FOUR)
    for cell in cells[:3]:
        finish(tmp_path, cell, seconds=10.0)
    run_fit(tmp_path, cells[3], 10, epoch_s=100.0, at=30.0)
    assert said("--json")["eta_s"] == pytest.approx(20 * 100 - 30, abs=5)


@pytest.mark.parametrize(("epoch", "epochs"), [(4, 8), (17, 1)])
def test_early_stops_of_finished_cells_count(tmp_path, said, epoch, epochs):
    """They stopped after 12 epochs on average; a cell that has more has at least its present epoch to do."""
    cells = sweep(tmp_path, FOUR)
    for cell, trained in zip(cells, (9, 15), strict=False):
        records.write_result(tmp_path / cell.name, body(cell, training={"epochs": trained}))
        records.write_status(tmp_path / cell.name, records.Status("done", cell.id))
    for cell in cells[2:]:
        run_fit(tmp_path, cell, epoch, epoch_s=50.0)
    found = said("--json")
    assert found["left_s"] == pytest.approx(2 * epochs * 50, abs=5)
    assert found["running"][0]["left_s"] == pytest.approx((30 - epoch) * 50, abs=5), "at most"


def test_a_stage_says_what_a_cell_lacks_at_least(tmp_path, said):
    cells = sweep(tmp_path, FOUR)
    run_fit(tmp_path, cells[0], 10, fit="base")
    assert said("--json")["left_s"] is None, "what follows the stage is not known"
    for cell in cells[1:]:
        finish(tmp_path, cell, seconds=90.0)
    assert said("--json")["left_s"] == pytest.approx(40, abs=5), "more than is missing to the mean"
    run_fit(tmp_path, cells[0], 29, fit="base")
    assert said("--json")["left_s"] == pytest.approx(30, abs=5), "the mean is longer"


def test_a_cell_whose_own_fit_has_ended_lacks_nothing(tmp_path, said):
    cells = sweep(tmp_path, {"model.c2": [1, 2]})
    finish(tmp_path, cells[0], seconds=500.0)
    run_fit(tmp_path, cells[1], 30, ended=True)
    assert said("--json")["left_s"] == 0
    assert "left: any moment now, with 1 cell at a time" in said()


def test_members_of_a_stack_end_together(tmp_path, said):
    cells = sweep(tmp_path, FOUR)
    finish(tmp_path, cells[0])
    found = records.read_result(tmp_path / cells[0].name)
    found["clocks"]["share_s"] = 50.0
    records.write_result(tmp_path / cells[0].name, found)
    for cell, epoch in zip(cells[1:], (10, 20, 25), strict=True):
        run_fit(tmp_path, cell, epoch)
    assert said("--json")["left_s"] == pytest.approx(20 * 2, abs=5)


def test_buckets_of_a_stack_are_trained_one_after_another(tmp_path, said):
    """The second bucket has waited for 100 s, and lacks as many epochs as before."""
    cells = sweep(tmp_path, FOUR)
    for cell, epoch in zip(cells[:2], (10, 20), strict=True):
        run_fit(tmp_path, cell, epoch, bucket=0)
    for cell, epoch in zip(cells[2:], (20, 25), strict=True):
        run_fit(tmp_path, cell, epoch, epoch_s=3.0, bucket=1, waits=True, at=100.0, ago=200.0)
    found = said("--json")
    assert found["left_s"] == found["eta_s"] == pytest.approx(20 * 2 + 10 * 3, abs=5)
    assert [each["left_s"] for each in found["running"][2:]] == [30, 15]
    assert found["running"][3]["line"] == "epoch 25/30  val/acc 0.5000  3.0 s per epoch  waits for another stack"


def test_a_bucket_that_has_not_begun_takes_as_long_as_the_one_in_training(tmp_path, said):
    """That has done 10 epochs of 2 s and lacks 20: its two cells take 60 s together, and so will the others."""
    cells = sweep(tmp_path, FOUR)
    for cell in cells[:2]:
        run_fit(tmp_path, cell, 10, bucket=0)
    for cell in cells[2:]:
        run_fit(tmp_path, cell, 0, epoch_s=None, waits=True)
    assert said("--json")["left_s"] == pytest.approx(40 + 60, abs=5)


def test_files_that_say_nothing_of_this_attempt(tmp_path, said):
    cells = sweep(tmp_path, FOUR)
    run_fit(tmp_path, cells[0], 10, ago=60.0, at=100.0)  # killed before, and started again since
    run_fit(tmp_path, cells[1], 10)
    (tmp_path / cells[1].name / records.PROGRESS).write_text('{"fit": "", "ep')
    start(tmp_path, cells[2])
    (tmp_path / cells[2].name / records.PROGRESS).mkdir()
    finish(tmp_path, cells[3])
    (tmp_path / cells[3].name / records.PROGRESS).write_text("{}")
    found = said("--json")
    assert [each["epoch"] for each in found["running"]] == [None, None, None]
    assert "epoch" not in said()
