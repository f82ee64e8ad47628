"""The interfaces between cells and whatever runs them: a listener, an engine, a worker's task, and pools of workers."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from capsexp import records
from capsexp.cell import Cell, CellOutcome
from capsexp.engine.devices import Slot

Group = tuple[Cell, ...]
"""Cells that one worker gets at once, at least one: a cell on its own, or several that are trained as one stack."""


class Listener(Protocol):
    """Receives what happens to the cells while an engine runs them."""

    def started(self, cell: Cell, where: str) -> None:
        """A cell was given to a worker; ``where`` names the device (:attr:`~capsexp.engine.devices.Slot.where`)."""

    def ended(self, cell: Cell, outcome: CellOutcome) -> None:
        """A cell has come to its end in this sweep."""

    def put_back(self, cell: Cell, why: str) -> None:
        """A cell goes back into the queue."""

    def split(self, cells: Sequence[Cell], why: str) -> None:
        """The cells of a stack go back into the queue, in smaller groups if the stack broke."""

    def said(self, line: str) -> None:
        """A message that concerns the whole sweep."""

    def tick(self) -> None:
        """Called several times a second."""


@dataclass
class Summary:
    """How a sweep ended.

    Attributes:
        outcomes: of the cells that came to an end, by id.
        left: cells that were not started, or did not come to an end.
        stopped: whether the user stopped the sweep.
    """

    outcomes: dict[str, CellOutcome] = field(default_factory=dict)
    left: list[Cell] = field(default_factory=list)
    stopped: bool = False


class Engine(Protocol):
    """Runs cells, each at most once at a time, and returns how each ended.

    There are two, made alike and each for one sweep: ``LocalEngine(options, layout, work)`` in ``local`` and
    ``RayEngine(options, layout, work)`` in ``ray``.  The constructor of an engine beyond this machine looks for what it
    needs there.

    Raises:
        ConfigError: by the constructor or by ``run``, before any cell starts: a setting of the launcher does not fit
            what is there.
    """

    @property
    def at_once(self) -> int:
        """How many groups run at the same time, as far as is known before the first one starts; at least one."""

    def run(self, groups: Sequence[Group], listener: Listener) -> Summary:
        """Run the groups in order; whatever happens to one cell costs only that one."""


@dataclass(frozen=True)
class Report:
    """What a worker sends back when it is done with a group.

    Attributes:
        outcomes: of its cells, by id; a cell that is not named came to no end, and is to be run again.
        warnings: log lines that the user should see.
    """

    outcomes: dict[str, CellOutcome]
    warnings: tuple[str, ...]


class Work(Protocol):
    """What a worker does with a group of cells; it is pickled and sent to the worker."""

    def prepare(self) -> None:
        """Import what is slow, once per worker and before its first group, so that no time limit pays for it."""

    def __call__(self, group: Group) -> Report:
        """Do a group, and leave the process as it was."""


class WorkerDied(Exception):  # noqa: N818 - an event that the scheduler handles
    """A worker died in the middle of its group, and could not say so itself.

    Attributes:
        kind: of the cause, as statuses name it.
        cause: the same for people.
    """

    def __init__(self, kind: records.Kind, cause: str) -> None:
        super().__init__(cause)
        self.kind, self.cause = kind, cause


class WorkerPool(Protocol):
    """Some workers of one device, each with one group at a time.

    Attributes:
        size: how many workers.
        busy: how many of them have a group; the scheduler counts it.
        failed_starts: how many workers in a row died while none had a cell.  The pool counts it up, and the scheduler
            sets it to 0 when it sees a group begin.
    """

    size: int
    busy: int
    failed_starts: int

    def submit(self, group: Group, timeout: float | None) -> "Future[Report]":
        """Let a worker do a group, and return at once.

        The future ends with a report, or with an error that :meth:`Backend.cause_of` understands: ``BrokenProcessPool``
        (of ``concurrent.futures.process``) says that the worker died before it began, which costs the group nothing.

        Args:
            group: one cell, or several that are trained as one stack.
            timeout: seconds after which the worker is ended, counted from when it begins with the group; or None.
        """

    def poll(self) -> None:
        """Find workers that died unnoticed, and replace them; called several times a second."""

    def close(self) -> None:
        """Stop replacing workers."""

    def stop(self) -> None:
        """End the workers, and wait until they are gone."""


class Backend(Protocol):
    """Where workers come from: processes of this machine, or actors of a cluster.

    The scheduler asks for pools as devices come into use, never for more workers on a device than fit there.
    """

    def pool(self, slot: Slot, size: int) -> WorkerPool:
        """New workers.

        Args:
            slot: one of the scheduler's devices; the workers are bound to it for life.
            size: how many, at least one.
        """

    def ask_to_stop(self) -> None:
        """Let running cells save and stop, as soon as they see the request (``stop_request.requested``)."""

    def end(self) -> None:
        """End all workers at once, and wait until they are gone, so that their cells' locks are free."""

    def close(self) -> None:
        """Release all that the backend holds: workers and whatever else it made."""

    def cause_of(self, error: BaseException, timeout: float | None) -> tuple[records.Kind, str]:
        """Why a group ended without a report.

        Args:
            error: what its future raised, or :class:`WorkerDied`.
            timeout: the seconds that a cell has (``hydra.launcher.cell_timeout``), or None.

        Returns:
            The kind (``signal`` where the worker died, ``timeout`` where it was ended for that), and a line for people.
        """

    def is_lost(self, cell: Cell, since: float) -> bool:
        """True if the process that last wrote a cell's status, since the cell was given out, is gone.

        Args:
            cell: one that a worker should be doing.
            since: seconds since 1970 when it was given out.
        """
