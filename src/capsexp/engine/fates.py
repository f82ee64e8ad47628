"""What becomes of cells: which have ended, which go back into the queue, and when a sweep is given up."""

from collections.abc import Mapping, Sequence

from capsexp import cell as cell_life
from capsexp import records
from capsexp.cell import Cell, Ended
from capsexp.engine.base import Tally, Watcher
from capsexp.engine.options import Options
from capsexp.engine.queue import Entry, Queue, Running
from capsexp.engine.signals import Signals

INFRASTRUCTURE: tuple[records.Kind, ...] = ("signal", "out-of-memory")
"""Causes that another try may not meet again."""

STILLBORN = 3
"""How often a device's workers may die before their first cell, one after the other; then the sweep is given up."""


class Fates:
    """Judges cells, and keeps the tally.

    Args:
        options: the launcher's settings.
        signals: what the user has asked for.
        queue: where cells go back to.
        watcher: who is told.

    Attributes:
        tally: how the sweep has ended so far.
        given_up: no cell is put back any more.
    """

    def __init__(self, options: Options, signals: Signals, queue: Queue, watcher: Watcher) -> None:
        self._options, self._signals, self._queue, self._watcher = options, signals, queue, watcher
        self._waits: set[str] = set()
        self.tally, self.given_up = Tally(), False

    # -- a lot --------------------------------------------------------------------------------------------------------

    def reported(self, running: Running, ended: Mapping[str, Ended]) -> None:
        """A worker has said what became of its cells; of those that it does not name it does not know."""
        told = [cell for cell in running.left if cell.id in ended]
        unknown = [cell for cell in running.left if cell.id not in ended]
        busy = [] if self._stopping else [cell for cell in told if ended[cell.id].busy]
        if busy:
            self._later(running.entry, busy, ended)
        if unknown:
            self._halve(running.entry, unknown, "its stack broke")
        for cell in told:
            if cell not in busy:
                self._judge(running.entry, cell, ended[cell.id])

    def learn(self, running: Running) -> None:
        """Find the cells of a lot of several that have ended by now, by their files."""
        for cell in running.left if len(running.entry.lot) > 1 else []:
            ended = _ended_since(cell, running.since)
            if ended is not None:
                running.known.add(cell.id)
                self._judge(running.entry, cell, ended)

    def broken(self, running: Running, kind: records.Kind, cause: str) -> None:
        """A worker has died, or was ended, in the middle of its lot."""
        if len(running.entry.lot) > 1:
            share = f" ({len(running.entry.lot)} cells have so many times that)" if kind == "timeout" else ""
            self._halve(running.entry, running.left, f"{kind}: {cause}{share}")
            return
        (cell,) = running.left
        status = cell_life.settle(cell, "failed", cause, kind)
        words = "done" if status.state == "done" else f"failed ({kind}): {cause}"
        self._judge(running.entry, cell, Ended(status, words))

    def not_begun(self, running: Running) -> None:
        """That costs the lot nothing; but workers that always die like this will do none."""
        why, cells = "its process died before it began", running.left
        self._queue.first(running.entry, cells)
        hopeless = running.crew.stillborn >= STILLBORN
        if hopeless and not self.given_up:
            self._watcher.said("worker processes die before they can begin; the sweep is given up")
        if hopeless or self.given_up:
            self.give_up()
        if len(cells) == 1:
            self._watcher.put_back(cells[0], why)
        elif cells:
            self._watcher.split(cells, why)

    def interrupted(self, running: Running) -> None:
        """A worker was ended because the user wants so."""
        for cell in running.left:
            status = cell_life.settle(cell, "interrupted", "stopped by the user")
            self._final(cell, Ended(status, f"{status.state}: {status.cause or 'its result is whole'}"))

    def _halve(self, entry: Entry, cells: Sequence[Cell], why: str) -> None:
        """Nobody knows which cell broke a lot: that comes out as lots get smaller, and costs none of them a try."""
        found = [(cell, cell_life.settle(cell, "interrupted", why)) for cell in cells]
        for cell, status in found:
            if status.state == "done":
                self._final(cell, Ended(status, "done"))
        left = [cell for cell, status in found if status.state != "done"]
        if left:
            self._queue.halves(entry, left)
            self._watcher.split(left, f"{why}; it is halved")
        if self.given_up:
            self.give_up()

    # -- a cell -------------------------------------------------------------------------------------------------------

    @property
    def _stopping(self) -> bool:
        return self._signals.stopping or self.given_up

    def _judge(self, entry: Entry, cell: Cell, ended: Ended) -> None:
        may_pass = ended.ran and ended.status.kind in INFRASTRUCTURE
        if may_pass and entry.tries < self._options.retries and not self._stopping:
            self._again(entry, cell, ended)
        else:
            self._final(cell, ended)
            self._give_up_if_others_would_fail(ended)

    def _final(self, cell: Cell, ended: Ended) -> None:
        self.tally.ended[cell.id] = ended
        self._watcher.ended(cell, ended)

    def _later(self, entry: Entry, cells: Sequence[Cell], ended: Mapping[str, Ended]) -> None:
        for cell in cells:
            words = ended[cell.id].words
            if not entry.pause_s and words not in self._waits:  # many cells may wait for one stage
                self._waits.add(words)
                self._watcher.put_back(cell, words)
        self._queue.later(entry, cells)

    def _again(self, entry: Entry, cell: Cell, ended: Ended) -> None:
        """Another try, at the end of the queue, with the device to itself."""
        cause = str(ended.status.cause)
        cell_life.settle(cell, "pending", cause)
        self._queue.again(entry, cell)
        self._watcher.put_back(cell, f"{ended.status.kind}: {cause}; it is tried again, alone on its device")

    # -- the sweep ----------------------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """Start nothing more."""
        self.given_up = True
        self.tally.left.extend(self._queue.clear())

    def stop(self) -> None:
        """Start nothing more because the user wants so."""
        self.tally.stopped = True
        self.give_up()

    def _give_up_if_others_would_fail(self, ended: Ended) -> None:
        if ended.status.state != "failed" or not self._queue:
            return
        if ended.status.kind == "disk":
            self._watcher.said("the disk is full: no further cell is started; make space and give the command again")
            self.give_up()
        elif self._options.fail_fast:
            self._watcher.said("fail_fast: no further cell is started")
            self.give_up()


def _ended_since(cell: Cell, moment: float) -> Ended | None:
    """How a cell ended since then in another process' hands; None while it has not, or where only that process knows.

    Whether a cell whose memory ran out is to be tried again is one of those: another command may have tried it.
    """
    status = records.read_status(cell.directory)
    if status is None or status.updated < moment:
        return None
    if status.state == "failed" and status.kind not in INFRASTRUCTURE:
        return Ended(status, cell_life.closing_words(status, None))
    result = records.read_result(cell.directory) if status.state == "done" else None
    if result is None:
        return None
    return Ended(status, cell_life.closing_words(status, result), cell_life.score(result), gpu=result.get("gpu"))
