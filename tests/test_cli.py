"""The command as a user types it: what it answers, and with which exit code."""

import io
import json
import os
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capsexp import cli, records
from tests.conftest import results

Run = Callable[..., int]

WRONG = {
    "unknown key": (["model.c9=1"], "model.c9"),
    "unknown option of a group": (["model=resnet"], "model must be one of attention_capsnet, autoencoder, "),
    "unknown data set": (["data=imagenet"], "data must be one of bmnist, "),
    "unknown experiment": (["+experiment=none_such"], "got 'none_such' (the folder of your own options"),
    "two experiments": (["+experiment=a,b", "-m"], "experiment must be one experiment"),
    "wrong type": (["model.c2=wide"], "model.c2 must be a whole number >= 1, got 'wide'"),
    "no channel": (["model.c2=0"], "model.c2 must be a whole number >= 1, got 0"),
    "even kernel": (["model.kernels=[7,4,3]"], "model.kernels must be odd sizes, got 4"),
    "dropout above one": (["model.dropout=1.2"], "model.dropout must be a number in [0, 1), got 1.2"),
    "negative epochs": (["trainer.max_epochs=-2"], "trainer.max_epochs must be a whole number >= 1, got -2"),
    "two devices": (["trainer.devices=2"], "trainer.devices must be 1"),
    "unknown precision": (["trainer.precision=7-bit"], "Precision '7-bit' is invalid"),
    "no such accelerator": (["trainer.accelerator=abacus"], "abacus"),
    "negative rate": (["optimizer.lr=-1"], "Invalid learning rate: -1"),
    "no patience": (["callbacks.peak.patience=0"], "callbacks.peak.patience must be a whole number >= 1, got 0"),
    "a word for a part": (["callbacks.criterion_scores.criterion=word"], "callbacks.criterion_scores must be argument"),
    "no value": (["model.c2=3,???", "-m"], "model.c2 must have a value (refused with model.c2=???, accepted"),
    "no model": (["model=null"], "model must be the name of an option (attention_capsnet, autoencoder, "),
    "no optimizer": (["optimizer=null"], "optimizer must be a group of keys"),
    "name of an optimizer": (["optimizer=sgd"], "(set its keys: optimizer._target_=torch.optim.SGD), got 'sgd'"),
    "swept optimizers": (
        ["optimizer=adamw,sgd", "-m"],
        "(set its keys: optimizer._target_=torch.optim.AdamW)",
    ),
    "unknown optimizer": (["optimizer=lion"], "(set its keys: optimizer._target_=torch.optim.SGD, optimizer.lr=0.1)"),
    "a folder as paths": (
        ["paths=here"],
        "paths must be a group of keys (set its keys: paths.output=FOLDER), got 'here'",
    ),
    "a name as sweep": (["sweep=mine"], "sweep must be a group of keys (set its keys: sweep.name=NAME), got 'mine'"),
    "no paths": (["~paths"], "paths must be a group of keys (set its keys: paths.output=FOLDER), got None"),
    "a name as source": (["data.source=mnist"], "data.source must be a group of keys, or null (set its keys: "),
    "a name as launcher": (["hydra.launcher=basic"], "hydra.launcher must be a group of keys (choose one with hydra/"),
    "unknown class": (["optimizer._target_=torch.optim.Adamant"], "optimizer._target_ must name something"),
    "unknown recipe": (["recipe._target_=capsexp.recipes.train.Trane"], "recipe._target_ must name something"),
    "a recipe that is none": (["recipe._target_=os.getcwd"], "recipe._target_ must name a subclass of"),
    "another directory": (["hydra.run.dir=elsewhere"], "hydra.run.dir must be left as it is"),
    "a swept folder": (["sweep.name=a,b", "-m"], "sweep.name must be one value"),
    "no history": (["callbacks.history=null"], "callbacks.history must be there"),
    "criterion's option": (["pruning.norm=3"], "pruning.norm must be a whole number from 1 to 2, got 3"),
    "selection split": (["data.select_on=train"], "data.select_on must be one of val, test, got 'train'"),
    "batch size": (["data.batch_size=0"], "data.batch_size must be a whole number"),
    "seed": (["seed=-1"], "seed must be a whole number from 0 to 4294967295, got -1"),
    "threads": (["threads=none"], "threads must be a whole number from 1 to 4096, got 'none'"),
    "no place for stages": (["~paths.stages"], "paths.stages must be there, got None"),
    "wandb mode": (["logger.wandb.mode=always"], "logger.wandb.mode must be one of auto, online, offline, disabled"),
    "missing file": (["data.path=nowhere.npz"], "data.path must name an existing .npz file"),
    "a folder": (["data.path=."], "data.path must name a file, not a folder"),
    "unlisted sweep": (["model.c2=interval(1,3)", "-m"], "model.c2 must be swept over listed values"),
    "broken override": (["model.c2=["], "'['"),
    "crop larger than the image": (["augment.size=40"], "augment.size"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_told_in_one_line(
    name: str, run: Run, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, words = WRONG[name]
    capsys.readouterr()
    assert (
        run(*[word for word in quick if not (name.startswith("wandb") and word.startswith("logger.wandb"))], *arguments)
        == 2
    )
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("capsexp: error: ")
    assert told.err.count("\n") == 1
    assert words in told.err


def _npz(**changes: object) -> bytes:
    images, labels = np.zeros((8, 32, 32), np.uint8), np.arange(8) % 2
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels} | changes
    stream = io.BytesIO()
    np.savez(stream, **{key: np.asarray(value) for key, value in arrays.items()})
    return stream.getvalue()


FILES = {
    "truncated": (lambda: _npz()[:900], "data.path"),
    "no archive": (lambda: b"hello", "data.path"),
    "pickles": (lambda: _npz(x_train=np.array([{}] * 8, dtype=object)), "x_train"),
    "wrong dtype": (lambda: _npz(x_train=np.zeros((8, 32, 32))), "x_train"),
    "not numbers": (lambda: _npz(y_train=np.full(8, np.nan)), "y_train"),
    "labels out of range": (lambda: _npz(y_test=np.full(8, 5)), "y_test"),
    "lengths that differ": (lambda: _npz(y_train=np.arange(7) % 2), "y_train"),
    "one class": (lambda: _npz(y_train=np.zeros(8, int), y_test=np.zeros(8, int)), "class"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_told_in_one_line(
    name: str, run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, words = FILES[name]
    (in_tmp / "bad.npz").write_bytes(content())
    assert run(*quick, "data.path=bad.npz") == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert words in told.err
    assert "bad.npz" in told.err


def test_no_network_is_told_in_one_line(
    run: Run, quick: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(**_: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", unreachable)
    assert run(*quick, "data.path=null") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "data.path=FILE.npz" in told
    assert "CAPSEXP_DATA" in told


def test_a_folder_that_cannot_be_written_is_told_in_one_line(
    run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_tmp / "multirun").write_text("a file")
    assert run(*quick) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "multirun" in told


VOLATILE = (
    *("threads=none", "threads=0", "trainer.devices=2", "trainer.accelerator=abacus", "trainer.progress=maybe"),
    *("trainer.log_every_n_steps=-1", "logger.wandb.mode=always", "logger.wandb=disabled", "paths.cache=null"),
    *("logger.wandb.mode=offline logger.wandb.timeout_s=0", "logger.wandb.mode=offline logger.wandb.project=a/b"),
    *("callbacks.resume.min_interval_s=-1", "+callbacks.resume.every=3", "+callbacks.divergence.last=3"),
    *("callbacks.memory_check=1", "data.source.cache=3", "sweep.rerun=some", "sweep.name=..", "report=mine"),
)
"""Wrong values of keys that are no part of a cell's id; the last word is the wrong one."""


def test_mistakes_lose_nothing(run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*quick) == 0
    before = results(in_tmp)
    assert run(*quick, "trainer.progress=true") == 0  # the same work, finished: nothing to build
    for wrong in VOLATILE:
        assert run(*quick, *wrong.split()) == 2, wrong
        assert f"error: {wrong.split()[-1].partition('=')[0].lstrip('+')} must " in capsys.readouterr().err
    assert run(*quick, "model.c2=0") == 2
    assert run(*quick, "model.c9=0") == 2
    capsys.readouterr()
    assert run(*quick, "+report.titel=x", "-m") == 2
    assert "error: report.titel must be " in capsys.readouterr().err
    axis = "+report.figures=[{kind: heatmap, x: model.c2, y: %s, metric: test/acc}]"
    assert run(*quick, axis % "optimiser.lr", "-m") == 2
    said = "error: report.figures[0].y must name a key of the sweep's configs (optimizer.lr is the most like it), got "
    assert capsys.readouterr().err == f"capsexp: {said}'optimiser.lr'\n"
    assert results(in_tmp) == before
    assert run(*quick, axis % "optimizer.lr", "+report.columns=[test/accuracy]", "-m") == 0  # a key that is not swept
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "report.figures[0].x: model.c2 is not swept in this sweep, so nothing is drawn"
    assert "  report.columns[0]: the cells have no metric test/accuracy (test/acc is the most like it)" in lines
    assert results(in_tmp) == before


def test_the_version_is_that_of_the_package(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert run("--version") == 0
    assert capsys.readouterr().out == f"capsexp {project['version']}\n"


@pytest.mark.parametrize("given", [None, "active"])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(
    run: Run, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    """Before torch is loaded: OpenMP reads the variable then."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    assert run("model.c9=1") == 2
    assert os.environ["OMP_WAIT_POLICY"] == (given or "passive")


@pytest.mark.parametrize("position", [0, 1, -1])
def test_multirun_flag_may_stand_anywhere(run: Run, quick: list[str], in_tmp: Path, position: int) -> None:
    words = [*quick, "model.c2=2,3"]
    words.insert(position % (len(words) + 1), "-m")
    assert run(*words) == 0
    assert [name[:5] for name in results(in_tmp)] == ["c2-02", "c2-03"]


@pytest.mark.parametrize("plus", ["", "+"])
def test_experiment_with_and_without_its_plus(plus: str) -> None:
    assert cli.normalise([f"{plus}experiment=cnn_prune", "--multirun"]) == ["--multirun", "+experiment=cnn_prune"]


def test_sweep_again_runs_only_what_is_missing(
    run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*quick, "model.c2=2,3", "-m") == 0
    first = {path: path.stat().st_mtime_ns for path in in_tmp.rglob("result.json")}
    capsys.readouterr()
    assert run(*quick, "model.c2=3,4,2", "-m") == 0
    assert capsys.readouterr().out.count("already done, not run again") == 2
    assert len(results(in_tmp)) == 3
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in first.items())
    sweep = records.read_sweep(in_tmp / "multirun" / "adhoc")
    assert sweep is not None
    assert [cell.axes for cell in sweep.cells] == [{"model.c2": 3}, {"model.c2": 4}, {"model.c2": 2}]


def test_results_carry_the_swept_values_and_their_protocol(run: Run, quick: list[str], in_tmp: Path) -> None:
    assert run(*quick, "model.c2=2,3", "data.select_on=test", "-m") == 0
    for body in results(in_tmp).values():
        assert body["axes"]["model.c2"] in (2, 3)
        assert body["training"]["select_on"] == "test"
        assert body["data"]["n_val"] == body["data"]["n_test"]
        assert body["environment"]["threads"] == 1


def test_the_working_folder_and_the_users_environment_stay(
    run: Run, quick: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    argv = sys.argv
    assert run(*quick) == 0
    assert (Path.cwd(), os.environ["HYDRA_FULL_ERROR"], sys.argv) == (in_tmp, "0", argv)


def test_a_clusters_variables_do_not_disturb_a_cell(
    run: Run, quick: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NTASKS": "8", "JOB_NAME": "sweep", "JOB_ID": "7", "NNODES": "2", "PROCID": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert run(*quick) == 0
    assert len(results(in_tmp)) == 1


def test_help_is_readable() -> None:
    told = subprocess.run([sys.executable, "-m", "capsexp", "--help"], capture_output=True, text=True, check=True)
    assert told.stderr == ""
    for words in ("Usage", "+experiment=NAME", "cnn_prune", "max_epochs"):
        assert words in told.stdout


def test_wandb_keeps_one_readable_run_a_cell_offline(run: Run, quick: list[str], in_tmp: Path) -> None:
    online = [word for word in quick if not word.startswith("logger.wandb")]
    assert run(*online, "logger.wandb.mode=offline", "model.c2=2,3", "-m") == 0
    files = sorted(in_tmp.rglob("run-*.wandb"))
    assert len(files) == 2
    for file, (name, body) in zip(files, results(in_tmp).items(), strict=True):
        seen = summary_of(file)
        assert (seen["name"], seen["run_id"], seen["state"]) == (name[:-11], f"adhoc-{body['id']}", "finished")
        assert seen["summary"]["test/acc"] == pytest.approx(body["metrics"]["test/acc"])
        assert seen["summary"]["model.c2"] == seen["config"]["model"]["c2"] == body["axes"]["model.c2"]
        entries = [json.loads(line) for line in read_offline_run(file).splitlines()]
        (run_entry,) = (entry["run"] for entry in entries if entry["type"] == "run")
        assert run_entry["run_group"] == "adhoc"
        logged = {key for entry in entries if entry["type"] == "history" for key in entry["history"]["item"]}
        assert {"train/loss", "val/acc", "similarity/conv2/max"} <= logged


def summary_of(file: Path) -> dict[str, Any]:
    """The summary of an offline run; wandb-core writes the end of its file just after `finish`."""
    until = time.monotonic() + 60
    while True:
        try:
            seen: dict[str, Any] = json.loads(read_offline_run(file, "--summary"))
        except (subprocess.CalledProcessError, ValueError):
            seen = {}
        if seen.get("state") == "finished" or time.monotonic() > until:
            return seen
        time.sleep(0.1)


def read_offline_run(file: Path, *how: str) -> str:
    """What Weights & Biases' own reader finds in the file of an offline run."""
    line = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *how, str(file)]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def test_an_npz_written_with_deflate_is_read(run: Run, quick: list[str], tiny_npz: Path, in_tmp: Path) -> None:
    with np.load(tiny_npz) as arrays:
        np.savez_compressed(in_tmp / "small.npz", **arrays)
    assert zipfile.ZipFile(in_tmp / "small.npz").infolist()[0].compress_type == zipfile.ZIP_DEFLATED
    assert run(*quick, "data.path=small.npz") == 0


def test_the_console_script_finds_modules_of_the_current_folder(tmp_path: Path) -> None:
    """As ``python -m capsexp`` does: a user's own recipes and models may lie there."""
    (tmp_path / "mine.py").write_text("HERE = True\n")
    script = (
        "import sys; from capsexp import cli; sys.path[:] = [each for each in sys.path if each];"
        "cli.main = lambda _: int(__import__('mine').HERE) + 41;"
        "cli.entry()"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False).returncode == 42
