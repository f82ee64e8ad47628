"""The scripts in examples/ do what they say, in processes of their own."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import results

EXAMPLES = Path(__file__).parents[1] / "examples"


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, in the present folder; what it wrote is kept."""
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "load_and_predict.py",
        "own_criterion.py",
        "own_routing.py",
    }


def test_a_finished_cell_predicts_what_its_result_says(run: Callable[..., int], in_tmp: Path) -> None:
    assert run("trainer.max_epochs=1", "threads=1", "logger.wandb.mode=disabled") == 0
    ((name, result),) = results(in_tmp).items()

    shown = python(EXAMPLES / "load_and_predict.py", Path("multirun", "adhoc", name))

    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].split()[3:] == [f"{result['metrics']['test/acc']:.6f}", f"({result['data']['n_test']}", "images)"]
    assert lines[1].split()[-1] == lines[0].split()[3]
    assert [line.count(",") for line in lines[2:]] == [9, 9]


def test_a_directory_without_a_finished_cell_is_named_in_one_line(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has torch already."""
    script = EXAMPLES / "load_and_predict.py"
    monkeypatch.setattr(sys, "argv", [str(script), "nowhere"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "nowhere" in told


def test_an_own_routing_trains_in_a_sweep(in_tmp: Path) -> None:
    """Its workers run the script again, which imports torch."""
    small = ["model.c1=8", "model.c2=16", "model.decoder=null", "trainer.max_epochs=1", "data.batch_size=256"]
    quick = [*small, "threads=1", "logger.wandb.mode=disabled", "sweep.name=own"]
    shown = python(EXAMPLES / "own_routing.py", *quick, "routing.iterations=2,3", "-m")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[-1].startswith("2 of 2 cells done")
    assert len(results(in_tmp / "multirun" / "own")) == 2
    ((name, body), *_) = results(in_tmp / "multirun" / "own").items()
    assert "iterations-" in name
    assert body["metrics"]["test/acc"] > 0


def test_an_own_criterion_cuts_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    """In this process, which has torch already."""
    script = EXAMPLES / "own_criterion.py"
    with torch.random.fork_rng(), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("{'conv1': 16, 'conv2': 24, 'conv3': 32} -> {'conv1': 12, 'conv2': 18, 'conv3': 24}")
    assert float(lines[1].split()[-1]) < 1e-5
    before, behind, again = (float(line.split()[-1]) for line in lines[2:])
    assert before > 0.8
    assert behind < before
    assert again > before - 0.05


def test_an_own_criterion_is_named_in_a_command(
    run: Callable[..., int], quick: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    own = ["pruning._target_=own_criterion.MeanActivation", "~pruning.norm", "recipe.correlation_weight=0"]
    assert run(*quick, "recipe=prune_and_retrain", *own, "trainer.max_epochs=1") == 0
    (body,) = results(in_tmp).values()
    assert body["metrics"]["pruned/acc"] == body["metrics"]["test/acc"]
