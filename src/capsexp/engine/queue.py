"""What waits for a worker, and what is in a worker's hands."""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from capsexp.cell import Cell
from capsexp.engine.base import Crew, Lot
from capsexp.engine.places import Place

BUSY_S = (0.25, 2.0)
"""Seconds before a busy cell is looked at again: at first, and at most."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A lot in the queue.

    Attributes:
        lot: its cells.
        tries: how often they have been tried before.
        alone: it is to have its device to itself.
        not_before: when it may start (monotonic seconds).
        pause_s: how long it was last left alone because its cells were busy.
    """

    lot: Lot
    tries: int = 0
    alone: bool = False
    not_before: float = 0.0
    pause_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Running:
    """A lot in a worker's hands.

    Attributes:
        entry: what it is.
        place: where it runs.
        crew: who runs it.
        since: seconds since 1970 when it was given out.
        known: ids of those of its cells whose end is known already.
    """

    entry: Entry
    place: Place
    crew: Crew
    since: float
    known: set[str] = field(default_factory=set)

    @property
    def left(self) -> list[Cell]:
        """Its cells whose end is not known."""
        return [cell for cell in self.entry.lot if cell.id not in self.known]


class Queue:
    """The lots that wait, in order.

    Args:
        lots: those of the sweep.
    """

    def __init__(self, lots: Iterable[Lot] = ()) -> None:
        self._waiting = deque(Entry(lot) for lot in lots)

    def __len__(self) -> int:
        return len(self._waiting)

    def ready(self) -> list[Entry]:
        """Those that may start now."""
        now = time.monotonic()
        return [entry for entry in self._waiting if entry.not_before <= now]

    def take(self, entry: Entry) -> None:
        """An entry is started."""
        self._waiting.remove(entry)

    def first(self, entry: Entry, cells: Sequence[Cell]) -> None:
        """Put some of its cells before all others."""
        if cells:
            self._waiting.appendleft(replace(entry, lot=tuple(cells)))

    def again(self, entry: Entry, cell: Cell) -> None:
        """One of its cells once more, at the end, with its device to itself."""
        self._waiting.append(replace(entry, lot=(cell,), tries=entry.tries + 1, alone=True))

    def later(self, entry: Entry, cells: Sequence[Cell]) -> None:
        """Those of its cells that are busy once more, after a pause."""
        pause_s = min(max(BUSY_S[0], 2 * entry.pause_s), BUSY_S[1])
        until = time.monotonic() + pause_s
        self._waiting.append(replace(entry, lot=tuple(cells), not_before=until, pause_s=pause_s))

    def halves(self, entry: Entry, cells: Sequence[Cell]) -> None:
        """Some of its cells once more, at the end, in two lots."""
        middle = (len(cells) + 1) // 2
        parts = [tuple(part) for part in (cells[:middle], cells[middle:]) if part]
        self._waiting.extend(replace(entry, lot=part) for part in parts)

    def clear(self) -> list[Cell]:
        """Give up; gives the cells that waited."""
        left = [cell for entry in self._waiting for cell in entry.lot]
        self._waiting.clear()
        return left
