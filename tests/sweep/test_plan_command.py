"""``python -m capsexp.plan``: what a command would do, and that it does nothing."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from capsexp import plan, records
from capsexp.sweep.names import MOST
from capsexp.text import roughly
from tests.conftest import quick_words, ran_in

Run = Callable[..., int]
Tell = Callable[..., str]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """What the command prints; it must end well."""

    def told(*arguments: str) -> str:
        capsys.readouterr()
        assert plan.main(arguments) == 0
        return capsys.readouterr().out

    return told


@pytest.fixture(scope="module")
def three_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a sweep of three cells leaves."""
    return ran_in(tmp_path_factory.mktemp("three_done"), "model.c2=2,3,5", "-m") / "multirun"


@pytest.fixture
def done(three_done: Path, in_tmp: Path) -> Path:
    """A copy of them, in the folder that the command of :func:`quick` writes to."""
    return Path(shutil.copytree(three_done, in_tmp / "multirun")) / "adhoc"


def test_count_axes_first_and_last(tell: Tell, quick: list[str], in_tmp: Path) -> None:
    told = tell(*quick, "model.c2=2,4,3", "seed=range(0,20)", "-m")
    assert told.splitlines()[0] == "adhoc: 60 cells in multirun/adhoc"
    assert "  model.c2: 2, 4, 3  (3 values)" in told
    assert "  seed: 0, 1, 2, 3, 4, ..., 18, 19  (20 values)" in told
    assert re.search(r"^  first: c2-02_seed-00-[0-9a-f]{10}$", told, re.MULTILINE)
    assert re.search(r"^  last:  c2-03_seed-19-[0-9a-f]{10}$", told, re.MULTILINE)
    assert "now: 60 pending; to run: 60" in told
    assert "time: not known, no such cell has been measured yet" in told
    assert not (in_tmp / "multirun").exists()


def test_axes_of_the_report_that_are_not_swept(tell: Tell, quick: list[str]) -> None:
    figure = "+report.figures=[{kind: heatmap, x: model.c2, y: model.c3, metric: test/acc%s}]"
    told = tell(*quick, "model.c2=2,3", figure % ", where: {seed: 0}", "-m")
    instead = "is not swept in this sweep, so lines over model.c2 are drawn instead of a heatmap"
    assert [line for line in told.splitlines() if "report." in line] == [
        f"  report.figures[0].y: model.c3 {instead}",
        "  report.figures[0].where: seed is averaged over, so the report has nothing to show for it",
    ]
    assert "report." not in tell(*quick, "model.c2=2,3", "model.c3=2,3", figure % "", "-m")


def test_what_is_done_and_what_the_rest_will_cost(
    tell: Tell, three_done: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPSEXP_CACHE", str(three_done.parent / "cache"))
    quick = quick_words(three_done.parent / "tiny.npz")
    first, second, third = sorted(records.cell_directories(done).values())
    for cell, seconds in ((first, 100.0), (second, 140.0)):
        body = records.read_result(cell)
        assert body is not None
        records.write_result(cell, {**body, "clocks": {"total_s": seconds}, "numerics": 0 if cell == second else 1})
    status = records.read_status(third)
    assert status is not None
    records.write_status(third, status.now("failed", "RuntimeError: x", "exception"))
    (third / records.RESULT).unlink()
    (third.parent / "c2-09-0123456789").mkdir()
    told = tell(*quick, "model.c2=2,3,4,5", "-m", "hydra/launcher=capsexp", "hydra.launcher.max_cells=2")
    because = "(1 stale: its numbers come from older code; sweep.rerun=stale runs them again)"
    assert f"now: 1 done, 1 failed, 1 pending, 1 stale; 1 orphaned; to run: 2 {because}" in told
    assert "time: about 2 min, 2 cells at a time (mean of 1 finished cell: 100.0 s)" in told
    assert re.search(r"disk: about \d+ kB more \(\d+(\.\d)? kB per cell\); .* are free", told)
    # A sweep that has measured nothing yet counts cells of the same work, with other seeds or orphaned, and no others.
    known = int(first.name[3:5])
    for name in ("other", "adhoc"):
        told = tell(*quick, f"model.c2={known},7", "seed=5", f"sweep.name={name}", "-m")
        assert "(mean of 1 finished cell of the same work: 100.0 s)" in told
        assert "not known" in tell(*quick, "model.c2=8,9", f"sweep.name={name}", "-m")
        more = f"trainer.max_epochs={77}"
        assert "not known" in tell(*quick, f"model.c2={known}", more, f"sweep.name={name}", "-m")


def test_a_few_steps_tell_how_long_it_takes(tell: Tell, quick: list[str], in_tmp: Path) -> None:
    words = [*quick, "trainer.max_epochs=1000", "hydra/launcher=capsexp", "hydra.launcher.max_cells=2", "--measure"]
    told = tell(*words, "model.c2=2,3", "-m")
    counts = r"measured: 2 cells, each alone; a training step of [\d.]+ to [\d.]+ ms, 5 per epoch; .* for 1000 epochs"
    assert re.search(counts, told), told
    assert re.search(r"time: up to .*, 2 cells at a time \(if none stops early\)", told), told
    walk = tell(*words, "recipe=merge_walk", "+pruning.merge=true", "pruning=cosine")
    assert "(if none stops early, for the first fit alone: this recipe has others)" in walk
    assert list(in_tmp.iterdir()) == []


def test_nothing_left(tell: Tell, run: Run, quick: list[str]) -> None:
    assert run(*quick) == 0
    told = tell(*quick)
    assert "adhoc: 1 cell in multirun/adhoc" in told
    assert "now: 1 done; to run: 0" in told
    assert "time: none, nothing is left to run" in told


def test_what_is_asked_to_run_again_counts(tell: Tell, quick: list[str], done: Path) -> None:
    first = min(records.cell_directories(done).values())
    (first / records.RESULT).unlink()
    status = records.read_status(first)
    assert status is not None
    records.write_status(first, status.now("failed", "RuntimeError: x", "exception"))
    counts = {"failed": 1, "null": 0, "all": 3, "stale": 0, first.name[-10:]: 1}
    for words, count in counts.items():
        assert f"to run: {count}\n" in tell(*quick, "model.c2=2,3,5", "-m", f"sweep.rerun={words}")
    assert (first / records.STATUS).exists()
    assert not (first / records.PREVIOUS_RESULT).exists()


def test_without_m_it_is_one_cell_as_for_the_command(tell: Tell, run: Run, in_tmp: Path) -> None:
    told = tell("+experiment=cnn_prune", "model.c2=7")
    assert told.startswith("cnn_prune: 1 cell in multirun/cnn_prune\n")
    assert "first: c2-07_c3-16-" in told
    assert "cells" not in told.splitlines()[0]


def test_mistakes_are_told_as_by_the_command_itself(quick: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in {
        ("model.c9=1,2", "-m"): "model.c9",
        ("model.c2=range(3,3)", "-m"): "sweep must have at least one cell",
        ("hydra/launcher=capsexp", "hydra.launcher.retries=-1", "-m"): "hydra.launcher.retries must be a whole number",
        ("hydra/launcher=capsexp", "+hydra.launcher.cpus=1", "-m"): "hydra.launcher.cpus must be one of cpus_per_cell",
    }.items():
        capsys.readouterr()
        assert plan.main([*quick, *words]) == 2
        told = capsys.readouterr().err
        assert told.startswith("capsexp: error: ")
        assert expected in told


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("logger.wandb.project=a/b", "logger.wandb.project must be a text of 1 to 128 characters"),
        ("logger.wandb.entity='x:y'", "logger.wandb.entity must be a text of 1 to 128 characters"),
        ("sweep.name='  '", "sweep.name must be a text whose parts"),
    ],
)
def test_names_that_wandb_would_refuse_stop_a_sweep_before_it_begins(
    word: str, expected: str, run: Run, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("model.c2=2,3", "logger.wandb.mode=offline", word, "-m") == 2
    assert expected in capsys.readouterr().err
    assert not (in_tmp / "multirun").exists()


def test_as_a_command_from_anywhere(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "capsexp.plan", "+experiment=cnn_prune", "-m"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.startswith("cnn_prune: 225 cells in multirun/cnn_prune\n")
    assert list(tmp_path.iterdir()) == []


def test_times_as_people_say_them() -> None:
    said = {12.4: "12 s", 100: "2 min", 5000: "83 min", 7200: "2 h 0 min", 100_000: "27 h 47 min", 200_000: "2 d 7 h"}
    assert {seconds: roughly(seconds) for seconds in said} == said


# -- the folder of a sweep that nobody has named ----------------------------------------------------------------------

NAMES = {
    "axes": (["model.c2=4,8", "seed=0,1"], "c2_x_seed"),
    "in any order, more values": (["seed=0,1,2", "model.c2=8,4"], "c2_x_seed"),
    "a group": (["data=digits,mnist", "model.c2=3"], "data_c2-3"),
    "fixed values": (["model.c2=4,8", "data=mnist", "trainer.max_epochs=3"], "c2_data-mnist_max_epochs-3"),
    "what does not matter": (["model.c2=4,8", "threads=1", "logger.wandb.mode=offline", "hydra.verbose=false"], "c2"),
    "a data file": (["model.c2=4,8", "data.path=/some/where/my.own.npz"], "c2_path-my.own"),
    "a new key": (["+recipe.number=1,2"], "number"),
    "the same last part": (["data.split_seed=1,2", "augment.size=20,24", "+recipe.size=1,2"], None),
    "a list": (["model.kernels=[7,5,3],[5,5,3]", "seed=1"], "kernels_seed-1"),
    "an experiment": (["+experiment=cnn_baseline", "seed=0,1"], "cnn_baseline"),
    "nothing is swept": (["model.c2=4"], "c2-4"),
    "a name": (["model.c2=4,8", "sweep.name=mine"], "mine"),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_says_what_is_swept(name: str, tell: Tell, in_tmp: Path, tiny_npz: Path) -> None:
    words, expected = NAMES[name]
    own = tiny_npz.rename(tiny_npz.with_name("my.own.npz"))
    words = [word.replace("/some/where/my.own.npz", str(own)) for word in words]
    first = tell(*words, "-m").splitlines()[0]
    folder = first.partition(" in multirun/")[2]
    assert folder == (expected or "augment.size_x_recipe.size_x_split_seed")


def test_a_long_name_is_cut_and_still_its_own(tell: Tell) -> None:
    words = [f"+recipe.some_rather_long_key_{number}={number}" for number in range(9)]
    told = [tell(*words, f"+recipe.last={value}", "model.c2=4,8", "-m") for value in "ab"]
    folders = {each.split("multirun/")[1].split()[0] for each in told}
    assert len(folders) == 2
    assert all(len(folder) <= MOST for folder in folders)


def test_jobs_and_plan_agree_on_the_name(run: Run, quick: list[str], in_tmp: Path) -> None:
    words = [word for word in quick if not word.startswith("sweep.name")]
    assert run(*words, "model.c2=2,3", "-m") == 0
    (folder,) = (in_tmp / "multirun").iterdir()
    assert folder.name.startswith("c2_")
    assert len(records.cell_directories(folder)) == 2
    assert run(*words, "model.c2=2") == 0
    assert {path.name for path in (in_tmp / "multirun").iterdir()} == {folder.name, "adhoc"}


def test_the_launch_is_on_record(three_done: Path) -> None:
    directory = three_done / "adhoc"
    sweep = records.read_sweep(directory)
    assert sweep is not None
    assert {"time", "host", "python", "versions", "git"} == sweep.launch.keys()
    assert sweep.launch["versions"]["hydra-core"] == "1.3.8"
    frozen = records.read_configs(directory)
    assert list(frozen) == [cell.id for cell in sweep.cells]
    assert [cell.config["model"]["c2"] for cell in frozen.values()] == [2, 3, 5]
    for identifier, cell in frozen.items():
        assert records.cell_id(cell.config, records.file_sha256(Path(cell.config["data"]["path"]))) == identifier
