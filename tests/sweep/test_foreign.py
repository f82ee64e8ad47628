"""Sweepers and launchers that are not ours, beside ours: which of them plan, and what becomes of failures."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pytest

from capsexp import hardware, plan, records
from capsexp.cell import Cell, CellOutcome
from capsexp.engine.base import Group, Listener, Summary
from capsexp.engine.options import Layout, Options
from capsexp.engine.worker import CellWork
from capsexp.sweep import run as sweep_run

Run = Callable[..., int]


class Engine:
    """Ends each cell at once: done, with the nearer a score to 1 the nearer ``c2`` is to 5; above 7 it fails."""

    threads: set[int]

    def __init__(self, options: Options, layout: Layout, _: CellWork) -> None:
        self.at_once = layout.most
        Engine.threads.add(layout.threads)

    def run(self, groups: Sequence[Group], listener: Listener) -> Summary:
        cells = [cell for group in groups for cell in group]
        return Summary({cell.id: self._end(cell) for cell in cells})

    def _end(self, cell: Cell) -> CellOutcome:
        cell.directory.mkdir(parents=True, exist_ok=True)
        c2 = cell.config["model"]["c2"]
        status = records.Status("failed", cell.id, cause="too wide") if c2 > 7 else records.Status("done", cell.id)
        records.write_status(cell.directory, status)
        return CellOutcome(status, f"{status.state}: {status.cause}", None if c2 > 7 else 1 / (1 + abs(c2 - 5)))


@pytest.fixture
def words(quick: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(sweep_run, "LocalEngine", Engine)
    monkeypatch.setattr(hardware, "cores", lambda: 16)
    Engine.threads = set()
    return [word for word in quick if not word.startswith(("hydra/launcher", "model.c2"))]


def planned(folder: Path) -> records.Sweep:
    sweep = records.read_sweep(folder / "multirun" / "adhoc")
    assert sweep is not None
    return sweep


def test_a_search_plans_each_batch_and_finds_the_best(run: Run, words: list[str], in_tmp: Path) -> None:
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=8", "hydra.sweeper.n_jobs=2", "model.c2=range(2,8)"]
    assert run(*words, *search, "data.select_on=val,test", "-m") == 0
    sweep = planned(in_tmp)
    assert sweep.axes["model.c2"] == list(dict.fromkeys(cell.axes["model.c2"] for cell in sweep.cells))
    assert set(sweep.axes) == {"model.c2", "data.select_on"}
    frozen = records.read_configs(in_tmp / "multirun" / "adhoc")
    assert [frozen[cell.id].config["model"]["c2"] for cell in sweep.cells] == [
        cell.axes["model.c2"] for cell in sweep.cells
    ]
    lines = (in_tmp / "multirun" / "adhoc" / "optimization_results.yaml").read_text().splitlines()
    best = {key: json.loads(value) for key, _, value in (line.partition(": ") for line in lines)}
    scores = [1 / (1 + abs(cell.axes["model.c2"] - 5)) for cell in sweep.cells]
    assert best["best_value"] == max(scores)
    assert 1 / (1 + abs(best["best_params"]["model.c2"] - 5)) == max(scores)
    before = sweep.cells
    assert run(*words, *search, "data.select_on=val,test", "-m") == 0
    assert planned(in_tmp).cells[: len(before)] == before  # the same command goes on with the same plan


@pytest.mark.parametrize("rate", ["0.0", "1.0"])
def test_a_search_ends_when_too_many_cells_fail(
    rate: str, run: Run, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", f"hydra.sweeper.max_failure_rate={rate}"]
    assert run(*words, *search, "hydra.sweeper.storage=sqlite:///search.db", "model.c2=4,9,10,11", "-m") == 1
    storage = optuna.storages.RDBStorage("sqlite:///search.db")
    trials = optuna.load_study(study_name="adhoc", storage=storage).trials
    storage.engine.dispose()
    assert {trial.state.name for trial in trials if trial.params["model.c2"] != "4"} == {"FAIL"}
    told = capsys.readouterr()
    assert ("cells of a batch failed, more than hydra.sweeper.max_failure_rate=0 allows" in told.err) == (rate == "0.0")
    assert "failed" in told.out


@pytest.mark.parametrize(
    ("words_wrong", "expected"),
    [
        (["hydra.sweeper.n_trials=0", "model.c2=2,3"], "hydra.sweeper.n_trials must be a whole number >= 1"),
        (["hydra.sweeper.direction=up", "model.c2=2,3"], "hydra.sweeper.direction must be one of"),
        (["model.c2=3"], "hydra/sweeper must be capsexp where nothing is swept"),
        (["+hydra.sweeper.foo=2", "model.c2=2,3"], "hydra.sweeper must have the options in"),
        (["hydra.sweeper.storage=sqlite:////nowhere/x.db", "model.c2=2,3"], "hydra.sweeper.storage must be a storage"),
        (["hydra.sweeper.sampler._target_=optuna.samplers.Nope", "model.c2=2,3"], "hydra.sweeper.sampler must be a"),
        (["optimizer.lr=tag(log,interval(0,1))"], "optimizer.lr must have values to search"),
    ],
)
def test_a_wrong_search_is_refused(
    words_wrong: list[str], expected: str, run: Run, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "hydra/sweeper=optuna", *words_wrong, "-m") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"capsexp: error: {expected}")
    assert error.count("\n") == 1


def test_all_cells_of_a_search_have_equally_many_threads(run: Run, words: list[str]) -> None:
    """Also those of a search that goes on, since results with other threads differ in the last digits."""
    auto = [word for word in words if word != "threads=1"]
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_jobs=2", "model.c2=2,3,4,5,6,7", "-m"]
    assert run(*auto, *search, "hydra.sweeper.n_trials=5") == 0
    assert run(*auto, *search, "hydra.sweeper.n_trials=6") == 0
    assert Engine.threads == {8}


def test_hydras_sweeper_tells_failures_as_ours_does(
    run: Run, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "hydra/sweeper=basic", "model.c2=4,9", "-m") == 1
    told = capsys.readouterr()
    assert told.err == ""
    assert "1 failed; report:" in told.out


def test_hydras_sweeper_keeps_an_experiments_axes(run: Run, words: list[str], in_tmp: Path) -> None:
    grid = ["+experiment=cnn_prune", "sweep.name=adhoc", "model.c2=4", "model.c3=4,5", "-m"]
    fixed = [word for word in words if not word.startswith("model")]
    assert run(*fixed, *grid, "hydra/sweeper=basic") == 0
    basic = planned(in_tmp)
    assert run(*fixed, *grid) == 0
    assert (basic.cells, basic.axes) == (planned(in_tmp).cells, planned(in_tmp).axes)
    assert [cell.name.rpartition("-")[0] for cell in basic.cells] == ["c2-04_c3-04", "c2-04_c3-05"]


@pytest.mark.parametrize("word", ["sweep.name=a,b", "hydra.sweep.dir=elsewhere"])
def test_hydras_sweeper_moves_no_cells(word: str, run: Run, words: list[str], in_tmp: Path) -> None:
    assert run(*words, "hydra/sweeper=basic", "model.c2=4", word, "-m") == 2
    assert not (in_tmp / "multirun" / "adhoc" / records.SWEEP).exists()


def test_hydras_sweeper_gives_our_launcher_the_same_cells(run: Run, words: list[str], in_tmp: Path) -> None:
    assert run(*words, "hydra/sweeper=basic", "model.c2=2,3", "model.c3=4,5", "-m") == 0
    basic = planned(in_tmp)
    assert run(*words, "model.c2=2,3", "model.c3=4,5", "-m") == 0
    ours = planned(in_tmp)
    assert (basic.cells, basic.axes) == (ours.cells, ours.axes)


def test_without_any_plan_a_sweep_has_a_name_and_says_so(
    run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = [*quick, "hydra/sweeper=basic", "model.c2=2,3", "model.c3=2", "trainer.max_epochs=1", "-m"]
    assert run(*[word for word in foreign if not word.startswith("sweep.name")]) == 2
    assert "sweep.name must be given unless hydra/sweeper or hydra/launcher is capsexp" in capsys.readouterr().err
    assert run(*foreign) == 0
    assert capsys.readouterr().out.count("runs without a plan") == 2
    cells = records.cell_directories(in_tmp / "multirun" / "adhoc")
    assert len(cells) == 2
    assert not (in_tmp / "multirun" / "adhoc" / records.SWEEP).exists()


def test_another_launchers_jobs_find_their_folder_whatever_its_name(run: Run, quick: list[str], in_tmp: Path) -> None:
    words = [word for word in quick if not word.startswith("sweep.name")]
    assert run(*words, r"sweep.name='it\'s, a/b'", "model.c2=2", "model.c3=2,3", "trainer.max_epochs=1", "-m") == 0
    assert len(records.cell_directories(in_tmp / "multirun" / "it's, a/b")) == 2


def test_another_launcher_gets_our_cells_in_batches(run: Run, quick: list[str], in_tmp: Path) -> None:
    grid = ["hydra.sweeper.max_batch_size=1", "model.c2=2,3", "model.c3=2", "trainer.max_epochs=1", "-m"]
    assert run(*quick, *grid) == 0
    directory = in_tmp / "multirun" / "adhoc"
    assert {cell.id for cell in planned(in_tmp).cells} == set(records.cell_directories(directory))
    assert (directory / "multirun.yaml").exists()


def test_a_job_of_no_plan_is_refused(run: Run, quick: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*quick, "sweep.cell='adhoc/0123456789'") == 2
    assert "sweep.cell must name a cell that is planned in" in capsys.readouterr().err


def test_a_search_cannot_be_shown_beforehand(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main([*words, "hydra/sweeper=optuna", "model.c2=2,3", "-m"]) == 2
    assert "hydra/sweeper must be capsexp or basic" in capsys.readouterr().err


def test_the_folder_alone(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--folder", *words, "model.c2=2,3", "-m"]) == 0
    assert capsys.readouterr().out == "multirun/adhoc\n"


@pytest.mark.parametrize("word", ["hydra.sweep.dir=elsewhere", "hydra.sweep.subdir=x"])
def test_cells_lie_where_the_plan_says(
    word: str, run: Run, words: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, word, "model.c2=2,3", "-m") == 2
    assert f"{word.partition('=')[0]} must be left as it is" in capsys.readouterr().err
    assert not (in_tmp / "multirun").exists()


def test_a_search_that_ends_early_has_its_best_values_and_no_earlier_ones(
    run: Run, words: list[str], in_tmp: Path
) -> None:
    best = in_tmp / "multirun" / "adhoc" / "optimization_results.yaml"
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_jobs=20", "hydra.sweeper.n_trials=20", "-m"]
    assert run(*words, *search, "model.c2=5,9") == 1
    assert "best_value: 1" in best.read_text()
    assert run(*words, *search, "model.c2=8,9") == 1
    assert not best.exists()


def test_the_last_value_of_a_stepped_range_is_searched_without_a_warning(run: Run, words: list[str]) -> None:
    assert run(*words, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "model.c2=range(2,8,step=4)", "-m") == 0
