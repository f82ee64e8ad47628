"""The scripts in examples/ do what they say, in processes of their own."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import results

EXAMPLES = Path(__file__).parents[1] / "examples"


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, in the present folder; what it wrote is kept."""
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"load_and_predict.py"}


def test_a_finished_cell_predicts_what_its_result_says(in_tmp: Path) -> None:
    trained = python("-m", "capsexp", "trainer.max_epochs=1", "threads=1", "logger.wandb.mode=disabled")
    assert trained.returncode == 0, trained.stderr
    ((name, result),) = results(in_tmp).items()

    shown = python(EXAMPLES / "load_and_predict.py", Path("multirun", "adhoc", name))

    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].split()[3:] == [f"{result['metrics']['test/acc']:.6f}", f"({result['data']['n_test']}", "images)"]
    assert lines[1].split()[-1] == lines[0].split()[3]
    assert [line.count(",") for line in lines[2:]] == [9, 9]


def test_a_directory_without_a_finished_cell_is_named_in_one_line(in_tmp: Path) -> None:
    shown = python(EXAMPLES / "load_and_predict.py", "nowhere")
    assert shown.returncode == 2
    assert shown.stderr.count("\n") == 1
    assert "nowhere" in shown.stderr
