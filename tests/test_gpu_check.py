"""The one command for a machine with a GPU: its steps and time limits, its record, and the tables made of that."""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MACHINE = {"device": "gpu", "cores": 16, "processor": "a CPU", "python": "3.12.3", "torch": "2.11.0", "gpus": []}


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield {name: importlib.import_module(name) for name in ("gpu_check", "gpu_table", "timed_steps")}


def test_a_step_that_fails_or_takes_too_long_loses_nothing(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, steps = scripts["gpu_check"], scripts["timed_steps"]
    figures, child = tmp_path / "figures.json", tmp_path / "child"
    slow = f"""
        import pathlib, subprocess, sys, time
        pathlib.Path({str(figures)!r}).write_text('{{"half": 1}}')
        stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
        sleeper = subprocess.Popen([sys.executable, "-c", stubborn])
        pathlib.Path({str(child)!r}).write_text(str(sleeper.pid))
        time.sleep(60)
    """
    codes = {"broken": "raise KeyError('the cause')", "slow": "\n".join(map(str.strip, slow.splitlines())), "good": ""}

    def made(name: str) -> Any:
        command = [sys.executable, "-c", codes[name]]
        kept = figures if name == "slow" else None
        return lambda given, work: steps.Step(name, 0.3, command, kept, folder=work, grace_s=0.5)

    def lost(kept: Any, output: str, given: Any, work: Path) -> Any:
        raise ValueError("no such figures")

    done = {name: (made(name), check.as_it_is) for name in codes} | {"lost": (made("good"), lost)}
    late = {"late": (made("good"), check.as_it_is)}
    monkeypatch.setattr(check, "STEPS", done | late)
    monkeypatch.setattr(check, "SHARES", dict.fromkeys(done | late, 0.3))
    monkeypatch.setattr(check, "machine", lambda device: MACHINE)
    given = argparse.Namespace(out=tmp_path, data=None, device="cpu", seconds=5.0, only=list(done))
    kept = check.check(given, tmp_path)
    assert json.loads((tmp_path / "gpu_check.json").read_text()) == kept
    found = {step["name"]: step for step in kept["steps"]}
    outcomes = {"broken": "failed", "slow": "timed out", "good": "ok", "lost": "failed"}
    assert {name: step["outcome"] for name, step in found.items()} == outcomes
    assert found["broken"]["last_lines"][-1] == "KeyError: 'the cause'"
    assert found["slow"]["figures"] == {"half": 1}
    assert 1.4 < found["slow"]["seconds"] < 3
    assert found["lost"]["last_lines"] == ["ValueError('no such figures')"]
    assert_gone(int(child.read_text()))
    given.seconds, given.only = 0.1, ["late"]
    more = check.check(given, tmp_path)["steps"]
    assert [step["outcome"] for step in more] == [*outcomes.values(), "not started"], "the steps before stay"
    given.data = tmp_path
    assert [step["name"] for step in check.check(given, tmp_path)["steps"]] == ["late"], "but not those of other data"


def assert_gone(pid: int) -> None:
    until = time.perf_counter() + 5
    while time.perf_counter() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} still runs")


def test_a_long_log_keeps_its_end(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    steps = scripts["timed_steps"]
    command = [sys.executable, "-c", f"print('x' * {steps.LOG_BYTES}); print('the end')"]
    ended = steps.run(steps.Step("long", 1, command), 20, tmp_path / "long.log")
    assert ended.outcome == "ok"
    assert ended.output.endswith("the end\n")
    assert (tmp_path / "long.log").stat().st_size == steps.LOG_BYTES


ONE_PROCESS = """\
tests/cuda/test_a.py::test_a_cell[accumulate, deep] PASSED               [ 10%]
tests/cuda/test_a.py::test_a_cell[cnn] FAILED                            [ 20%]
tests/cuda/test_a.py::test_every_callback SKIPPED (not all have run)     [ 30%]
FAILED tests/cuda/test_a.py::test_a_cell[cnn] - AssertionError: assert [...] == []
"""
SEVERAL = """\
tests/cuda/test_a.py::test_a_cell[cnn]
[gw0] [  3%] PASSED tests/cuda/test_a.py::test_a_cell[accumulate, deep]
[gw2] [ 10%] FAILED tests/cuda/test_a.py::test_a_cell[cnn]
[gw1] [ 20%] SKIPPED tests/cuda/test_a.py::test_every_callback
"""


@pytest.mark.parametrize("output", [ONE_PROCESS, SEVERAL])
def test_tests_are_counted_as_far_as_they_came(scripts: dict[str, ModuleType], output: str) -> None:
    check = scripts["gpu_check"]
    kept = check.with_tests({"outcome": "timed out"}, output, None, None)
    failed = ["tests/cuda/test_a.py::test_a_cell[cnn]"]
    assert kept == {"outcome": "failed", "figures": {"passed": 1, "skipped": 1, "failed": failed}}
    assert check.with_tests({"outcome": "ok"}, "", None, None)["outcome"] == "failed"  # none has run
    passed = "\n".join(line for line in output.splitlines() if "FAILED" not in line)
    assert check.with_tests({"outcome": "timed out"}, passed, None, None)["outcome"] == "timed out"


def test_every_step_has_arguments_for_every_device(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    check = scripts["gpu_check"]
    assert check.SHARES.keys() == check.STEPS.keys()
    assert sum(check.SHARES.values()) - check.SHARES["cells"] < 0.85, "nothing is left for the cells"
    np_file = tmp_path / "dhcd.npz"
    np_file.touch()
    for device, sizes in check.SIZES.items():
        assert sizes.keys() == check.STEPS.keys()
        given = argparse.Namespace(out=tmp_path, data=tmp_path, device=device)
        commands = {name: " ".join(make(given, tmp_path).command) for name, (make, _) in check.STEPS.items()}
        assert (f"--dhcd {np_file}" in commands["stacks"]) == (device == "gpu")
        assert ("data=dhcd" in commands["cells"]) == (device == "gpu")
    parts = [sum(map(int, widths.split(","))) / len(widths.split(",")) for widths in check.WIDTHS]
    assert abs(parts[0] - parts[1]) < 0.5, "stacks and processes train equally wide networks"


# -- the tables --------------------------------------------------------------------------------------------------------


def run_of(rate: float, cells: int = 16, members: int = 1) -> dict[str, Any]:
    rates = {"clock": rate / 2, "without start": rate}
    return {"cells": cells, "members": members, "workers": 1, "gpu_bytes": 3 * 10**8, "cells_per_hour": rates}


RECORD = {
    "started": "2026-12-01T10:00:00+00:00",
    "seconds": 401.2,
    "data": "dhcd",
    "machine": MACHINE | {"gpus": [{"name": "A GPU", "driver": "580.1", "memory": "1000 MiB"}]},
    "steps": [
        {
            "name": "tests",
            "outcome": "failed",
            "seconds": 80.0,
            "figures": {"passed": 90, "skipped": 1, "failed": ["tests/cuda/test_a.py::test_b"]},
        },
        {
            "name": "stacks",
            "outcome": "timed out",
            "seconds": 140.4,
            "figures": {
                "dhcd": {
                    "epochs": 4,
                    "ways": {
                        "capsexp-1": [run_of(1000)],
                        "grouped-auto": [run_of(12000, 100, 100)],
                        "capsexp-8": [run_of(3000)],
                    },
                }
            },
        },
        {
            "name": "memory",
            "outcome": "ok",
            "seconds": 20.0,
            "figures": {
                "counted": 3e8,
                "cases": [
                    {
                        **{"net": "cnn", "width": 6, "batch": 256, "precision": "32-true"},
                        **{"estimate": 10**6, "measured": 2 * 10**6, "reserved": 10**7},
                    },
                    {
                        **{"net": "capsnet", "width": 256, "batch": 128, "precision": "32-true"},
                        **{"estimate": 11 * 10**8, "measured": 10**9, "reserved": 2 * 10**9},
                    },
                ],
            },
        },
        {
            "name": "chip",
            "outcome": "ok",
            "seconds": 30.0,
            "figures": {
                "shapes": [{"shape": [160, 7, 7], "loop_ms": 900.0, "ours_ms": 0.3, "goal": 50, "off_by": 2e-9}],
                "network": {"conv1": 1.0, "together": 12.3},
            },
        },
        {"name": "cells", "outcome": "not started", "seconds": 0.0},
    ],
}


def test_the_tables(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    (tmp_path / "gpu_check.json").write_text(json.dumps(RECORD))
    command = [sys.executable, str(BENCHMARKS / "gpu_table.py"), str(tmp_path / "gpu_check.json")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert shown.splitlines() == list(scripts["gpu_table"].tables(RECORD))
    for line in (
        "A GPU (1000 MiB, driver 580.1); torch 2.11.0, Python 3.12.3; 16 cores (a CPU); dhcd; 2026-12-01, 401 s.",
        "| tests | failed | 80 | 90 passed, 1 failed: tests/cuda/test_a.py::test_b |",
        "| stacks | timed out | 140 | 3 ways on dhcd |",
        "| memory | ok | 20 | predicted / measured from 1.10 to 1.10 |",
        "| cells | not started | 0 |  |",
        "| way | cells | members | processes | cells/h | against capsexp-1 (goal 10) | against capsexp-8 (goal 3) "
        "| MB on the GPU |",
        "| grouped-auto | 100 | 100 | 1 | 12,000 | 12.0 | 4.0 | 300 |",
        "| capsexp-8 | 16 | 1 | 1 | 3,000 | 3.0 | 1.0 | 300 |",
        "| capsnet | 256 | 128 | 32-true | 1,100 | 1,000 | 2,000 | 1.10 |",
        "| 160, 7x7 | 900.0 | 0.300 | 3,000 | >= 50 | 2e-09 |",
        "All layers of the CIFAR-10 network, 50,000 images: 12 s.",
    ):
        assert line in shown.splitlines()


def test_a_record_of_a_run_that_found_nothing_has_a_table(scripts: dict[str, ModuleType]) -> None:
    steps = [{"name": step["name"], "outcome": "failed", "seconds": 1.0} for step in RECORD["steps"]]  # type: ignore[index]
    lines = list(scripts["gpu_table"].tables({**RECORD, "machine": MACHINE, "steps": steps}))
    assert lines[0].startswith("no GPU: the CPU in its place; torch 2.11.0")
    assert len(lines) == 4 + len(steps)


# -- the whole command -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_whole_command_with_the_cpu_in_the_gpus_place(tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = whole(out, tmp_path)
    kept = json.loads((out / "gpu_check.json").read_text())
    assert [(step["name"], step["outcome"]) for step in kept["steps"]] == [
        (name, "ok") for name in ("tests", "stacks", "memory", "chip", "cells")
    ], told
    found = {step["name"]: step["figures"] for step in kept["steps"]}
    assert found["tests"]["passed"] > 20
    assert set(found["stacks"]["digits"]["ways"]) == {"capsexp", "grouped-auto"}
    assert (found["cells"]["planned"], found["cells"]["done"]) == (2, 2)
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) <= 8
    assert max(path.stat().st_size for path in written) < 16 * 2**20
    whole(out, tmp_path, "--only", "cells")
    *others, again = json.loads((out / "gpu_check.json").read_text())["steps"]
    assert others == kept["steps"][:-1]
    assert again["figures"] == found["cells"], "cells that are there already ran again"  # their seconds too


def whole(out: Path, folder: Path, *more: str) -> str:
    """The output of the command, with nothing but this Python."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CAPSEXP_DATA")}
    environment |= {"PYTHON": sys.executable, "GPU_CHECK_DEVICE": "cpu", "TMPDIR": str(folder)}
    command = [str(BENCHMARKS / "gpu_check.sh"), str(out), *more]
    ended = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr
