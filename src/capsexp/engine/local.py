"""The engine of one machine: worker processes, each bound to a device, fed from one queue.

Pebble keeps the processes: one that dies or hangs costs its group and is replaced.
"""

import contextlib
import functools
import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any

from pebble import ProcessExpired, ProcessPool

from capsexp import records
from capsexp.cell import Cell
from capsexp.engine import worker
from capsexp.engine.base import Group, Listener, Report, Summary, Work, WorkerDied
from capsexp.engine.devices import Devices, Slot
from capsexp.engine.options import Layout, Options, environment
from capsexp.engine.scheduler import Scheduler

SPAWN = multiprocessing.get_context("spawn")


class LocalPool:
    """Worker processes of one device; see :class:`~capsexp.engine.base.WorkerPool`.

    Args:
        device: for CUDA_VISIBLE_DEVICES, or None.
        size: how many.
        threads: CPU threads of each.
        stop: the shared flag that asks running cells to save and stop.
        work: done with each group.
        max_groups: groups after which a worker is replaced, or None.
    """

    def __init__(
        self, device: str | None, size: int, threads: int, stop: Any, work: Work, max_groups: int | None
    ) -> None:
        self.device, self.size, self.busy = device, size, 0
        self.failed_starts = 0
        self._waiting: list[Future[Report]] = []
        self._work = work
        given = (os.getpid(), environment(device, threads), stop, pickle.dumps(work))
        self._make = functools.partial(ProcessPool, size, max_groups or 0, worker.start, given, SPAWN)
        self._pool = self._make()

    def submit(self, group: Group, timeout: float | None) -> "Future[Report]":
        """Let a worker do a group; its time counts from when the worker begins with it."""
        self.poll()
        with _ctrl_c_blocked():
            assert self._pool.active, "this starts a new pool's workers"
            future: Future[Report] = self._pool.schedule(self._work, args=(group,), timeout=timeout)
        self._waiting = [each for each in self._waiting if not each.done()] + [future]
        return future

    def poll(self) -> None:
        """Replace a pool that broke because a worker died while none had a cell.

        Pebble ends the futures of a broken pool, but may miss one whose group was just being handed over.
        """
        if not self._waiting or self._pool.active:
            return
        self.stop()
        for future in self._waiting:
            if not future.done():
                future.set_exception(BrokenProcessPool("its worker died before it began"))
        self._waiting, self._pool = [], self._make()
        self.failed_starts += 1

    def close(self) -> None:
        """Stop replacing workers."""
        self._pool.stop()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """End the workers."""
        self.close()
        self._pool.join()


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Processes and threads that are started in this block never get SIGINT, not even in their first moments."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # whose own start unblocks it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def kill_all() -> None:
    """End every child process of this one at once, and wait until they are gone."""
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    for child in children:
        child.join(timeout=5)


def cause_of(error: BaseException, timeout: float | None) -> tuple[records.Kind, str]:
    """What ended a cell that could not say so itself."""
    if isinstance(error, TimeoutError) and timeout and error.args[:1] == ("Task timeout",):
        return "timeout", f"ran longer than hydra.launcher.cell_timeout={timeout:g} s and was ended"
    if isinstance(error, ProcessExpired):
        if error.exitcode is not None and error.exitcode < 0:
            return "signal", f"its process was killed by {_signal_name(-error.exitcode)}"
        return "signal", f"its process ended with exit code {error.exitcode}"
    if isinstance(error, WorkerDied):
        return error.kind, error.cause
    if isinstance(error, BrokenProcessPool):
        return "signal", "its process died before it began"
    return "exception", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _signal_name(number: int) -> str:
    if number == signal.SIGKILL:
        return "SIGKILL (by hand, or by the system when memory ran out)"
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


class LocalBackend:
    """Worker processes of this machine; see :class:`~capsexp.engine.base.Backend`.

    If this process is killed, the system kills the workers.

    Args:
        options: the launcher's settings.
        threads: CPU threads of a worker.
        work: done with each group.
    """

    def __init__(self, options: Options, threads: int, work: Work) -> None:
        self._limit, self._threads, self._work = options.max_cells_per_worker, threads, work
        self._stop_flag: Any = SPAWN.RawValue("b", 0)
        self._pools: list[LocalPool] = []

    def pool(self, slot: Slot, size: int) -> LocalPool:
        """New workers, bound to the slot's device."""
        self._pools.append(LocalPool(slot.device, size, self._threads, self._stop_flag, self._work, self._limit))
        return self._pools[-1]

    def ask_to_stop(self) -> None:
        """Raise the flag that running cells look at."""
        self._stop_flag.value = 1

    def end(self) -> None:
        """Kill all workers."""
        kill_all()

    def close(self) -> None:
        """No process stays: what it has to say is on the disk, and pebble's own way takes seconds for each."""
        for each in self._pools:
            each.close()
        kill_all()
        for each in self._pools:
            each.stop()

    def cause_of(self, error: BaseException, timeout: float | None) -> tuple[records.Kind, str]:
        """What ended a group that could not say so itself."""
        return cause_of(error, timeout)

    def is_lost(self, cell: Cell, since: float) -> bool:
        """True if the process that last wrote of this cell, since it was given out, is gone."""
        status = records.read_status(cell.directory)
        return status is not None and status.updated >= since and records.is_gone(status)


class LocalEngine:
    """Runs cells in worker processes of this machine; one object runs one sweep.

    Args:
        options: the launcher's settings.
        layout: what follows from them here.
        work: done with each group.
    """

    def __init__(self, options: Options, layout: Layout, work: Work) -> None:
        backend = LocalBackend(options, layout.threads, work)
        self._scheduler = Scheduler(options, Devices(layout.devices, layout.per_device, layout.most), backend)
        self.at_once = layout.most

    def run(self, groups: Sequence[Group], listener: Listener) -> Summary:
        """Run the groups; see :class:`~capsexp.engine.base.Engine`."""
        return self._scheduler.run(groups, listener)
