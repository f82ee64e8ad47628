"""The retry policy: which cells have ended, which are retried, and when a sweep is aborted."""

from collections.abc import Mapping, Sequence

from capsexp import cell as cell_life
from capsexp import records
from capsexp.cell import Cell, CellOutcome
from capsexp.engine.base import Listener, Summary
from capsexp.engine.options import Options
from capsexp.engine.queue import Entry, Queue, RunningGroup
from capsexp.engine.signals import Signals

INFRASTRUCTURE: tuple[records.Kind, ...] = ("signal", "out-of-memory")
"""Kinds of failure that may not recur when the cell is retried."""

MOST_FAILED_STARTS = 3
"""Number of consecutive workers of a device that may die before their first cell; then the sweep is aborted."""


class RetryPolicy:
    """Decides for each cell whether it has ended or is retried.

    A cell that failed by a signal or a lack of memory is retried, up to ``retries`` times, with exclusive use of its
    device.  A group of several cells whose worker died is split in two; this does not count as an attempt of its cells.
    An exception or a time limit is final.

    Args:
        options: the launcher's settings.
        signals: the stop requests of the user.
        queue: the queue of the sweep.
        listener: receives the events.

    Attributes:
        summary: the outcomes so far.
        given_up: whether the sweep is aborted, so that no cell goes back into the queue.
    """

    def __init__(self, options: Options, signals: Signals, queue: Queue, listener: Listener) -> None:
        self._options, self._signals, self._queue, self._listener = options, signals, queue, listener
        self._waits: set[str] = set()
        self.summary, self.given_up = Summary(), False

    # -- a group ------------------------------------------------------------------------------------------------------

    def reported(self, running: RunningGroup, outcomes: Mapping[str, CellOutcome]) -> None:
        """Handle a worker's report; a cell that is missing in it has not ended."""
        reported = [cell for cell in running.left if cell.id in outcomes]
        unknown = [cell for cell in running.left if cell.id not in outcomes]
        busy = [] if self._stopping else [cell for cell in reported if outcomes[cell.id].busy]
        if busy:
            self._later(running.entry, busy, outcomes)
        if unknown:
            self._halve(running.entry, unknown, "its stack broke")
        for cell in reported:
            if cell not in busy:
                self._judge(running.entry, cell, outcomes[cell.id])

    def learn(self, running: RunningGroup) -> None:
        """Find the ended cells of a group of several cells by their files."""
        for cell in running.left if len(running.entry.group) > 1 else []:
            outcome = _outcome_since(cell, running.since)
            if outcome is not None:
                running.known.add(cell.id)
                self._judge(running.entry, cell, outcome)

    def broken(self, running: RunningGroup, kind: records.Kind, cause: str) -> None:
        """Handle a worker that died or was killed while it ran a group."""
        if len(running.entry.group) > 1:
            share = f" ({len(running.entry.group)} cells have so many times that)" if kind == "timeout" else ""
            self._halve(running.entry, running.left, f"{kind}: {cause}{share}")
            return
        (cell,) = running.left
        status = cell_life.settle(cell, "failed", cause, kind)
        words = "done" if status.state == "done" else f"failed ({kind}): {cause}"
        self._judge(running.entry, cell, CellOutcome(status, words))

    def worker_failed_to_start(self, running: RunningGroup) -> None:
        """Handle a worker that died before it started its group; after several of them, abort the sweep."""
        why, cells = "its process died before it began", running.left
        self._queue.first(running.entry, cells)
        hopeless = running.pool.failed_starts >= MOST_FAILED_STARTS
        if hopeless and not self.given_up:
            self._listener.message("worker processes die before they can begin; the sweep is given up")
        if hopeless or self.given_up:
            self.give_up()
        if len(cells) == 1:
            self._listener.put_back(cells[0], why)
        elif cells:
            self._listener.split(cells, why)

    def interrupted(self, running: RunningGroup) -> None:
        """Handle a worker that was killed because the user stopped the sweep."""
        for cell in running.left:
            status = cell_life.settle(cell, "interrupted", "stopped by the user")
            self._final(cell, CellOutcome(status, f"{status.state}: {status.cause or 'its result is whole'}"))

    def _halve(self, entry: Entry, cells: Sequence[Cell], why: str) -> None:
        """Split a group in two, to isolate the cell that broke it; this does not count as an attempt of its cells."""
        found = [(cell, cell_life.settle(cell, "interrupted", why)) for cell in cells]
        for cell, status in found:
            if status.state == "done":
                self._final(cell, CellOutcome(status, "done"))
        left = [cell for cell, status in found if status.state != "done"]
        if left:
            self._queue.halves(entry, left)
            self._listener.split(left, f"{why}; it is halved")
        if self.given_up:
            self.give_up()

    # -- a cell -------------------------------------------------------------------------------------------------------

    @property
    def _stopping(self) -> bool:
        return self._signals.stopping or self.given_up

    def _judge(self, entry: Entry, cell: Cell, outcome: CellOutcome) -> None:
        may_pass = outcome.ran and outcome.status.kind in INFRASTRUCTURE
        if may_pass and entry.tries < self._options.retries and not self._stopping:
            self._again(entry, cell, outcome)
        else:
            self._final(cell, outcome)
            self._give_up_if_others_would_fail(outcome)

    def _final(self, cell: Cell, outcome: CellOutcome) -> None:
        self.summary.outcomes[cell.id] = outcome
        self._listener.ended(cell, outcome)

    def _later(self, entry: Entry, cells: Sequence[Cell], outcomes: Mapping[str, CellOutcome]) -> None:
        for cell in cells:
            words = outcomes[cell.id].words
            if not entry.pause_s and words not in self._waits:  # many cells may wait for one stage
                self._waits.add(words)
                self._listener.put_back(cell, words)
        self._queue.later(entry, cells)

    def _again(self, entry: Entry, cell: Cell, outcome: CellOutcome) -> None:
        """Retry a cell at the end of the queue, with exclusive use of its device."""
        cause = str(outcome.status.cause)
        cell_life.settle(cell, "pending", cause)
        self._queue.again(entry, cell)
        self._listener.put_back(cell, f"{outcome.status.kind}: {cause}; it is tried again, alone on its device")

    # -- the sweep ----------------------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """Start no more groups."""
        self.given_up = True
        self.summary.left.extend(self._queue.clear())

    def stop(self) -> None:
        """Start no more groups because the user stopped the sweep."""
        self.summary.stopped = True
        self.give_up()

    def _give_up_if_others_would_fail(self, outcome: CellOutcome) -> None:
        if outcome.status.state != "failed":
            return
        if outcome.status.kind == "disk":
            why = "the disk is full: no further cell is started; make space and give the command again"
        elif self._options.fail_fast:
            why = "fail_fast: no further cell is started"
        else:
            return
        if self._queue:
            self._listener.message(why)
        self.give_up()  # with an empty queue too: cells that still run are not tried again


def _outcome_since(cell: Cell, moment: float) -> CellOutcome | None:
    """The outcome that another process has written for a cell since ``moment``; None if it is not known yet.

    A lack of memory is not reported here, since only the worker's report says whether this sweep's attempt had it:
    another command may have run the cell.
    """
    status = records.read_status(cell.directory)
    if status is None or status.updated < moment:
        return None
    if status.state == "failed" and status.kind not in INFRASTRUCTURE:
        return CellOutcome(status, cell_life.closing_words(status, None))
    result = records.read_result(cell.directory) if status.state == "done" else None
    if result is None:
        return None
    return CellOutcome(status, cell_life.closing_words(status, result), cell_life.score(result), gpu=result.get("gpu"))
