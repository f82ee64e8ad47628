"""The loop of a sweep: gives lots to workers, wherever these live, and loses no cell whatever happens to one."""

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool

from capsexp import records
from capsexp.engine.base import Crew, Lot, Report, Staff, Tally, Vanished, Watcher
from capsexp.engine.fates import Fates
from capsexp.engine.options import Options
from capsexp.engine.places import Place, Places
from capsexp.engine.queue import Entry, Queue, Running
from capsexp.engine.signals import Signals

TICK_S = 0.2

LOOK_S = 1.0
"""Seconds between two looks for cells that have ended while others of their lot go on."""

LOST_S = 5.0
"""Seconds between two looks for lots whose process is gone; seen twice, they are."""


class Loop:
    """Runs lots of cells; one object runs one sweep.

    The first Ctrl-C lets running cells save and starts no more; a second one, SIGTERM or SIGHUP ends all workers.

    Args:
        options: the launcher's settings.
        places: where lots may run.
        staff: whom workers are hired from.
    """

    def __init__(self, options: Options, places: Places, staff: Staff) -> None:
        self._options, self._places, self._staff = options, places, staff
        self._crews: dict[str | None, list[Crew]] = {}
        self._running: dict[Future[Report], Running] = {}
        self._signals = Signals()
        self._looked = self._looked_for_lost = time.monotonic()
        self._lost = set[Future[Report]]()

    def run(self, lots: Sequence[Lot], watcher: Watcher) -> Tally:
        """Run the lots; see :class:`~capsexp.engine.base.Engine`."""
        self._watcher, self._queue = watcher, Queue(lots)
        self._fates = Fates(self._options, self._signals, self._queue, watcher)
        with self._signals.heeded():
            try:
                self._loop()
            finally:
                self._staff.close()
        return self._fates.tally

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
            self._watcher.tick()

    def _wait(self) -> None:
        if not self._running:
            time.sleep(TICK_S)
            return
        done, _ = wait(self._running, timeout=TICK_S, return_when=FIRST_COMPLETED)
        for future in done:
            self._settle(self._taken_back(future), future)

    def _taken_back(self, future: "Future[Report]") -> Running:
        running = self._running.pop(future)
        running.crew.busy -= 1
        self._places.give_back(running.place)
        return running

    def _look_for_ended(self) -> None:
        if time.monotonic() - self._looked < LOOK_S:
            return
        for running in self._running.values():
            self._fates.learn(running)
        self._looked = time.monotonic()

    def _look_for_lost(self) -> None:
        """Find lots whose worker is gone without anybody's notice: it broke, or it ended itself with exit(0)."""
        for crew in {running.crew for running in self._running.values()}:
            crew.mend()
        if time.monotonic() - self._looked_for_lost < LOST_S:
            return
        self._looked_for_lost = time.monotonic()
        silent = {future for future, running in self._running.items() if self._is_lost(running)}
        for future in silent & self._lost:
            self._dead(self._taken_back(future), Vanished())
        self._lost = silent - self._lost

    def _is_lost(self, running: Running) -> bool:
        """Whether all that is written of the lot since it was given out was written by processes that are gone."""
        found = [(cell, records.read_status(cell.directory)) for cell in running.entry.lot]
        written = [cell for cell, status in found if status is not None and status.updated >= running.since]
        return bool(written) and all(self._staff.is_lost(cell, running.since) for cell in written)

    def _start_what_fits(self) -> None:
        for entry in self._queue.ready():
            place = self._places.take(alone=entry.alone)
            if place is not None:
                self._queue.take(entry)
                self._start(entry, place)
            elif self._places.held >= self._places.most:
                return

    def _start(self, entry: Entry, place: Place) -> None:
        crew = self._crew(place)
        crew.busy += 1
        since, each_s = time.time(), self._options.cell_timeout
        future = crew.submit(entry.lot, each_s and each_s * len(entry.lot))
        self._running[future] = Running(entry, place, crew, since)
        for cell in entry.lot:
            self._watcher.started(cell, place.where)

    def _crew(self, place: Place) -> Crew:
        """A crew of the device that has a worker to spare; the first, and one more once the device can hold more."""
        crews = self._crews.setdefault(place.device, [])
        for crew in crews:
            if crew.busy < crew.size:
                return crew
        room = place.capacity - sum(crew.size for crew in crews)
        size = min(room, self._places.most, len(self._queue) + 1)  # no worker for whom there is no lot
        crews.append(self._staff.crew(place, size))
        return crews[-1]

    # -- what becomes of a lot ----------------------------------------------------------------------------------------

    def _settle(self, running: Running, future: "Future[Report]") -> None:
        try:
            report = future.result()
        except Exception as error:
            self._dead(running, error)
            return
        running.crew.stillborn = 0
        for line in report.warnings:
            self._watcher.said(line)
        for ended in report.ended.values():
            if ended.gpu:
                self._measured(ended.gpu)
        self._fates.reported(running, report.ended)

    def _measured(self, gpu: dict[str, int]) -> None:
        capacity = self._places.measured(gpu["peak_bytes"], gpu["total_bytes"])
        if capacity is not None:
            peak, total = gpu["peak_bytes"] / 1e9, gpu["total_bytes"] / 1e9
            self._watcher.said(f"{capacity} cells at once on each GPU: the first needed {peak:.2f} of {total:.1f} GB")

    def _dead(self, running: Running, error: Exception) -> None:
        """A worker could not say what became of its lot."""
        self._fates.learn(running)
        kind, cause = self._staff.cause_of(error, self._options.cell_timeout)
        if kind == "signal" and self._signals.stopping:  # the workers got it too
            self._fates.interrupted(running)
        elif isinstance(error, BrokenProcessPool):
            self._fates.not_begun(running)
        else:
            running.crew.stillborn = 0
            self._fates.broken(running, kind, cause)

    # -- stopping -----------------------------------------------------------------------------------------------------

    def _save_and_stop(self) -> None:
        self._staff.ask_to_stop()
        self._fates.stop()
        if self._running:
            number = sum(len(running.left) for running in self._running.values())
            self._watcher.said(f"stopping: {number} running cells save themselves; Ctrl-C again ends them at once")

    def _kill(self) -> None:
        self._staff.end()  # and wait for it: a dead process' lock is free, so that its cell's status can be written
        self._fates.stop()
        for running in self._running.values():
            self._fates.learn(running)
            self._fates.interrupted(running)
        self._running.clear()
