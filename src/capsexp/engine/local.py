"""The engine of one machine: worker processes, each bound to a device, with one common queue.

Pebble manages the processes.  A process that dies or hangs is replaced, and only its group is affected.
"""

import contextlib
import functools
import multiprocessing
import os
import pickle
import signal
import sys
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
from capsexp.engine.options import Layout, Options, environment, learned
from capsexp.engine.scheduler import Scheduler

SPAWN = multiprocessing.get_context("spawn")


class LocalPool:
    """Worker processes of one device; see :class:`~capsexp.engine.base.WorkerPool`.

    Args:
        device: value of CUDA_VISIBLE_DEVICES, or None.
        size: number of processes.
        threads: CPU threads per process.
        stop: the shared flag that asks running cells to save and stop.
        work: the task for each group.
        max_groups: groups after which a worker is replaced, or None.
    """

    def __init__(
        self, device: str | None, size: int, threads: int, stop: Any, work: Work, max_groups: int | None
    ) -> None:
        self.device, self.size, self.busy = device, size, 0
        self.failed_starts = 0
        self._waiting: list[Future[Report]] = []
        self._work = work
        self._environment = environment(device, threads)
        given = (os.getpid(), self._environment, stop, pickle.dumps(work))
        self._make = functools.partial(ProcessPool, size, max_groups or 0, worker.start, given, SPAWN)
        self._pool = self._make()

    def submit(self, group: Group, timeout: float | None) -> "Future[Report]":
        """Run a group in a worker; the time limit counts from the start of the group."""
        self.poll()
        self._environment.update(learned)  # for workers that replace others
        with _ctrl_c_blocked():
            assert self._pool.active, "this starts a new pool's workers"
            future: Future[Report] = self._pool.schedule(self._work, args=(group,), timeout=timeout)
        self._waiting = [each for each in self._waiting if not each.done()] + [future]
        return future

    def poll(self) -> None:
        """Replace a pool that broke because a worker died before it had a cell.

        Pebble ends the futures of a broken pool, but may miss one whose group was just being submitted.
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
        """Stop the workers."""
        self.close()
        self._pool.join()


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Block SIGINT for all processes and threads that are started in this block, from their first moment."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    _start_tracker()  # its own start would unblock SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_tracker() -> None:
    """Start Python's process that tidies up semaphores, without its warning: those of a killed sweep are no fault."""
    before = sys.warnoptions.copy()
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")  # it gets the warning options of this process
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions[:] = before


def kill_all() -> None:
    """Kill every child process of this process, and wait until they have ended."""
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    for child in children:
        child.join(timeout=5)


def cause_of(error: BaseException, timeout: float | None) -> tuple[records.Kind, str]:
    """The kind and cause of a failure that the worker itself could not report."""
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
        threads: CPU threads per worker.
        work: the task for each group.
    """

    def __init__(self, options: Options, threads: int, work: Work) -> None:
        _start_tracker()
        self._limit, self._threads, self._work = options.max_cells_per_worker, threads, work
        self._stop_flag: Any = SPAWN.RawValue("b", 0)
        self._pools: list[LocalPool] = []

    def pool(self, slot: Slot, size: int) -> LocalPool:
        """New workers, bound to the slot's device."""
        self._pools.append(LocalPool(slot.device, size, self._threads, self._stop_flag, self._work, self._limit))
        return self._pools[-1]

    def ask_to_stop(self) -> None:
        """Raise the flag that running cells check."""
        self._stop_flag.value = 1

    def end(self) -> None:
        """Kill all workers."""
        kill_all()

    def close(self) -> None:
        """Kill all processes: their results are on disk, and pebble's own shutdown takes seconds per process."""
        for each in self._pools:
            each.close()
        kill_all()
        for each in self._pools:
            each.stop()
        records.clear_folders()

    def cause_of(self, error: BaseException, timeout: float | None) -> tuple[records.Kind, str]:
        """The kind and cause of a group's failure; see :func:`cause_of`."""
        return cause_of(error, timeout)

    def is_lost(self, cell: Cell, since: float) -> bool:
        """True if the process that wrote this cell's status since its assignment has ended."""
        status = records.read_status(cell.directory)
        return status is not None and status.updated >= since and records.is_gone(status)


class LocalEngine:
    """Runs cells in worker processes of this machine; one object runs one sweep.

    Args:
        options: the launcher's settings.
        layout: the layout that follows from them on this machine.
        work: the task for each group.
    """

    def __init__(self, options: Options, layout: Layout, work: Work) -> None:
        backend = LocalBackend(options, layout.threads, work)
        self._scheduler = Scheduler(options, Devices(layout.devices, layout.per_device, layout.most), backend)
        self.at_once = layout.most

    def run(self, groups: Sequence[Group], listener: Listener) -> Summary:
        """Run the groups; see :class:`~capsexp.engine.base.Engine`."""
        return self._scheduler.run(groups, listener)
