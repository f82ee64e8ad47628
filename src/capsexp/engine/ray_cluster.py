"""The Ray cluster of a sweep: the connection, the resources of its nodes, and the folder that they share."""

import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from capsexp.engine import ray_workers
from capsexp.engine.ray_workers import LOCK, STOP, TOKEN, NodeReport, StopFile
from capsexp.errors import ConfigError, require
from capsexp.text import install

ADDRESS = "hydra.launcher.address"

ANSWER_S = 5.0
"""Time limit for an address to answer (seconds)."""

HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The first bytes of every client of Ray's head; the head answers with its own settings."""

SETTINGS_FRAME = 4

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_gcs_server_request_timeout_seconds": "10"}
"""Ray's settings: no usage reports and a short time limit; variables that the user has set are kept."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        id: Ray's id of the node, which is never reused.
        name: its address.
        cpus: CPUs that Ray may assign.
        gpus: GPUs that Ray may assign.
        memory: bytes of memory that Ray may assign.
    """

    id: str
    name: str
    cpus: int
    gpus: int
    memory: int


def nodes() -> list[Node]:
    """The live nodes of the cluster."""
    import ray

    return [_node(entry) for entry in ray.nodes() if entry["Alive"]]  # type: ignore[no-untyped-call]


def _node(entry: dict[str, Any]) -> Node:
    given = entry["Resources"]
    cpus, gpus, memory = (int(given.get(name, 0)) for name in ("CPU", "GPU", "memory"))
    return Node(entry["NodeID"], entry["NodeManagerAddress"], cpus, gpus, memory)


def connect(address: str | None) -> bool:
    """Connect this process to the cluster as a driver.

    Args:
        address: auto, host:port or ray://host:port; None = auto.

    Returns:
        True if this call connected; False if the process was connected already.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
    """
    rule = f"be local, or Ray be installed: {install('ray')}"
    require(importlib.util.find_spec("ray") is not None, "hydra.launcher.engine", rule, "ray")
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return False
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    named = address if address and address != "auto" else os.environ.get("RAY_ADDRESS")
    found = named or _found()
    _check_answer(found)
    import ray

    with _own_signals(), _mute(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in Ray
        try:
            ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            rule = f"be of a cluster that this machine is a node of, or ray://host:port ({_line(error)})"
            raise ConfigError(ADDRESS, rule, found) from error
    _silence()
    return True


def _found() -> str:
    """The address of the cluster of this machine, from Ray's own files."""
    from ray._private import services

    found = services.find_bootstrap_address(None)
    require(bool(found), ADDRESS, "be of a Ray cluster: none is known on this machine (ray start ...)", "auto")
    return str(found)


def _check_answer(address: str) -> None:
    """Refuse an address that does not answer: Ray itself would wait for minutes and ignore Ctrl-C."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    require(bool(host) and port.isdigit(), ADDRESS, "be auto, host:port or ray://host:port", address)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S) as line:
            if os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):
                return  # it does not answer without a certificate
            line.settimeout(ANSWER_S)
            line.sendall(HTTP2_HELLO)
            answer = line.recv(9)
    except (OSError, OverflowError) as error:
        raise ConfigError(ADDRESS, f"be of a Ray cluster that answers ({error})", address) from error
    require(answer[3:4] == bytes([SETTINGS_FRAME]), ADDRESS, "be of a Ray cluster; this is something else", address)


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    """Suppress the output of Ray's C++ code while it connects; the error has the same text in one line."""
    sys.stderr.flush()
    saved = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Restore the SIGTERM handler, which Ray replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # in other threads Ray does not replace it
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _silence() -> None:
    """Suppress the messages of nodes about dead processes, which Ray prints across the live table.

    A cell's status has the same information.  Ray has no setting for this.
    """
    from ray._private import worker

    worker._worker_logs_enabled = False


def disconnect() -> None:
    """Disconnect from the cluster; the actors of this process end."""
    import ray

    with _own_signals():
        ray.shutdown()


def on(node_id: str) -> Any:
    """The scheduling strategy that binds a task or an actor to a node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


# -- the shared folder -------------------------------------------------------------------------------------------------

PREFIX = ".ray-"

LOOK_S = 60.0
"""Time limit for the nodes to inspect the shared folder (seconds)."""

YOUNG_S = 60.0
"""Minimum age of another command's folder before it may be removed (seconds)."""


class SharedFolder:
    """A temporary folder inside the sweep's folder, in which the command holds a lock.

    Args:
        sweep: the sweep's folder.

    Attributes:
        folder: its absolute path.
        stop: the flag that asks running cells to save and stop.
    """

    def __init__(self, sweep: Path) -> None:
        sweep.mkdir(parents=True, exist_ok=True)
        _clear(sweep)
        self.folder = sweep.absolute() / f"{PREFIX}{uuid4().hex[:8]}"
        self.folder.mkdir()
        self._token = uuid4().hex
        self._lock = FileLock(self.folder / LOCK)
        self._lock.acquire()
        (self.folder / TOKEN).write_text(self._token)
        self.stop = StopFile(self.folder / STOP)
        self.stop.write("")

    def close(self) -> None:
        """Release the lock and remove the folder."""
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, node: Node) -> Any:
        """Start the inspection of the folder on a node; returns Ray's reference to the :class:`NodeReport`."""
        import ray

        inspect = ray.remote(ray_workers.inspect_folder).options(
            num_cpus=0, max_retries=0, scheduling_strategy=on(node.id)
        )
        return inspect.remote(self.folder, node.id)

    def fault(self, node: Node, asked: Any) -> str | None:
        """The fault that a node's report shows, as the rule of an error; None if the node can run this sweep."""
        import ray

        try:
            found: NodeReport = ray.get(asked)
        except ray.exceptions.RayError as error:
            return f"be of a cluster whose nodes can run capsexp: node {node.name} says {_first_line(error)}"
        if found.versions != ray_workers.versions():
            return f"be of a cluster with {ray_workers.versions()} on every node: node {node.name} has {found.versions}"
        shared = f"be of a cluster whose nodes share the sweep's folder: node {node.name}"
        if found.token != self._token:
            return f"{shared} does not see {self.folder.parent}"
        if not found.wrote or not self._has_answered(node):
            return f"{shared} cannot write into {self.folder.parent}, or what it writes is not seen here"
        return None if found.locked else f"{shared} does not respect locks in {self.folder.parent}"

    def _has_answered(self, node: Node) -> bool:
        path, patience = self.folder / node.id, time.monotonic() + 5  # a network file system may be slow
        while not path.exists() and time.monotonic() < patience:
            time.sleep(0.1)
        return path.exists() and path.read_text() == self._token

    def check(self, nodes: list[Node], address: str | None) -> None:
        """Let all nodes inspect the folder, and check their reports.

        Raises:
            ConfigError: a node cannot run this sweep.
        """
        import ray

        asked = {self.ask(node): node for node in nodes}
        _, silent = ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_S)
        faults = [f"be of a cluster whose nodes answer: node {asked[each].name} does not" for each in silent]
        faults += [fault for each, node in asked.items() if each not in silent and (fault := self.fault(node, each))]
        if faults:
            raise ConfigError(ADDRESS, faults[0], address or "auto")


def _clear(sweep: Path) -> None:
    """Remove the folders of killed sweeps; running sweeps hold their locks."""
    for folder in sweep.glob(f"{PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime < YOUNG_S:  # its command may be about to take the lock
                continue
            with FileLock(folder / LOCK, blocking=False):
                pass
        except (Timeout, OSError):
            continue
        shutil.rmtree(folder, ignore_errors=True)


def _first_line(error: BaseException) -> str:
    """The node's error, or Ray's own, in one line."""
    cause = getattr(error, "cause", None) or error
    first = next(iter(str(cause).strip().splitlines()), "")
    return f"{type(cause).__name__}: {first[:300]}"
