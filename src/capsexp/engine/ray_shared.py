"""The folder that a sweep's command and its workers on the nodes of a cluster share, and the check that they do."""

import shutil
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from capsexp.engine import ray_cluster, ray_worker
from capsexp.engine.ray_cluster import ADDRESS, Node
from capsexp.engine.ray_worker import LOCK, STOP, TOKEN, Look, StopFile
from capsexp.errors import ConfigError

PREFIX = ".ray-"

LOOK_S = 60.0
"""How long the nodes may take for their first look (seconds)."""

YOUNG_S = 60.0
"""How long a folder that another command has made is left alone in any case (seconds)."""


class Shared:
    """A folder of this sweep's own below the sweep's, gone when it ends; the command holds a lock there.

    Args:
        sweep: the sweep's folder.

    Attributes:
        folder: where it is, as an absolute path.
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
        """Leave nothing."""
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, node: Node) -> Any:
        """Let a node look at the folder; gives Ray's reference to what it will find."""
        import ray

        look = ray.remote(ray_worker.look).options(
            num_cpus=0, max_retries=0, scheduling_strategy=ray_cluster.on(node.id)
        )
        return look.remote(self.folder, node.id)

    def fault(self, node: Node, asked: Any) -> str | None:
        """What is wrong with a node that has looked; None where it can work for this sweep."""
        import ray

        try:
            found: Look = ray.get(asked)
        except ray.exceptions.RayError as error:
            return f"be of a cluster whose nodes can run capsexp: node {node.name} says {_line(error)}"
        if found.versions != ray_worker.versions():
            return f"be of a cluster with {ray_worker.versions()} on every node: node {node.name} has {found.versions}"
        shared = f"be of a cluster whose nodes share the sweep's folder: node {node.name}"
        if found.token != self._token:
            return f"{shared} does not see {self.folder.parent}"
        if not found.wrote or not self._has_answered(node):
            return f"{shared} cannot write into {self.folder.parent}, or what it writes is not seen here"
        return None if found.locked else f"{shared} does not respect locks in {self.folder.parent}"

    def _has_answered(self, node: Node) -> bool:
        path, patience = self.folder / node.id, time.monotonic() + 5  # a network file system may need a moment
        while not path.exists() and time.monotonic() < patience:
            time.sleep(0.1)
        return path.exists() and path.read_text() == self._token

    def check(self, nodes: list[Node], address: str | None) -> None:
        """Let all nodes look, and wait for what they find.

        Raises:
            ConfigError: a node cannot work for this sweep.
        """
        import ray

        asked = {self.ask(node): node for node in nodes}
        _, silent = ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_S)
        faults = [f"be of a cluster whose nodes answer: node {asked[each].name} does not" for each in silent]
        faults += [fault for each, node in asked.items() if each not in silent and (fault := self.fault(node, each))]
        if faults:
            raise ConfigError(ADDRESS, faults[0], address or "auto")


def _clear(sweep: Path) -> None:
    """Remove what sweeps left that were killed; those that run hold their locks."""
    for folder in sweep.glob(f"{PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime < YOUNG_S:  # its command may be about to take the lock
                continue
            with FileLock(folder / LOCK, blocking=False):
                pass
        except (Timeout, OSError):
            continue
        shutil.rmtree(folder, ignore_errors=True)


def _line(error: BaseException) -> str:
    """What was raised on the node, or what Ray says, in one line."""
    cause = getattr(error, "cause", None) or error
    first = next(iter(str(cause).strip().splitlines()), "")
    return f"{type(cause).__name__}: {first[:300]}"
