"""The scripts in examples/ do what they say, in this process where that is the same: it has torch already."""

import re
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


def run_as_script(name: str) -> int:
    """A script of examples/ in this process, with the ``sys.argv`` that there is; its exit code."""
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "load_and_predict.py",
        "own_criterion.py",
        "own_routing.py",
        "plain_pytorch.py",
    }


def test_a_finished_cell_predicts_what_its_result_says(
    run: Callable[..., int], in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("trainer.max_epochs=1", "threads=1", "logger.wandb.mode=disabled") == 0
    ((name, result),) = results(in_tmp).items()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["load_and_predict.py", str(Path("multirun", "adhoc", name))])
    assert run_as_script("load_and_predict.py") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[3:] == [f"{result['metrics']['test/acc']:.6f}", f"({result['data']['n_test']}", "images)"]
    assert lines[1].split()[-1] == lines[0].split()[3]
    assert [line.count(",") for line in lines[2:]] == [9, 9]


def test_a_directory_without_a_finished_cell_is_named_in_one_line(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["load_and_predict.py", "nowhere"])
    assert run_as_script("load_and_predict.py") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "nowhere" in told


@pytest.mark.slow
def test_an_own_routing_trains_in_a_sweep(in_tmp: Path) -> None:
    """In a process of its own, whose worker runs the script again, which imports torch."""
    small = ["model.c1=8", "model.c2=16", "model.decoder=null", "trainer.max_epochs=1", "data.batch_size=256"]
    quick = [*small, "threads=1", "logger.wandb.mode=disabled", "sweep.name=own", "hydra.launcher.max_cells=1"]
    shown = python(EXAMPLES / "own_routing.py", *quick, "routing.iterations=2,3", "-m")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[-1].startswith("2 of 2 cells done")
    assert len(results(in_tmp / "multirun" / "own")) == 2
    ((name, body), *_) = results(in_tmp / "multirun" / "own").items()
    assert "iterations-" in name
    assert body["metrics"]["test/acc"] > 0


def test_an_own_criterion_cuts_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng():
        assert run_as_script("own_criterion.py") == 0
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


def test_a_capsule_network_in_plain_pytorch(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng():
        assert run_as_script("plain_pytorch.py") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "the master of the class capsules has the shape (10, 32)"
    assert lines[3] == "kept channels conv 8, primary 16"
    told = [re.search(r"accuracy (\S+) +(\d+) parameters", line) for line in lines[:2] + lines[4:]]
    found = [(float(each[1]), int(each[2])) for each in told if each]
    (routed, whole), (fast, same), (pruned, small), (again, still) = found
    assert routed > 0.85
    assert abs(fast - routed) < 0.06
    assert 0.2 < pruned < again
    assert again > routed - 0.05
    assert whole == same > 2 * small == 2 * still
