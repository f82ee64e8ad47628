"""Workers on one node of a cluster: actors, each with one lot at a time, made when there is a lot for them."""

import contextlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from filelock import FileLock, Timeout

from capsexp import records
from capsexp.engine.base import Lot, Report

FREE_S = 5.0
"""How long is waited for the locks of dead workers to be free (seconds)."""


class Gone(Exception):  # noqa: N818 - what became of a worker
    """A worker has died in the middle of its lot.

    Attributes:
        kind: which sort of cause it is.
        cause: the same for people.
    """

    def __init__(self, kind: records.Kind, cause: str) -> None:
        super().__init__(cause)
        self.kind, self.cause = kind, cause


class _Hand:
    """A worker: its actor, and how many lots it has had."""

    def __init__(self, actor: Any) -> None:
        self.actor, self.lots = actor, 0

    def end(self) -> None:
        """Kill its process."""
        import ray

        ray.kill(self.actor)


class _Job:
    """A lot in a worker's hands.

    Attributes:
        future: how it ends; a report comes by itself, all else is for the crew to judge.
        begun: when the worker began (monotonic seconds), or None.
        error: what Ray says of its end.
    """

    def __init__(self, hand: _Hand, lot: Lot, told: tuple[Any, ...], timeout: float | None) -> None:
        self.hand, self.lot, self._timeout = hand, lot, timeout
        self.future: Future[Report] = Future()
        self.begun: float | None = None
        self.error: BaseException | None = None
        hand.lots += 1
        hand.actor.ready.remote().future().add_done_callback(self._on_ready)
        hand.actor.run.remote(*told).future().add_done_callback(self._on_end)

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
        """Whether it has had more time than it may have."""
        return bool(self._timeout and self.begun and time.monotonic() - self.begun > self._timeout)

    def lose(self, error: BaseException) -> None:
        """It ends without a report."""
        with contextlib.suppress(InvalidStateError):  # it came in the last moment
            self.future.set_exception(error)


class RayCrew:
    """Workers on one node; see :class:`~capsexp.engine.base.Crew`.

    Args:
        size: how many at most.
        name: the node's address, for people.
        hire: makes an actor there.
        told: makes an actor's arguments from a lot.
        lots: lots after which a worker is replaced, or None.
        there: whether the node is; asked with True if it could not be reached a moment ago.
        say: tells the user something.
    """

    def __init__(
        self,
        size: int,
        name: str,
        hire: Callable[[], Any],
        told: Callable[[Lot], tuple[Any, ...]],
        lots: int | None,
        there: Callable[[bool], bool],
        say: Callable[[str], None],
    ) -> None:
        self.size, self.busy, self.stillborn = size, 0, 0
        self._name, self._hire, self._told, self._lots, self._there, self._say = name, hire, told, lots, there, say
        self._idle: list[_Hand] = []
        self._jobs: list[_Job] = []

    def submit(self, lot: Lot, timeout: float | None) -> "Future[Report]":
        """Let a worker do a lot; its time counts from when the worker begins with it."""
        self._take_back()
        hand = self._idle.pop() if self._idle else _Hand(self._hire())
        self._jobs.append(_Job(hand, lot, self._told(lot), timeout))
        return self._jobs[-1].future

    def mend(self) -> None:
        """Settle the lots whose workers have died, or have had more time than they may have."""
        self._take_back()
        lost = [(job, job.error) for job in self._jobs if job.error or job.overdue]
        if not lost:
            return
        self._end([job for job, _ in lost])
        for job, error in lost:
            job.lose(self._why(job, error))

    def drop_waiting(self) -> None:
        """Take their lots from the workers that have not begun: there may be no room for them yet."""
        waiting = [job for job in self._jobs if job.begun is None]
        self._end(waiting)
        for job in waiting:
            job.lose(BrokenProcessPool("it was stopped before it began"))

    def close(self) -> None:
        """Replace no worker any more, which it does not do by itself."""

    def kill(self) -> list[Lot]:
        """End the workers; gives the lots that they had."""
        jobs, idle = self._jobs, self._idle
        self._jobs, self._idle = [], []
        for hand in [*idle, *(job.hand for job in jobs)]:
            hand.end()
        return [job.lot for job in jobs]

    def stop(self) -> None:
        """End the workers, and wait until they are gone."""
        wait_until_free(self.kill())

    def _take_back(self) -> None:
        """The workers that have reported are free."""
        done = [job for job in self._jobs if job.future.done()]
        self._jobs = [job for job in self._jobs if job not in done]
        for job in done:
            if self._lots is not None and job.hand.lots >= self._lots:
                job.hand.end()
            else:
                self._idle.append(job.hand)

    def _end(self, jobs: list[_Job]) -> None:
        self._jobs = [job for job in self._jobs if job not in jobs]
        for job in jobs:
            job.hand.end()
        wait_until_free([job.lot for job in jobs])

    def _why(self, job: _Job, error: BaseException | None) -> BaseException:
        """What the loop is told of a lot that ended without a report."""
        import ray

        if error is None:
            return TimeoutError("Task timeout")
        if isinstance(error, ray.exceptions.RayTaskError):
            return getattr(error, "cause", error)
        there = self._there(not isinstance(error, ray.exceptions.ActorUnavailableError))
        if job.begun is not None:
            return why_gone(error, self._name, there)
        if there:
            self.stillborn += 1
            why = f": {str(error).strip().splitlines()[-1]}" if getattr(error, "actor_init_failed", False) else ""
            self._say(f"a worker on node {self._name} died before it could begin{why}")
        return BrokenProcessPool("its worker died before it began")


def why_gone(error: BaseException, name: str, there: bool) -> Gone:
    """What ended a worker in the middle of its lot.

    Args:
        error: what Ray says of it.
        name: its node.
        there: whether the node is still there.
    """
    text = str(error)
    if "running low on memory" in text or "OUT_OF_MEMORY" in text:
        return Gone("out-of-memory", f"its process was killed by Ray: the memory of node {name} ran low")
    if not there:
        return Gone("signal", f"node {name} died, or cannot be reached")
    return Gone("signal", f"its process on node {name} was killed (by hand, or by the system when memory ran out)")


def wait_until_free(lots: Iterable[Lot]) -> None:
    """Wait until no process holds the locks of these cells, so that their statuses can be written.

    The locks of a node that died may stay until the file server forgets it; whoever writes then finds the cell busy.
    """
    until = time.monotonic() + FREE_S
    for path in [cell.directory / records.LOCK for lot in lots for cell in lot]:
        if path.exists():
            with contextlib.suppress(Timeout, OSError), FileLock(path, timeout=max(0.0, until - time.monotonic())):
                pass
