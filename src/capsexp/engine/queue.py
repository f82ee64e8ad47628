"""The groups that wait for a worker, and those that workers have."""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from capsexp.cell import Cell
from capsexp.engine.base import Group, WorkerPool
from capsexp.engine.devices import Slot

BUSY_S = (0.25, 2.0)
"""Seconds before a busy cell is looked at again: at first, and at most."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A group in the queue.

    Attributes:
        group: its cells.
        tries: how often they have been tried before.
        alone: whether it is to have its device to itself.
        not_before: when it may start (monotonic seconds).
        pause_s: the last pause after its cells were busy (seconds).
    """

    group: Group
    tries: int = 0
    alone: bool = False
    not_before: float = 0.0
    pause_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Running:
    """A group that a worker has.

    Attributes:
        entry: of the queue.
        slot: the device.
        pool: of the worker.
        since: seconds since 1970 when it was given out.
        known: ids of its cells whose outcome is known already.
    """

    entry: Entry
    slot: Slot
    pool: WorkerPool
    since: float
    known: set[str] = field(default_factory=set)

    @property
    def left(self) -> list[Cell]:
        """Its cells whose outcome is not known."""
        return [cell for cell in self.entry.group if cell.id not in self.known]


class Queue:
    """The groups that wait, in order.

    Args:
        groups: those of the sweep.
    """

    def __init__(self, groups: Iterable[Group] = ()) -> None:
        self._waiting = deque(Entry(group) for group in groups)

    def __len__(self) -> int:
        return len(self._waiting)

    def ready(self) -> list[Entry]:
        """The entries that may start now."""
        now = time.monotonic()
        return [entry for entry in self._waiting if entry.not_before <= now]

    def take(self, entry: Entry) -> None:
        """Take out an entry that starts."""
        self._waiting.remove(entry)

    def first(self, entry: Entry, cells: Sequence[Cell]) -> None:
        """Put some of an entry's cells before all others."""
        if cells:
            self._waiting.appendleft(replace(entry, group=tuple(cells)))

    def again(self, entry: Entry, cell: Cell) -> None:
        """Put one of an entry's cells at the end, to run once more with its device to itself."""
        self._waiting.append(replace(entry, group=(cell,), tries=entry.tries + 1, alone=True))

    def later(self, entry: Entry, cells: Sequence[Cell]) -> None:
        """Put the busy cells of an entry at the end, after a pause."""
        pause_s = min(max(BUSY_S[0], 2 * entry.pause_s), BUSY_S[1])
        until = time.monotonic() + pause_s
        self._waiting.append(replace(entry, group=tuple(cells), not_before=until, pause_s=pause_s))

    def halves(self, entry: Entry, cells: Sequence[Cell]) -> None:
        """Put some of an entry's cells at the end, in two groups."""
        middle = (len(cells) + 1) // 2
        parts = [tuple(part) for part in (cells[:middle], cells[middle:]) if part]
        self._waiting.extend(replace(entry, group=part) for part in parts)

    def clear(self) -> list[Cell]:
        """Empty the queue; returns the cells that waited."""
        left = [cell for entry in self._waiting for cell in entry.group]
        self._waiting.clear()
        return left
