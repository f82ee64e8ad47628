"""Workers of a Ray cluster: what runs inside them on a node, and the pool that the command has of each node.

A worker is an actor with one group at a time, made when there is a group for it.
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

    It is there from the beginning and written in slot, because a network file system may keep for a minute that a file
    is missing, but asks for its content whenever it is opened.

    Attributes:
        path: the file.
    """

    path: Path

    def write(self, text: str) -> None:
        """Raise it with any text; the empty one puts it there, not raised."""
        self.path.write_text(text)

    @property
    def value(self) -> bool:
        """True if it is raised."""
        try:
            return self.path.read_bytes() != b""
        except OSError:  # the file system is away for a moment
            return False


class RayWorker:
    """A worker process, as an actor: prepared before torch is there, then group after group.

    Args:
        folder: the one in which the command was given, so that relative paths mean the same here.
        environment: see :func:`capsexp.engine.worker.start`.
        stop: once it is raised, running cells save and stop.
        work: done with each group, pickled.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], stop: StopFile, work: bytes) -> None:
        with contextlib.suppress(OSError):  # a node may know only the sweep's own folder
            os.chdir(folder)
        worker.start(os.getppid(), environment, stop, work)  # the node's end is its end, at once
        self._work: Work = pickle.loads(work)

    def ready(self) -> None:
        """Answer, which it does when it can begin with a group."""

    def run(self, group: Group) -> Report:
        """Do a group."""
        return self._work(group)


@dataclass(frozen=True)
class Look:
    """What a node has and sees.

    Attributes:
        versions: of Python, of this package and of its numbers.
        token: what it reads in the folder that all should share; None where it sees no such file.
        wrote: whether it could write there.
        locked: whether a lock that the command holds there is one for the node too.
    """

    versions: str
    token: str | None
    wrote: bool
    locked: bool


def versions() -> str:
    """What must be equal on all nodes, so that their numbers are comparable."""
    python = ".".join(platform.python_version_tuple()[:2])
    return f"capsexp {capsexp.__version__}, numbers of version {records.NUMERICS_VERSION}, Python {python}"


def look(folder: Path, answer: str) -> Look:
    """Look at the folder from here, and leave an answer there.

    Args:
        folder: as the command names it.
        answer: name of the file to write.
    """
    token, wrote, locked = None, False, False
    with contextlib.suppress(OSError):
        token = (folder / TOKEN).read_text()
        (folder / answer).write_text(token)
        wrote = True
        locked = _is_locked(folder / LOCK)
    return Look(versions(), token, wrote, locked)


def _is_locked(path: Path) -> bool:
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True


# -- the command's side ------------------------------------------------------------------------------------------------

FREE_S = 5.0
"""How long is waited for the locks of dead workers to be free (seconds)."""


class _Actor:
    """A worker: Ray's handle of the actor, and how many groups it has had."""

    def __init__(self, handle: Any) -> None:
        self.handle, self.groups = handle, 0

    def end(self) -> None:
        """Kill its process."""
        import ray

        ray.kill(self.handle)


class _Job:
    """A group in a worker's hands.

    Attributes:
        future: how it ends; a report comes by itself, all else is for the pool to judge.
        begun: when the worker began (monotonic seconds), or None.
        error: what Ray says of its end.
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
            with contextlib.suppress(InvalidStateError):  # it came too late
                self.future.set_result(done.result())

    @property
    def overdue(self) -> bool:
        """True if it has had more time than it may have."""
        return bool(self._timeout and self.begun and time.monotonic() - self.begun > self._timeout)

    def lose(self, error: BaseException) -> None:
        """It ends without a report."""
        with contextlib.suppress(InvalidStateError):  # it came in the last moment
            self.future.set_exception(error)


def _absolute(group: Group) -> Group:
    """The group as a node may know it, where the folder of the command does not exist."""
    return tuple(replace(cell, directory=cell.directory.absolute()) for cell in group)


class RayPool:
    """Workers on one node; see :class:`~capsexp.engine.base.WorkerPool`.

    Args:
        size: how many at most.
        name: the node's address, for display.
        start_worker: makes an actor there.
        groups: groups after which a worker is replaced, or None.
        there: whether the node is; asked with True if it could not be reached a moment ago.
        say: tells the user something.
    """

    def __init__(
        self,
        size: int,
        name: str,
        start_worker: Callable[[], Any],
        groups: int | None,
        there: Callable[[bool], bool],
        say: Callable[[str], None],
    ) -> None:
        self.size, self.busy, self.failed_starts = size, 0, 0
        self._name, self._start_worker, self._groups = name, start_worker, groups
        self._there, self._say = there, say
        self._idle: list[_Actor] = []
        self._jobs: list[_Job] = []

    def submit(self, group: Group, timeout: float | None) -> "Future[Report]":
        """Let a worker do a group; its time counts from when the worker begins with it."""
        self._take_back()
        actor = self._idle.pop() if self._idle else _Actor(self._start_worker())
        self._jobs.append(_Job(actor, group, timeout))
        return self._jobs[-1].future

    def poll(self) -> None:
        """Settle the groups whose workers have died, or have had more time than they may have."""
        self._take_back()
        lost = [(job, job.error) for job in self._jobs if job.error or job.overdue]
        if not lost:
            return
        self._end([job for job, _ in lost])
        for job, error in lost:
            job.lose(self._why(job, error))

    def drop_waiting(self) -> None:
        """End the workers that have not begun; there may be no room for them yet."""
        waiting = [job for job in self._jobs if job.begun is None]
        self._end(waiting)
        for job in waiting:
            job.lose(BrokenProcessPool("it was stopped before it began"))

    def close(self) -> None:
        """Nothing: workers are made for groups alone."""

    def kill(self) -> list[Group]:
        """End the workers; returns the groups that they had."""
        jobs, idle = self._jobs, self._idle
        self._jobs, self._idle = [], []
        for actor in [*idle, *(job.actor for job in jobs)]:
            actor.end()
        return [job.group for job in jobs]

    def stop(self) -> None:
        """End the workers, and wait until they are gone."""
        wait_until_free(self.kill())

    def _take_back(self) -> None:
        """The workers that have reported are free."""
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
        """The error of a group that ended without a report, as the backend understands it."""
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
            self._say(f"a worker on node {self._name} died before it could begin{why}")
        return BrokenProcessPool("its worker died before it began")


def why_died(error: BaseException, name: str, there: bool) -> WorkerDied:
    """Why a worker died in the middle of its group.

    Args:
        error: Ray's.
        name: of its node.
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

    The locks of a node that died may stay until the file server forgets it; whoever writes then finds the cell busy.
    """
    until = time.monotonic() + FREE_S
    for path in [cell.directory / records.LOCK for group in groups for cell in group]:
        if path.exists():
            with contextlib.suppress(Timeout, OSError), FileLock(path, timeout=max(0.0, until - time.monotonic())):
                pass
