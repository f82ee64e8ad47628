"""The Makefile's targets, without running them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = ("help", "sweep", "plan", "status", "report", "sync", "dashboard", "test", "lint", "type", "bench", "clean")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str) -> str:
    """What ``make`` prints; it must end well."""
    # MAKEFLAGS of a make that runs these tests would change what this one prints.
    command = ["env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "-u", "MFLAGS", "make", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_what_it_would_do(target: str) -> None:
    assert make("--dry-run", target).strip()


def test_help_is_the_default_and_lists_every_target() -> None:
    text = make()
    assert text == make("help")
    assert tuple(re.findall(r"^  make (\w+) +[a-z]\w* ", text, re.MULTILINE)) == TARGETS


def test_clean_leaves_results_and_the_environment() -> None:
    commands = make("--dry-run", "clean")
    assert "multirun" not in commands
    assert ".venv" not in commands


@pytest.mark.parametrize("target", TARGETS[1:-1])
def test_a_missing_environment_is_made_first(target: str) -> None:
    commands = make("--dry-run", target, "VENV=no-such-environment")
    assert commands.index("-m venv") < commands.index("pip install")


def test_files_that_the_targets_run_exist() -> None:
    scripts = re.findall(r"benchmarks/\w+\.py", (ROOT / "Makefile").read_text())
    assert scripts
    assert [script for script in scripts if not (ROOT / script).is_file()] == []
