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
from capsexp.engine import worker
from capsexp.engine.base import Lot, Report, Vanished
from capsexp.engine.options import environment
from capsexp.stacking.settings import Settings

SPAWN = multiprocessing.get_context("spawn")


class Crew:
    """Some workers of one device; see :class:`capsexp.engine.base.Crew`.

    Args:
        device: for CUDA_VISIBLE_DEVICES, or None.
        size: how many.
        threads: CPU threads of each.
        stop: the shared flag that asks running cells to save and stop.
        work: what is done with a cell on its own.
        max_cells: lots after which a worker is replaced, or None.
        together: what is done with a lot of several.
        settings: how those are trained.
    """

    def __init__(
        self,
        device: str | None,
        size: int,
        threads: int,
        stop: Any,
        work: worker.Work,
        max_cells: int | None,
        together: worker.Together = worker.stack,
        settings: Settings = Settings(),  # noqa: B008 - frozen
    ) -> None:
        self.device, self.size, self.busy = device, size, 0
        self.stillborn = 0
        self._waiting: list[Future[Report]] = []
        self._work, self._together, self._settings = work, together, settings
        warm = work.__module__ == "capsexp.cell"
        told = (os.getpid(), environment(device, threads), stop, warm)
        self._make = functools.partial(ProcessPool, size, max_cells or 0, worker.start, told, SPAWN)
        self._pool = self._make()

    def submit(self, lot: Lot, timeout: float | None) -> "Future[Report]":
        """Let a worker do a lot; its time counts from when the worker begins with it."""
        self.mend()
        alone, together = (self._work, *lot), (self._together, lot, self._settings)
        does, told = (worker.run, alone) if len(lot) == 1 else (worker.run_lot, together)
        with _deaf_to_ctrl_c():
            assert self._pool.active, "this starts a new pool's workers"
            future: Future[Report] = self._pool.schedule(does, args=told, timeout=timeout)
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
    if isinstance(error, Vanished):
        return "signal", "its process ended with exit code 0"  # any other one would have been noticed
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
