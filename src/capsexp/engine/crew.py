"""Worker processes bound to one device, kept by pebble: one that dies or hangs costs its cell and is replaced."""

import contextlib
import functools
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any

from pebble import ProcessExpired, ProcessPool

from capsexp import records
from capsexp.cell import Cell
from capsexp.engine import worker
from capsexp.engine.options import environment

SPAWN = multiprocessing.get_context("spawn")


class Crew:
    """Some workers of one device.

    Args:
        device: for CUDA_VISIBLE_DEVICES, or None.
        size: how many.
        threads: CPU threads of each.
        stop: the shared flag that asks running cells to save and stop.
        work: what is done with a cell.
        max_cells: cells after which a worker is replaced, or None.

    Attributes:
        stillborn: how often, one after the other, workers died while none had a cell; whoever sees a cell end sets it
            to 0.
    """

    def __init__(
        self, device: str | None, size: int, threads: int, stop: Any, work: worker.Work, max_cells: int | None
    ) -> None:
        self.device, self.size, self.busy = device, size, 0
        self.stillborn = 0
        self._waiting: list[Future[worker.Report]] = []
        self._work = work
        warm = work.__module__ == "capsexp.cell"
        told = (os.getpid(), environment(device, threads), stop, warm)
        self._make = functools.partial(ProcessPool, size, max_cells or 0, worker.start, told, SPAWN)
        self._pool = self._make()

    def submit(self, cell: Cell, timeout: float | None) -> "Future[worker.Report]":
        """Let a worker do a cell; its time counts from when the worker begins with it."""
        self.mend()
        with _deaf_to_ctrl_c():
            assert self._pool.active, "this starts a new pool's workers"
            future: Future[worker.Report] = self._pool.schedule(worker.run, args=(self._work, cell), timeout=timeout)
        self._waiting = [each for each in self._waiting if not each.done()] + [future]
        return future

    def mend(self) -> None:
        """Replace a pool that broke because a worker died while none had a cell.

        It tells those who wait for it, but may miss one whose cell was just being handed over.
        """
        if not self._waiting or self._pool.active:
            return
        self.stop()
        for future in self._waiting:
            if not future.done():
                future.set_exception(BrokenProcessPool("its worker died before it began"))
        self._waiting, self._pool = [], self._make()
        self.stillborn += 1

    def close(self) -> None:
        """Replace no worker any more."""
        self._pool.stop()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """End the workers."""
        self.close()
        self._pool.join()


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes and threads that are started here never get SIGINT, not even in their first moments."""
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
