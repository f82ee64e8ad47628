"""The interfaces between cells and whatever runs them: a watcher, an engine, and the workers that a loop hires."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from capsexp import records
from capsexp.cell import Cell, Ended
from capsexp.engine.places import Place

Lot = tuple[Cell, ...]
"""Cells that one worker gets at once, one at least: a cell on its own, or several that are trained as one stack."""


class Watcher(Protocol):
    """What an engine tells of its cells while it works."""

    def started(self, cell: Cell, where: str) -> None:
        """A cell was given to a worker; ``where`` names the place (:attr:`~capsexp.engine.places.Place.where`)."""

    def ended(self, cell: Cell, ended: Ended) -> None:
        """A cell has come to its end in this sweep."""

    def put_back(self, cell: Cell, why: str) -> None:
        """A cell goes back into the queue."""

    def split(self, cells: Sequence[Cell], why: str) -> None:
        """The cells of a stack go back into the queue, in smaller ones if it broke."""

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
    """Runs cells, each at most once at a time, and gives back what became of them.

    Two are there, made alike and each for one sweep:
    ``LocalEngine(options, layout, work=cell.run, together=worker.stack, settings=Settings())`` in ``local`` and
    ``RayEngine(options, layout, work=cell.run, together=worker.stack, settings=Settings())`` in ``ray``, where
    ``options`` and ``layout`` are those of ``options``, ``work`` is done with a cell on its own (``worker.run``),
    ``together`` with a lot of several (``worker.run_lot``), and ``settings`` (``stacking.settings``) says how it is
    trained.  The constructor of an engine beyond this machine looks for what it needs there.

    Raises:
        ConfigError: by the constructor or by ``run``, before any cell starts: a setting of the launcher does not fit
            what is there.
    """

    @property
    def at_once(self) -> int:
        """How many lots run together, as far as is known before the first one starts; one at least."""

    def run(self, lots: Sequence[Lot], watcher: Watcher) -> Tally:
        """Run the lots in order, as far as it goes; whatever happens to one cell costs only that one."""


@dataclass(frozen=True)
class Report:
    """What a worker sends back when it is done with a lot.

    Attributes:
        ended: how its cells ended, by id; one that is not named came to no end, and is to be run again.
        warnings: what was logged meanwhile and is worth telling the user.
    """

    ended: dict[str, Ended]
    warnings: tuple[str, ...]


class Vanished(Exception):  # noqa: N818 - no error of ours
    """A worker's process has ended without a word (:meth:`Staff.is_lost`)."""


class Crew(Protocol):
    """Some workers of one device, each with one lot at a time.

    Attributes:
        size: how many.
        busy: how many of them have a lot; the loop counts it.
        stillborn: how often, one after the other, workers died while none had a cell.  The crew counts it up, and the
            loop sets it to 0 when it sees a lot begin.
    """

    size: int
    busy: int
    stillborn: int

    def submit(self, lot: Lot, timeout: float | None) -> "Future[Report]":
        """Let a worker do a lot, and return at once.

        The future ends with a report, or with an error that :meth:`Staff.cause_of` understands: ``BrokenProcessPool``
        (of ``concurrent.futures.process``) says that the worker died before it began, which costs the lot nothing.

        Args:
            lot: one cell, or several that are trained as one stack.
            timeout: seconds after which the worker is ended, counted from when it begins with the lot; or None.
        """

    def mend(self) -> None:
        """Find workers that died while nobody was told, and replace them; called several times a second."""

    def close(self) -> None:
        """Replace no worker any more."""

    def stop(self) -> None:
        """End the workers, and wait until they are gone."""


class Staff(Protocol):
    """Whoever has workers to hire: processes of this machine, or actors of a cluster.

    The loop asks for crews as places come to be used, never for more workers on a place than fit there.
    """

    def crew(self, place: Place, size: int) -> Crew:
        """New workers.

        Args:
            place: where, one of the loop's places; its device is bound to them for life.
            size: how many, one at least.
        """

    def ask_to_stop(self) -> None:
        """Let running cells save and stop, as soon as they see the wish (``interruption.requested``)."""

    def end(self) -> None:
        """End all workers at once, and wait until they are gone, so that their cells' locks are free."""

    def close(self) -> None:
        """The sweep is over: no worker stays, and nothing else that the staff has made."""

    def cause_of(self, error: BaseException, timeout: float | None) -> tuple[records.Kind, str]:
        """What ended a lot that could not say so itself.

        Args:
            error: what its future raised, or :class:`Vanished`.
            timeout: the seconds that a cell has (``hydra.launcher.cell_timeout``), or None.

        Returns:
            The kind (``signal`` where the worker died, ``timeout`` where it was ended for that), and a line for people.
        """

    def is_lost(self, cell: Cell, since: float) -> bool:
        """Whether the process that last wrote of a cell, since it was given out, is gone.

        Args:
            cell: one that a worker should be doing.
            since: seconds since 1970 when it was given out.
        """
