"""The waiting and the running groups of a sweep."""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from capsexp.cell import Cell
from capsexp.engine.base import Group, WorkerPool
from capsexp.engine.devices import Slot

BUSY_S = (0.25, 2.0)
"""First and longest pause before a busy cell is retried (seconds)."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A group in the queue.

    Attributes:
        group: its cells.
        tries: number of earlier attempts.
        alone: whether it needs exclusive use of its device.
        not_before: earliest start (monotonic seconds).
        pause_s: the last pause after its cells were busy (seconds).
    """

    group: Group
    tries: int = 0
    alone: bool = False
    not_before: float = 0.0
    pause_s: float = 0.0


@dataclass(frozen=True, eq=False)
class RunningGroup:
    """A group that is assigned to a worker.

    Attributes:
        entry: its entry of the queue.
        slot: its device.
        pool: the pool of its worker.
        since: time of the assignment, in seconds since 1970.
        known: ids of its cells whose outcome is known.
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
    """The waiting groups, in order.

    Args:
        groups: the groups of the sweep.
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
        """Remove an entry that starts."""
        self._waiting.remove(entry)

    def first(self, entry: Entry, cells: Sequence[Cell]) -> None:
        """Put some cells of an entry at the front of the queue."""
        if cells:
            self._waiting.appendleft(replace(entry, group=tuple(cells)))

    def again(self, entry: Entry, cell: Cell) -> None:
        """Put one cell of an entry at the end, to run again with exclusive use of its device."""
        self._waiting.append(replace(entry, group=(cell,), tries=entry.tries + 1, alone=True))

    def later(self, entry: Entry, cells: Sequence[Cell]) -> None:
        """Put the busy cells of an entry at the end, after a pause."""
        pause_s = min(max(BUSY_S[0], 2 * entry.pause_s), BUSY_S[1])
        until = time.monotonic() + pause_s
        self._waiting.append(replace(entry, group=tuple(cells), not_before=until, pause_s=pause_s))

    def halves(self, entry: Entry, cells: Sequence[Cell]) -> None:
        """Put some cells of an entry at the end, in two groups."""
        middle = (len(cells) + 1) // 2
        parts = [tuple(part) for part in (cells[:middle], cells[middle:]) if part]
        self._waiting.extend(replace(entry, group=part) for part in parts)

    def clear(self) -> list[Cell]:
        """Empty the queue; returns its cells."""
        left = [cell for entry in self._waiting for cell in entry.group]
        self._waiting.clear()
        return left
