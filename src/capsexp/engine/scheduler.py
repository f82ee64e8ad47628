"""The scheduler of a sweep: assigns groups to workers, and keeps track of every cell even if workers die."""

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool

from capsexp import records
from capsexp.engine.base import Backend, Group, Listener, Report, Summary, WorkerDied, WorkerPool
from capsexp.engine.devices import Devices, Slot
from capsexp.engine.options import Options, learned
from capsexp.engine.queue import Entry, Queue, RunningGroup
from capsexp.engine.retry_policy import RetryPolicy
from capsexp.engine.signals import Signals

TICK_S = 0.2

LOOK_S = 1.0
"""Seconds between two checks for ended cells of groups that still run."""

LOST_S = 5.0
"""Seconds between two checks for groups whose process has ended; a group that two checks find is lost."""

UNNOTICED = "its process ended with exit code 0"
"""The cause of a lost group: any other exit code is detected."""


class Scheduler:
    """Runs groups of cells; one object runs one sweep.

    After the first Ctrl-C, running cells save and no more start.  A second Ctrl-C, SIGTERM or SIGHUP kills all workers.

    Args:
        options: the launcher's settings.
        devices: the devices of the sweep.
        backend: the source of workers.
    """

    def __init__(self, options: Options, devices: Devices, backend: Backend) -> None:
        self._options, self._devices, self._backend = options, devices, backend
        self._pools: dict[str | None, list[WorkerPool]] = {}
        self._running: dict[Future[Report], RunningGroup] = {}
        self._signals = Signals()
        self._looked = self._looked_for_lost = time.monotonic()
        self._lost = set[Future[Report]]()

    def run(self, groups: Sequence[Group], listener: Listener) -> Summary:
        """Run the groups; see :class:`~capsexp.engine.base.Engine`."""
        self._listener, self._queue = listener, Queue(groups)
        self._policy = RetryPolicy(self._options, self._signals, self._queue, listener)
        with self._signals.handling():
            try:
                self._loop()
            finally:
                self._backend.close()
        return self._policy.summary

    # -- the loop -----------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        asked = 0
        while self._queue or self._running:
            if self._signals.interrupts > asked:
                asked = self._signals.interrupts
                self._save_and_stop()
            if self._signals.end_now:
                self._kill()
                return
            self._start_what_fits()
            self._wait()
            self._look_for_ended()
            self._look_for_lost()
            self._listener.tick()

    def _wait(self) -> None:
        if not self._running:
            time.sleep(TICK_S)
            return
        done, _ = wait(self._running, timeout=TICK_S, return_when=FIRST_COMPLETED)
        for future in done:
            self._settle(self._taken_back(future), future)

    def _taken_back(self, future: "Future[Report]") -> RunningGroup:
        running = self._running.pop(future)
        running.pool.busy -= 1
        self._devices.give_back(running.slot)
        return running

    def _look_for_ended(self) -> None:
        if time.monotonic() - self._looked < LOOK_S:
            return
        for running in self._running.values():
            self._policy.learn(running)
        self._looked = time.monotonic()

    def _look_for_lost(self) -> None:
        """Find groups whose worker died undetected: its pool broke, or it called exit(0)."""
        for pool in {running.pool for running in self._running.values()}:
            pool.poll()
        if time.monotonic() - self._looked_for_lost < LOST_S:
            return
        self._looked_for_lost = time.monotonic()
        silent = {future for future, running in self._running.items() if self._is_lost(running)}
        for future in silent & self._lost:
            self._worker_died(self._taken_back(future), WorkerDied("signal", UNNOTICED))
        self._lost = silent - self._lost

    def _is_lost(self, running: RunningGroup) -> bool:
        """True if all statuses of the group since its assignment were written by processes that have ended."""
        found = [(cell, records.read_status(cell.directory)) for cell in running.entry.group]
        written = [cell for cell, status in found if status is not None and status.updated >= running.since]
        return bool(written) and all(self._backend.is_lost(cell, running.since) for cell in written)

    def _start_what_fits(self) -> None:
        for entry in self._queue.ready():
            slot = self._devices.take(alone=entry.alone)
            if slot is not None:
                self._queue.take(entry)
                self._start(entry, slot)
            elif self._devices.held >= self._devices.most:
                return

    def _start(self, entry: Entry, slot: Slot) -> None:
        pool = self._pool_of(slot)
        pool.busy += 1
        since, each_s = time.time(), self._options.cell_timeout
        future = pool.submit(entry.group, each_s and each_s * len(entry.group))
        self._running[future] = RunningGroup(entry, slot, pool, since)
        for cell in entry.group:
            self._listener.started(cell, slot.where)

    def _pool_of(self, slot: Slot) -> WorkerPool:
        """A pool of the device with an idle worker; a new pool if all are busy and the device has room."""
        pools = self._pools.setdefault(slot.device, [])
        for pool in pools:
            if pool.busy < pool.size:
                return pool
        room = slot.capacity - sum(pool.size for pool in pools)
        size = min(room, self._devices.most, len(self._queue) + 1)  # no more workers than groups
        pools.append(self._backend.pool(slot, size))
        return pools[-1]

    # -- the end of a group ----------------------------------------------------------------------------------------

    def _settle(self, running: RunningGroup, future: "Future[Report]") -> None:
        try:
            report = future.result()
        except Exception as error:
            self._worker_died(running, error)
            return
        running.pool.failed_starts = 0
        learned.update(report.learned)
        for line in report.warnings:
            self._listener.message(line)
        for outcome in report.outcomes.values():
            if outcome.gpu:
                self._measured(outcome.gpu)
        self._policy.reported(running, report.outcomes)

    def _measured(self, gpu: dict[str, int]) -> None:
        capacity = self._devices.measured(gpu["peak_bytes"], gpu["total_bytes"])
        if capacity is not None:
            peak, total = gpu["peak_bytes"] / 1e9, gpu["total_bytes"] / 1e9
            self._listener.message(
                f"{capacity} cells at once on each GPU: the first needed {peak:.2f} of {total:.1f} GB"
            )

    def _worker_died(self, running: RunningGroup, error: Exception) -> None:
        """Handle a worker that ended without a report."""
        self._policy.learn(running)
        kind, cause = self._backend.cause_of(error, self._options.cell_timeout)
        if kind == "signal" and self._signals.stopping:  # the workers received the signal too
            self._policy.interrupted(running)
        elif isinstance(error, BrokenProcessPool):
            self._policy.worker_failed_to_start(running)
        else:
            running.pool.failed_starts = 0
            self._policy.broken(running, kind, cause)

    # -- stopping -----------------------------------------------------------------------------------------------------

    def _save_and_stop(self) -> None:
        self._backend.ask_to_stop()
        self._policy.stop()
        if self._running:
            number = sum(len(running.left) for running in self._running.values())
            self._listener.message(f"stopping: {number} running cells save themselves; Ctrl-C again ends them at once")

    def _kill(self) -> None:
        self._backend.end()  # waits until the locks are free, so that the statuses can be written
        self._policy.stop()
        for running in self._running.values():
            self._policy.learn(running)
            self._policy.interrupted(running)
        self._running.clear()
