"""The table of results: one row for each cell, nothing averaged, nothing hidden."""

import math
from pathlib import Path

import pytest
import yaml
from report_fakes import accuracy, finish, finished, sweep

import capsexp
from capsexp import records
from capsexp.analysis.results import ReportError

GRID = {"model.c3": [3, 2], "seed": [0, 1]}


def test_every_planned_cell_is_a_row(tmp_path: Path) -> None:
    first, second, third, fourth = sweep(tmp_path, GRID)
    finish(tmp_path, first, 0.5)
    finish(tmp_path, second, None)
    finish(tmp_path, third, 0.75, numerics=0)
    failed = records.Status("failed", fourth.id, cause="RuntimeError: no", kind="exception", retried=("x",))
    records.write_status(tmp_path / fourth.name, failed)
    table = capsexp.load_sweep(tmp_path)
    assert list(table.columns[:10]) == [
        *("sweep", "name", "id", "path", "state", "kind", "cause", "retried"),
        *("axes.model.c3", "axes.seed"),
    ]
    # In the order of the axes' values: c3=2 before c3=3.
    assert table["id"].tolist() == [third.id, fourth.id, first.id, second.id]
    assert table["axes.model.c3"].tolist() == [2, 2, 3, 3]
    assert table["axes.seed"].tolist() == [0, 1, 0, 1]
    assert table["state"].tolist() == ["stale", "failed", "done", "done"]
    assert table["path"].tolist() == [str(tmp_path / cell.name) for cell in (third, fourth, first, second)]
    row = table.set_index("id").loc
    assert (row[fourth.id, "cause"], row[fourth.id, "kind"], row[fourth.id, "retried"]) == (
        *("RuntimeError: no", "exception"),
        1,
    )
    # Numbers of done cells alone; one that is not finite is NaN.
    assert row[first.id, "test/acc"] == 0.5
    assert math.isnan(row[second.id, "test/acc"])
    assert row[second.id, "test/loss"] == 0.25
    assert table.loc[table["state"] != "done", ["test/acc", "params", "training.epochs"]].isna().all(axis=None)


def test_a_sweep_of_stale_cells_has_the_columns_of_its_numbers(tmp_path: Path) -> None:
    (cell,) = sweep(tmp_path, {"model.c3": [2]})
    finish(tmp_path, cell, 0.75, numerics=0)
    assert capsexp.load_sweep(tmp_path)[["state", "test/acc"]].isna().all().tolist() == [False, True]


def test_facts_have_their_dotted_keys(tmp_path: Path) -> None:
    table = capsexp.load_sweep(finished(tmp_path, GRID))
    assert (table["params"] == 12345).all()
    assert (table["training.epochs"] == 20).all()
    assert (table["training.select_on"] == "val").all()
    assert table["data.sha256"].isna().all()
    assert (table["environment.torch"] == "2.13.0+cpu").all()
    assert (table["clocks.total_s"] == 4.25).all()
    assert table["data.image_shape"].tolist() == [[1, 28, 28]] * 4
    assert not {"metrics", "axes", "data"} & set(table.columns)


def test_a_cell_without_a_directory_is_missing(tmp_path: Path) -> None:
    cells = sweep(tmp_path, GRID)
    finish(tmp_path, cells[0], 0.5)
    table = capsexp.load_sweep(tmp_path)
    assert table["state"].value_counts().to_dict() == {"missing": 3, "done": 1}
    assert table["path"].isna().sum() == 3


def test_several_sweeps_stand_below_each_other(tmp_path: Path) -> None:
    one, other = finished(tmp_path / "one", GRID), finished(tmp_path / "other", {"model.c2": [5], "seed": [0]})
    table = capsexp.load_sweep(one, str(other))
    assert len(table) == 5
    assert table["axes.model.c2"].notna().tolist() == [False] * 4 + [True]
    assert table["axes.model.c3"].notna().tolist() == [True] * 4 + [False]


def test_an_average_over_seeds_is_one_line(tmp_path: Path) -> None:
    finished(tmp_path, GRID)
    means = capsexp.load_sweep(tmp_path).groupby("axes.model.c3")["test/acc"].mean()
    cells = [cell for cell in records.read_sweep(tmp_path).cells if cell.axes["model.c3"] == 2]  # type: ignore[union-attr]
    assert means[2] == pytest.approx(sum(map(accuracy, cells)) / 2, abs=1e-15)


def test_a_folder_without_a_plan_has_the_axes_in_which_its_cells_differ(tmp_path: Path) -> None:
    configs = [
        {"model": {"c2": 4, "routing": {"iterations": 2}}, "routing": {"iterations": 2}, "seed": 0, "threads": 1},
        {"model": {"c2": 4, "routing": {"iterations": 3}}, "routing": {"iterations": 3}, "seed": 1, "threads": 2},
    ]
    for config in configs:
        cell = records.PlannedCell(records.cell_id(config), f"cell-{records.cell_id(config)}", {})
        directory = finish(tmp_path, cell, accuracy(cell))
        (directory / records.CONFIG).write_text(yaml.safe_dump(config))
    unreadable = records.PlannedCell("0123456789", "cell-0123456789", {})
    (finish(tmp_path, unreadable, 0.5) / records.CONFIG).write_text("a: [")
    table = capsexp.load_sweep(tmp_path)
    axes = [name for name in table.columns if name.startswith("axes.")]
    assert axes == ["axes.routing.iterations", "axes.seed"], "neither what all share nor copies nor volatile keys"
    assert set(table["axes.seed"].dropna()) == {0, 1}
    assert table["state"].tolist() == ["done"] * 3


def test_what_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no sweep was launched"):
        capsexp.load_sweep(tmp_path)
    with pytest.raises(TypeError, match="at least one"):
        capsexp.load_sweep()
