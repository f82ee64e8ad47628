"""The real wandb, with its service stopped or its server silent, in processes of their own."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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


SLACK = 8.0
"""Seconds beyond a bound that also a busy machine keeps; wandb's own reports to its makers would take ten."""

OFFLINE_S, ONLINE_S = 5, 8
"""What each of the processes may spend on one cell: a wandb-core must be able to begin in half of it."""


class Cells:
    """Two cells in a process of their own."""

    def __init__(self, mode: str, limit: float, folder: Path, **environment: str) -> None:
        self.folder = folder
        words = [sys.executable, "-c", SCRIPT, mode, str(limit), str(folder)]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            words, env={**kept, "WANDB_SILENT": "true", **environment}, stdout=pipe, stderr=pipe, text=True
        )
        self.ended = 0.0
        self.waiting = threading.Thread(target=self._wait)
        self.waiting.start()

    def _wait(self) -> None:
        self.stdout, self.stderr = self.process.communicate()
        self.ended = time.time()

    def told(self) -> tuple[list[Any], str, float, str]:
        """Of each cell its time and whether it had a run, how far W&B is trusted, and how long the exit took."""
        self.waiting.join(120)
        assert self.process.returncode == 0, self.stderr
        *_, told, at = self.stdout.splitlines()
        cells, most, left = json.loads(told)
        assert left == []
        return cells, most, self.ended - float(at), self.stderr


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Cells]]:
    """Beside each other, since what they do is wait: one whose wandb-core is stopped, one whose server is silent."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("stopped", "silent")}
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        running = {
            "stopped": Cells("offline", OFFLINE_S, folders["stopped"]),
            "silent": Cells("online", ONLINE_S, folders["silent"], WANDB_BASE_URL=url, WANDB_API_KEY="a" * 40),
        }
        yield running
        for each in running.values():
            each.process.kill()
            each.waiting.join()


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="wandb-core is looked for in /proc")
def test_a_stopped_wandb_core_holds_up_neither_cells_nor_the_exit(both: dict[str, Cells]) -> None:
    cells, most, exit_s, stderr = both["stopped"].told()
    (first_s, first), (second_s, second) = cells
    assert (first, second, most) == (True, False, "disabled")
    assert OFFLINE_S * 0.8 < first_s < OFFLINE_S + SLACK
    assert second_s < OFFLINE_S * 0.8
    assert exit_s < SLACK
    assert "Traceback" not in stderr


def test_a_silent_server_leaves_whole_offline_runs_and_a_prompt_exit(both: dict[str, Cells]) -> None:
    cells, most, exit_s, stderr = both["silent"].told()
    (first_s, first), (second_s, second) = cells
    assert (first, second, most) == (True, True, "offline")
    assert ONLINE_S * 0.4 < first_s < ONLINE_S + SLACK
    assert second_s < ONLINE_S * 0.9
    assert exit_s < SLACK
    assert "Traceback" not in stderr
    files = list(both["silent"].folder.rglob("offline-run-*/*.wandb"))
    until = time.monotonic() + 60
    while min(path.stat().st_size for path in files) <= 100 and time.monotonic() < until:
        time.sleep(0.05)  # wandb-core writes them just after `finish`
    assert [path.stat().st_size > 100 for path in files] == [True, True]


def test_kill_service_without_a_service_does_nothing() -> None:
    code = "from capsexp.tracking import service; service.kill_service()"  # not here, where other tests left a service
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
