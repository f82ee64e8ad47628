"""The engine of one machine: worker processes, each bound to a device, fed from one queue."""

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from pebble import ProcessExpired

from capsexp import cell as cell_life
from capsexp import records
from capsexp.cell import Cell, Ended
from capsexp.engine.base import Tally, Watcher
from capsexp.engine.crew import SPAWN, Crew, cause_of, kill_all
from capsexp.engine.options import Layout, Options
from capsexp.engine.places import Place, Places
from capsexp.engine.signals import Signals
from capsexp.engine.worker import Report, Work

TICK_S = 0.2
BUSY_S = (0.25, 2.0)
"""Seconds before a busy cell is looked at again: at first, and at most."""

LOST_S = 5.0
"""Seconds between two looks for cells whose process is gone; seen twice, they are."""

STILLBORN = 3
"""How often a device's workers may die before their first cell, one after the other; then the sweep is given up."""

INFRASTRUCTURE: tuple[records.Kind, ...] = ("signal", "out-of-memory")
"""Causes that another try may not meet again."""


@dataclass(eq=False)
class _Entry:
    """A cell in the queue."""

    cell: Cell
    tries: int = 0
    alone: bool = False
    not_before: float = 0.0
    pause_s: float = 0.0


@dataclass(frozen=True, eq=False)
class _Running:
    """A cell in a worker's hands."""

    entry: _Entry
    place: Place
    crew: Crew
    since: float


def _is_lost(running: _Running) -> bool:
    """Whether the process that last wrote of this cell, since it was given out, is gone."""
    status = records.read_status(running.entry.cell.directory)
    return status is not None and status.updated >= running.since and records.is_gone(status)


class LocalEngine:
    """Runs cells in worker processes of this machine; one object runs one sweep.

    The first Ctrl-C lets running cells save and starts no more; a second one, SIGTERM or SIGHUP ends all workers.  If
    this process is killed, the system kills the workers.

    Args:
        options: the launcher's settings.
        layout: what follows from them here.
        work: what is done with a cell.
    """

    def __init__(self, options: Options, layout: Layout, work: Work = cell_life.run) -> None:
        self._options, self._layout, self._work = options, layout, work
        self._places = Places(layout.devices, layout.per_device, layout.most)
        self._stop_flag: Any = SPAWN.RawValue("b", 0)
        self._crews: dict[str | None, list[Crew]] = {}
        self._queue: deque[_Entry] = deque()
        self._running: dict[Future[Report], _Running] = {}
        self._tally = Tally()
        self._signals, self._given_up = Signals(), False
        self._looked, self._lost = time.monotonic(), set[Future[Report]]()
        self._waits: set[str] = set()

    def run(self, cells: Sequence[Cell], watcher: Watcher) -> Tally:
        """Run the cells; see :class:`~capsexp.engine.base.Engine`."""
        self._watcher = watcher
        self._queue.extend(_Entry(cell) for cell in cells)
        with self._signals.heeded():
            try:
                self._loop()
            finally:
                self._end_workers()
        return self._tally

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
            self._look_for_lost()
            self._watcher.tick()

    def _wait(self) -> None:
        if not self._running:
            time.sleep(TICK_S)
            return
        done, _ = wait(self._running, timeout=TICK_S, return_when=FIRST_COMPLETED)
        for future in done:
            self._settle(self._taken_back(future), future)

    def _taken_back(self, future: "Future[Report]") -> _Running:
        running = self._running.pop(future)
        running.crew.busy -= 1
        self._places.give_back(running.place)
        return running

    def _look_for_lost(self) -> None:
        """Find cells whose worker is gone without pebble's notice: it broke, or it ended itself with exit(0)."""
        for crew in {running.crew for running in self._running.values()}:
            crew.mend()
        if time.monotonic() - self._looked < LOST_S:
            return
        self._looked = time.monotonic()
        silent = {future for future, running in self._running.items() if _is_lost(running)}
        for future in silent & self._lost:
            gone = ProcessExpired("without pebble's notice", code=0)  # type: ignore[no-untyped-call]
            self._dead(self._taken_back(future), gone)
        self._lost = silent - self._lost

    def _start_what_fits(self) -> None:
        now = time.monotonic()
        for entry in [entry for entry in self._queue if entry.not_before <= now]:
            place = self._places.take(alone=entry.alone)
            if place is not None:
                self._queue.remove(entry)
                self._start(entry, place)
            elif self._places.held >= self._layout.most:
                return

    def _start(self, entry: _Entry, place: Place) -> None:
        crew = self._crew(place)
        crew.busy += 1
        future = crew.submit(entry.cell, self._options.cell_timeout)
        self._running[future] = _Running(entry, place, crew, time.time())
        self._watcher.started(entry.cell, f"GPU {place.device}" if place.device else "")

    def _crew(self, place: Place) -> Crew:
        """A crew of the device that has a worker to spare; the first, and one more once the device can hold more."""
        crews = self._crews.setdefault(place.device, [])
        for crew in crews:
            if crew.busy < crew.size:
                return crew
        room = place.capacity - sum(crew.size for crew in crews)
        size = min(room, self._layout.most, len(self._queue) + 1)  # no worker for whom there is no cell
        limit = self._options.max_cells_per_worker
        crews.append(Crew(place.device, size, self._layout.threads, self._stop_flag, self._work, limit))
        return crews[-1]

    # -- what becomes of a cell ---------------------------------------------------------------------------------------

    def _settle(self, running: _Running, future: "Future[Report]") -> None:
        try:
            report = future.result()
        except Exception as error:
            self._dead(running, error)
            return
        running.crew.stillborn = 0
        for line in report.warnings:
            self._watcher.said(line)
        if report.ended.gpu:
            self._measured(report.ended.gpu)
        self._judge(running.entry, report.ended)

    def _measured(self, gpu: dict[str, int]) -> None:
        capacity = self._places.measured(gpu["peak_bytes"], gpu["total_bytes"])
        if capacity is not None:
            peak, total = gpu["peak_bytes"] / 1e9, gpu["total_bytes"] / 1e9
            self._watcher.said(f"{capacity} cells at once on each GPU: the first needed {peak:.2f} of {total:.1f} GB")

    def _dead(self, running: _Running, error: Exception) -> None:
        """A worker could not say what became of its cell."""
        entry = running.entry
        kind, cause = cause_of(error, self._options.cell_timeout)
        if kind == "signal" and self._signals.stopping:  # the workers got it too
            self._interrupted(entry.cell)
            return
        if isinstance(error, BrokenProcessPool):
            self._never_began(running)
            return
        running.crew.stillborn = 0
        status = cell_life.settle(entry.cell, "failed", cause, kind)
        words = "done" if status.state == "done" else f"failed ({kind}): {cause}"
        self._judge(entry, Ended(status, words))

    def _never_began(self, running: _Running) -> None:
        """That costs the cell nothing; but workers that always die like this will do no cell."""
        self._queue.appendleft(running.entry)
        if running.crew.stillborn >= STILLBORN and not self._given_up:
            self._watcher.said("worker processes die before they can begin; the sweep is given up")
            self._give_up()
        elif self._given_up:
            self._give_up()
        self._watcher.put_back(running.entry.cell, "its process died before it began")

    def _interrupted(self, cell: Cell) -> None:
        status = cell_life.settle(cell, "interrupted", "stopped by the user")
        ended = Ended(status, f"{status.state}: {status.cause or 'its result is whole'}")
        self._tally.ended[cell.id] = ended
        self._watcher.ended(cell, ended)

    def _judge(self, entry: _Entry, ended: Ended) -> None:
        stopping = self._signals.stopping or self._given_up
        if ended.busy and not stopping:
            self._later(entry, ended)
        elif not stopping and ended.ran and ended.status.kind in INFRASTRUCTURE and entry.tries < self._options.retries:
            self._again(entry, ended)
        else:
            self._tally.ended[entry.cell.id] = ended
            self._watcher.ended(entry.cell, ended)
            self._give_up_if_others_would_fail(ended)

    def _later(self, entry: _Entry, ended: Ended) -> None:
        if not entry.pause_s and ended.words not in self._waits:  # many cells may wait for one stage
            self._waits.add(ended.words)
            self._watcher.put_back(entry.cell, ended.words)
        entry.pause_s = min(max(BUSY_S[0], 2 * entry.pause_s), BUSY_S[1])
        entry.not_before = time.monotonic() + entry.pause_s
        self._queue.append(entry)

    def _again(self, entry: _Entry, ended: Ended) -> None:
        """Another try, at the end of the queue, with the device to itself."""
        cause = str(ended.status.cause)
        cell_life.settle(entry.cell, "pending", cause)
        entry.tries, entry.alone = entry.tries + 1, True
        self._queue.append(entry)
        self._watcher.put_back(entry.cell, f"{ended.status.kind}: {cause}; it is tried again, alone on its device")

    def _give_up_if_others_would_fail(self, ended: Ended) -> None:
        if ended.status.state != "failed" or not self._queue:
            return
        if ended.status.kind == "disk":
            self._watcher.said("the disk is full: no further cell is started; make space and give the command again")
            self._give_up()
        elif self._options.fail_fast:
            self._watcher.said("fail_fast: no further cell is started")
            self._give_up()

    def _give_up(self) -> None:
        self._given_up = True
        self._tally.left.extend(entry.cell for entry in self._queue)
        self._queue.clear()

    # -- stopping -----------------------------------------------------------------------------------------------------

    def _save_and_stop(self) -> None:
        self._stop_flag.value = 1
        self._tally.stopped = True
        self._give_up()
        if self._running:
            self._watcher.said(
                f"stopping: {len(self._running)} running cells save themselves; Ctrl-C again ends them at once"
            )

    def _kill(self) -> None:
        kill_all()  # and wait for it: a dead process' lock is free, so that its cell's status can be written
        self._tally.stopped = True
        self._give_up()
        for running in self._running.values():
            self._interrupted(running.entry.cell)
        self._running.clear()

    def _end_workers(self) -> None:
        """No process stays: what it has to say is on the disk, and pebble's own way takes seconds for each."""
        crews = [crew for crews in self._crews.values() for crew in crews]
        for crew in crews:
            crew.close()
        kill_all()
        for crew in crews:
            crew.stop()
