"""A Ray cluster on this machine, each node with its own processes, for the tests of the engine that uses one.

Its nodes have loopback addresses and a password, which this module sets before ray is imported.  Whatever it starts
carries a mark in its environment, by which it is found and ended.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARK = "ENGINE_RAY_TEST"
HEAD = "127.0.0.2"
LONG_S = 120.0

SETTINGS = {
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "3",
}
"""No process is started that nobody has asked for, and a dead node is found out within seconds."""

os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))  # read when ray is imported, not later

STORE = 80_000_000
"""Bytes of a node's object store: nothing large is put there."""


def marked(mark: str) -> list[int]:
    """Every living process with this mark, workers of dead parents too."""
    needle, found = f"{MARK}={mark}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if needle in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def kill_marked(mark: str) -> None:
    """End them all, those too that they start meanwhile."""
    until = time.monotonic() + LONG_S
    while (left := marked(mark)) and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


class Nodes:
    """A head with two cores, and one other node with four and two GPUs, as far as Ray knows.

    Attributes:
        address: of the head.
        second: name of the other node; empty where there is none.
        mark: by which their processes are known.
    """

    def __init__(self) -> None:
        self.mark, self.port = uuid.uuid4().hex, free_port()
        self.address, self.second = f"{HEAD}:{self.port}", ""
        self.folder = Path(tempfile.mkdtemp(prefix="ray"))  # short: sockets lie in it, whose paths must not be long
        self._starting: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the head."""
        told = ["--head", f"--port={self.port}", f"--temp-dir={self.folder}", "--include-dashboard=false"]
        self._begin(HEAD, "--num-cpus=2", *told)
        self.wait()

    def add(self) -> str:
        """Begin to start the other node; gives its name."""
        self.second = f"127.0.0.{2 + len(self._starting)}"
        self._begin(self.second, f"--address={self.address}", "--num-cpus=4", "--num-gpus=2")
        return self.second

    def wait(self) -> None:
        """Wait until the nodes are there."""
        for starting in self._starting:
            starting.wait(LONG_S)
            assert starting.returncode == 0, "\n".join(log.read_text() for log in self.folder.glob("*.log"))

    def kill_second(self) -> int:
        """As if its machine lost its power."""
        pid, self.second = self._raylet(self.second), ""
        os.kill(pid, signal.SIGKILL)
        return pid

    def _begin(self, name: str, *told: str) -> None:
        fixed = [f"--node-ip-address={name}", f"--object-store-memory={STORE}"]
        fixed += ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
        with (self.folder / f"{name}.log").open("wb") as log:
            self._starting.append(
                subprocess.Popen(
                    [sys.executable, "-m", "ray.scripts.scripts", "start", *fixed, *told],
                    cwd=self.folder,
                    env=self.variables(),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def variables(self) -> Mapping[str, str]:
        """The environment of the cluster's processes."""
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return {**os.environ, **SETTINGS, MARK: self.mark, "PYTHONPATH": path}

    def _raylet(self, name: str) -> int:
        needle = f"--node_ip_address={name}\0".encode()
        (pid,) = [pid for pid in marked(self.mark) if b"raylet/raylet" in (line := cmdline(pid)) and needle in line]
        return pid

    def end(self) -> None:
        """End every process, and leave no file."""
        kill_marked(self.mark)
        for starting in self._starting:
            starting.wait()
        subprocess.run(["rm", "-rf", str(self.folder)], check=True)


def cmdline(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def free_port() -> int:
    with socket.socket() as found:
        found.bind((HEAD, 0))
        port: int = found.getsockname()[1]
        return port
