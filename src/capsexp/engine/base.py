"""The interface between cells and whatever runs them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from capsexp.cell import Cell, Ended


class Watcher(Protocol):
    """What an engine tells of its cells while it works."""

    def started(self, cell: Cell, where: str) -> None:
        """A cell was given to a worker; ``where`` names the GPU, or is empty."""

    def ended(self, cell: Cell, ended: Ended) -> None:
        """A cell has come to its end in this sweep."""

    def put_back(self, cell: Cell, why: str) -> None:
        """A cell goes back into the queue."""

    def said(self, line: str) -> None:
        """Something that concerns the whole sweep."""

    def tick(self) -> None:
        """A moment has passed."""


@dataclass
class Tally:
    """How a sweep ended.

    Attributes:
        ended: what became of the cells that came to an end, by id.
        left: cells that were not started, or did not get to an end.
        stopped: the user stopped it.
    """

    ended: dict[str, Ended] = field(default_factory=dict)
    left: list[Cell] = field(default_factory=list)
    stopped: bool = False


class Engine(Protocol):
    """Runs cells, each at most once at a time, and gives back what became of them."""

    def run(self, cells: Sequence[Cell], watcher: Watcher) -> Tally:
        """Run the cells in order, as far as it goes; whatever happens to one costs only that one."""
