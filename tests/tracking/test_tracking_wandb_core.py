"""The real wandb, with its service stopped or its server silent, in processes of their own."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
from capsexp.tracking import guard, service

assert guard.importable()
mode, limit, folder = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
options = {"project": "p", "entity": None}
told = []
for number in range(2):
    directory = folder / f"cell-{number:010d}"
    directory.mkdir()
    about = guard.About({"sweep": {"name": "s"}}, directory, f"{number:010d}", {})
    began = time.monotonic()
    run = guard.GuardedRun(limit)
    if guard.process.most != "disabled":
        run.open(about, options, guard.process.allows(mode))
    run.do("log", lambda: run.run.log({"a": 1.0}))
    had = run.run is not None
    if mode == "offline" and number == 0:
        (core,) = service._found()
        os.kill(core, signal.SIGSTOP)
    run.close(0)
    told.append([time.monotonic() - began, had])
print(json.dumps([told, guard.process.most, [pid for pid in service._found() if mode == "offline"]]))
print(time.time(), flush=True)
"""


def process(mode: str, limit: float, folder: Path, **environment: str) -> tuple[list[Any], str, float, str]:
    """Two cells in a process of their own: what they told, how far W&B is trusted, and how long the exit took."""
    words = [sys.executable, "-c", SCRIPT, mode, str(limit), str(folder)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    done = subprocess.run(
        words, env={**kept, "WANDB_SILENT": "true", **environment}, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    ended = time.time()
    *_, told, at = done.stdout.splitlines()
    cells, most, left = json.loads(told)
    assert left == []
    return cells, most, ended - float(at), done.stderr


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="wandb-core is looked for in /proc")
def test_a_stopped_wandb_core_holds_up_neither_cells_nor_the_exit(tmp_path: Path) -> None:
    cells, most, exit_s, stderr = process("offline", 3, tmp_path)
    (first_s, first), (second_s, second) = cells
    assert (first, second, most) == (True, False, "disabled")
    assert 3 * 0.8 < first_s < 3 + 1.5
    assert second_s < 1
    assert exit_s < 3
    assert "Traceback" not in stderr


def test_a_silent_server_leaves_whole_offline_runs_and_a_prompt_exit(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        cells, most, exit_s, stderr = process("online", 5, tmp_path, WANDB_BASE_URL=url, WANDB_API_KEY="a" * 40)
    (first_s, first), (second_s, second) = cells
    assert (first, second, most) == (True, True, "offline")
    assert 2 < first_s < 5 + 1.5
    assert second_s < 3
    assert exit_s < 3
    assert "Traceback" not in stderr
    assert sorted(path.stat().st_size > 100 for path in tmp_path.rglob("offline-run-*/*.wandb")) == [True, True]


def test_kill_service_without_a_service_does_nothing() -> None:
    code = "from capsexp.tracking import service; service.kill_service()"  # not here, where other tests left a service
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
