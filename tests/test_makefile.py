"""The Makefile's targets, without running them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = (
    *("help", "sweep", "plan", "status", "report", "sync", "dashboard", "test", "versions", "lint", "type", "bench"),
    *("notebooks", "docs", "dist", "clean"),
)
OWN_ENVIRONMENTS = ("help", "versions", "clean")
"""Targets that need no environment, or make their own."""

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


@pytest.mark.parametrize("target", [target for target in TARGETS if target not in OWN_ENVIRONMENTS])
def test_a_missing_environment_is_made_first(target: str) -> None:
    commands = make("--dry-run", target, "VENV=no-such-environment")
    assert commands.index("-m venv") < commands.index("pip install")


def test_reports_of_ones_own_figures() -> None:
    assert '-m capsexp.report "$folder" --trust ||' in make("--dry-run", "sweep")
    assert "capsexp.report multirun/mine --trust\n" in make("--dry-run", "report", "SWEEP=mine", "ARGS=--trust")


def test_versions_tries_the_pythons_that_are_there(tmp_path: Path) -> None:
    """Here two stand in for them, of which one finds a fault."""
    for minor, code in (("11", 1), ("13", 0)):
        python = tmp_path / f"python3.{minor}"
        venv = 'mkdir -p "$3/bin" && cp "$0" "$3/bin/python"'
        python.write_text(f'#!/bin/sh\ncase "$2" in venv) {venv};; pytest) echo "tested {minor}"; exit {code};; esac\n')
        python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for tool in ("make", "mkdir", "cp", "touch"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    words = ["env", "-i", f"PATH={tmp_path}", "make", "versions"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr  # make's own code for a command that failed
    told = [line for line in ended.stdout.splitlines() if "tested" in line or "not there" in line]
    assert told == ["tested 11", "python3.12 is not there", "tested 13"]


def test_files_that_the_targets_run_exist() -> None:
    scripts = re.findall(r"benchmarks/\w+\.py", (ROOT / "Makefile").read_text())
    assert scripts
    assert [script for script in scripts if not (ROOT / script).is_file()] == []
