"""Workers of a Ray cluster: the code that runs on a node, and the command's pool of workers per node.

A worker is an actor that runs one group at a time.  It is created when there is a group for it.
"""

import contextlib
import os
import pickle
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, InvalidStateError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import capsexp
from capsexp import records
from capsexp.engine import worker
from capsexp.engine.base import Group, Report, Work, WorkerDied

# -- on a node ---------------------------------------------------------------------------------------------------------

TOKEN, STOP, LOCK = "token", "stop", "lock"
"""Files in the folder that a sweep's command and its workers share."""


@dataclass(frozen=True)
class StopFile:
    """A flag that other machines can raise: a file that is not empty.

    It exists from the start and is overwritten in place: a network file system may cache for a minute that a file is
    missing, but reads its content whenever it is opened.

    Attributes:
        path: the file.
    """

    path: Path

    def write(self, text: str) -> None:
        """Write the file; an empty text creates the flag, any other text raises it."""
        self.path.write_text(text)

    @property
    def value(self) -> bool:
        """True if the flag is raised."""
        try:
            return self.path.read_bytes() != b""
        except OSError:  # the file system is temporarily unavailable
            return False


class RayWorker:
    """A worker process as an actor; it is prepared before torch is imported.

    Args:
        folder: the command's working directory, so that relative paths mean the same here.
        environment: see :func:`capsexp.engine.worker.start`.
        stop: the flag that asks running cells to save and stop.
        work: the pickled task for each group.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], stop: StopFile, work: bytes) -> None:
        with contextlib.suppress(OSError):  # a node may know only the sweep's own folder
            os.chdir(folder)
        worker.start(os.getppid(), environment, stop, work)  # it ends with the node's Ray process
        self._work: Work = pickle.loads(work)

    def ready(self) -> None:
        """Return when the worker can start a group."""

    def run(self, group: Group) -> Report:
        """Run a group."""
        return self._work(group)


@dataclass(frozen=True)
class NodeReport:
    """The versions on a node and its view of the shared folder.

    Attributes:
        versions: of Python, of this package and of its numerics.
        token: the token that the node reads in the shared folder; None if it cannot read it.
        wrote: whether it could write there.
        locked: whether it respects the lock that the command holds there.
    """

    versions: str
    token: str | None
    wrote: bool
    locked: bool


def versions() -> str:
    """The versions that must be equal on all nodes, so that their numbers are comparable."""
    python = ".".join(platform.python_version_tuple()[:2])
    return f"capsexp {capsexp.__version__}, numbers of version {records.NUMERICS_VERSION}, Python {python}"


def inspect_folder(folder: Path, answer: str) -> NodeReport:
    """Inspect the shared folder from this node, and write an answer into it.

    Args:
        folder: the path of the folder on the command's machine.
        answer: name of the file to write.
    """
    token, wrote, locked = None, False, False
    with contextlib.suppress(OSError):
        token = (folder / TOKEN).read_text()
        (folder / answer).write_text(token)
        wrote = True
        locked = _is_locked(folder / LOCK)
    return NodeReport(versions(), token, wrote, locked)


def _is_locked(path: Path) -> bool:
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True


# -- the command's side ------------------------------------------------------------------------------------------------

FREE_S = 5.0
"""Time limit for the locks of dead workers to become free (seconds)."""


class _Actor:
    """A worker: Ray's handle of the actor, and the number of groups it has run."""

    def __init__(self, handle: Any) -> None:
        self.handle, self.groups = handle, 0

    def end(self) -> None:
        """Kill its process."""
        import ray

        ray.kill(self.handle)


class _Job:
    """A group that is assigned to a worker.

    Attributes:
        future: its outcome; a report is set directly, an error is set by the pool.
        begun: start of the group (monotonic seconds), or None.
        error: Ray's error if it ended without a report.
    """

    def __init__(self, actor: _Actor, group: Group, timeout: float | None) -> None:
        self.actor, self.group, self._timeout = actor, group, timeout
        self.future: Future[Report] = Future()
        self.begun: float | None = None
        self.error: BaseException | None = None
        actor.groups += 1
        actor.handle.ready.remote().future().add_done_callback(self._on_ready)
        actor.handle.run.remote(_absolute(group)).future().add_done_callback(self._on_end)

    def _on_ready(self, done: "Future[None]") -> None:
        if done.exception() is None:
            self.begun = time.monotonic()

    def _on_end(self, done: "Future[Report]") -> None:
        self.error = done.exception()
        if self.error is None:
            with contextlib.suppress(InvalidStateError):  # the future has ended already
                self.future.set_result(done.result())

    @property
    def overdue(self) -> bool:
        """True if it has exceeded its time limit."""
        return bool(self._timeout and self.begun and time.monotonic() - self.begun > self._timeout)

    def lose(self, error: BaseException) -> None:
        """End the future with an error."""
        with contextlib.suppress(InvalidStateError):  # the report arrived meanwhile
            self.future.set_exception(error)


def _absolute(group: Group) -> Group:
    """The group with absolute paths, for a node on which the command's working directory does not exist."""
    return tuple(replace(cell, directory=cell.directory.absolute()) for cell in group)


class RayPool:
    """Workers on one node; see :class:`~capsexp.engine.base.WorkerPool`.

    Args:
        size: maximum number of workers.
        name: the node's address, for display.
        start_worker: creates an actor on the node.
        groups: groups after which a worker is replaced, or None.
        there: returns whether the node is in the cluster; its argument says whether the node was just reached.
        notify: prints a message for the user.
    """

    def __init__(
        self,
        size: int,
        name: str,
        start_worker: Callable[[], Any],
        groups: int | None,
        there: Callable[[bool], bool],
        notify: Callable[[str], None],
    ) -> None:
        self.size, self.busy, self.failed_starts = size, 0, 0
        self._name, self._start_worker, self._groups = name, start_worker, groups
        self._there, self._notify = there, notify
        self._idle: list[_Actor] = []
        self._jobs: list[_Job] = []

    def submit(self, group: Group, timeout: float | None) -> "Future[Report]":
        """Run a group in a worker; the time limit counts from the start of the group."""
        self._take_back()
        actor = self._idle.pop() if self._idle else _Actor(self._start_worker())
        self._jobs.append(_Job(actor, group, timeout))
        return self._jobs[-1].future

    def poll(self) -> None:
        """End the groups whose workers have died or exceeded their time limit."""
        self._take_back()
        lost = [(job, job.error) for job in self._jobs if job.error or job.overdue]
        if not lost:
            return
        self._end([job for job, _ in lost])
        for job, error in lost:
            job.lose(self._why(job, error))

    def drop_waiting(self) -> None:
        """Kill the workers that have not started their group; there may be no room for them yet."""
        waiting = [job for job in self._jobs if job.begun is None]
        self._end(waiting)
        for job in waiting:
            job.lose(BrokenProcessPool("it was stopped before it began"))

    def close(self) -> None:
        """Do nothing: workers are created only for groups."""

    def kill(self) -> list[Group]:
        """Kill the workers; returns their groups."""
        jobs, idle = self._jobs, self._idle
        self._jobs, self._idle = [], []
        for actor in [*idle, *(job.actor for job in jobs)]:
            actor.end()
        return [job.group for job in jobs]

    def stop(self) -> None:
        """Kill the workers, and wait until their cells' locks are free."""
        wait_until_free(self.kill())

    def _take_back(self) -> None:
        """Mark the workers that have reported as idle, or replace them."""
        done = [job for job in self._jobs if job.future.done()]
        self._jobs = [job for job in self._jobs if job not in done]
        for job in done:
            if self._groups is not None and job.actor.groups >= self._groups:
                job.actor.end()
            else:
                self._idle.append(job.actor)

    def _end(self, jobs: list[_Job]) -> None:
        self._jobs = [job for job in self._jobs if job not in jobs]
        for job in jobs:
            job.actor.end()
        wait_until_free([job.group for job in jobs])

    def _why(self, job: _Job, error: BaseException | None) -> BaseException:
        """The error of a group that ended without a report, for the backend's ``cause_of``."""
        import ray

        if error is None:
            return TimeoutError("Task timeout")
        if isinstance(error, ray.exceptions.RayTaskError):
            return getattr(error, "cause", error)
        there = self._there(not isinstance(error, ray.exceptions.ActorUnavailableError))
        if job.begun is not None:
            return why_died(error, self._name, there)
        if there:
            self.failed_starts += 1
            why = f": {str(error).strip().splitlines()[-1]}" if getattr(error, "actor_init_failed", False) else ""
            self._notify(f"a worker on node {self._name} died before it could begin{why}")
        return BrokenProcessPool("its worker died before it began")


def why_died(error: BaseException, name: str, there: bool) -> WorkerDied:
    """The error of a worker that died while it ran a group.

    Args:
        error: Ray's error.
        name: the address of its node.
        there: whether the node is still in the cluster.
    """
    text = str(error)
    if "running low on memory" in text or "OUT_OF_MEMORY" in text:
        return WorkerDied("out-of-memory", f"its process was killed by Ray: the memory of node {name} ran low")
    if not there:
        return WorkerDied("signal", f"node {name} died, or cannot be reached")
    return WorkerDied(
        "signal", f"its process on node {name} was killed (by hand, or by the system when memory ran out)"
    )


def wait_until_free(groups: Iterable[Group]) -> None:
    """Wait until no process holds the locks of these cells, so that their statuses can be written.

    The locks of a dead node may stay until the file server drops them; until then the cell appears busy.
    """
    until = time.monotonic() + FREE_S
    for path in [cell.directory / records.LOCK for group in groups for cell in group]:
        if path.exists():
            with contextlib.suppress(Timeout, OSError), FileLock(path, timeout=max(0.0, until - time.monotonic())):
                pass
