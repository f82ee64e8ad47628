"""Cells that are run together in this process."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from capsexp.stacking.hub import Hub
from capsexp.stacking.seat import pause
from capsexp.stacking.settings import Settings


class Outcome(Protocol):
    """How a try at a cell ended."""

    @property
    def busy(self) -> bool:
        """It waits for what another cell or another process computes."""


C = TypeVar("C")
E = TypeVar("E", bound=Outcome)


def run(cells: Sequence[C], ended: Callable[[C, E], None], settings: Settings, work: Callable[[C], E]) -> None:
    """Run cells together, each as if it were alone but for the epochs that a stack trains.

    One whose fits cannot be stacked is run alone, between the others' epochs.  One that waits for a stage which another
    computes is tried again once the others have gone on.

    Args:
        cells: whose fits may be stacked.
        ended: is told of each cell as it comes to its end, or when nothing here will end its waiting.
        settings: how stacks are trained.
        work: what is done with a cell; it raises nothing.
    """

    def life(cell: C) -> None:
        how = work(cell)
        while how.busy and pause():
            how = work(cell)
        ended(cell, how)

    Hub(settings).run([partial(life, cell) for cell in cells])
