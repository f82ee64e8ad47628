"""The interfaces of an engine: listener, engine, a worker's task, worker pools and backends."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from capsexp import records
from capsexp.cell import Cell, CellOutcome
from capsexp.engine.devices import Slot

Group = tuple[Cell, ...]
"""The cells of one task of a worker, at least one: a single cell, or several that are trained as one stack."""


class Listener(Protocol):
    """Receives the events of the cells while an engine runs them."""

    def started(self, cell: Cell, where: str) -> None:
        """A cell was assigned to a worker; ``where`` names the device (:attr:`~capsexp.engine.devices.Slot.where`)."""

    def ended(self, cell: Cell, outcome: CellOutcome) -> None:
        """A cell has its final outcome in this sweep."""

    def put_back(self, cell: Cell, why: str) -> None:
        """A cell goes back into the queue."""

    def split(self, cells: Sequence[Cell], why: str) -> None:
        """The cells of a stack go back into the queue, in smaller groups if the stack broke."""

    def message(self, line: str) -> None:
        """A message that concerns the whole sweep."""

    def tick(self) -> None:
        """Called several times per second."""


@dataclass
class Summary:
    """The outcome of a sweep.

    Attributes:
        outcomes: the outcomes of the cells that ended, by id.
        left: cells that were not started or did not end.
        stopped: whether the user stopped the sweep.
    """

    outcomes: dict[str, CellOutcome] = field(default_factory=dict)
    left: list[Cell] = field(default_factory=list)
    stopped: bool = False


class Engine(Protocol):
    """Runs cells, each at most once at a time, and returns their outcomes.

    There are two engines with the same constructor: ``LocalEngine(options, layout, work)`` in ``local`` and
    ``RayEngine(options, layout, work)`` in ``ray``.  One object runs one sweep.  The constructor of ``RayEngine``
    connects to the cluster and checks its resources.

    Raises:
        ConfigError: by the constructor or by ``run``, before any cell starts: a setting of the launcher does not fit
            the available resources.
    """

    @property
    def at_once(self) -> int:
        """Number of groups that run at the same time, as known before the first one starts; at least one."""

    def run(self, groups: Sequence[Group], listener: Listener) -> Summary:
        """Run the groups in order; a failure of one cell does not affect the others."""


@dataclass(frozen=True)
class Report:
    """The message that a worker returns after a group.

    Attributes:
        outcomes: the outcomes of the group's cells by id; a missing cell did not end and must run again.
        warnings: log lines for the user.
        learned: environment variables for the workers that start later, such as that a server does not answer.
    """

    outcomes: dict[str, CellOutcome]
    warnings: tuple[str, ...]
    learned: dict[str, str] = field(default_factory=dict)


class Work(Protocol):
    """The task of a worker for a group of cells; it is pickled and sent to the worker."""

    def prepare(self) -> None:
        """Import slow modules, once per worker and before its first group, so that no time limit includes it."""

    def __call__(self, group: Group) -> Report:
        """Run a group, and restore the state of the process afterwards."""


class WorkerDied(Exception):  # noqa: N818 - an event that the scheduler handles
    """A worker died while it ran a group.

    Attributes:
        kind: the kind of failure, as in ``Status.kind``.
        cause: the cause as one line of text.
    """

    def __init__(self, kind: records.Kind, cause: str) -> None:
        super().__init__(cause)
        self.kind, self.cause = kind, cause


class WorkerPool(Protocol):
    """Workers of one device; each runs one group at a time.

    Attributes:
        size: number of workers.
        busy: number of workers that have a group; the scheduler updates it.
        failed_starts: number of consecutive workers that died before they had a cell.  The pool increments it, and the
            scheduler resets it to 0 when a group starts.
    """

    size: int
    busy: int
    failed_starts: int

    def submit(self, group: Group, timeout: float | None) -> "Future[Report]":
        """Run a group in a worker; return immediately.

        The future ends with a report, or with an error for :meth:`Backend.cause_of`.  ``BrokenProcessPool`` (of
        ``concurrent.futures.process``) means that the worker died before it started the group, which costs the group no
        attempt.

        Args:
            group: one cell, or several that are trained as one stack.
            timeout: seconds after which the worker is killed, counted from the start of the group; or None.
        """

    def poll(self) -> None:
        """Find and replace dead workers; called several times per second."""

    def close(self) -> None:
        """Stop replacing workers."""

    def stop(self) -> None:
        """Stop the workers, and wait until their processes have ended."""


class Backend(Protocol):
    """The source of workers: processes of this machine, or actors of a cluster.

    The scheduler requests a pool when it first uses a device, and never more workers than the device has room for.
    """

    def pool(self, slot: Slot, size: int) -> WorkerPool:
        """A pool of new workers.

        Args:
            slot: one of the scheduler's devices; the workers stay bound to it.
            size: number of workers, at least one.
        """

    def ask_to_stop(self) -> None:
        """Request that running cells save and stop (see ``stop_request.requested``)."""

    def end(self) -> None:
        """Kill all workers, and wait until their processes have ended, so that their cells' locks are free."""

    def close(self) -> None:
        """Release all resources of the backend, its workers included."""

    def cause_of(self, error: BaseException, timeout: float | None) -> tuple[records.Kind, str]:
        """The cause why a group ended without a report.

        Args:
            error: the error of its future, or :class:`WorkerDied`.
            timeout: the time limit of a cell in seconds (``hydra.launcher.cell_timeout``), or None.

        Returns:
            The kind (``signal`` if the worker died, ``timeout`` if it exceeded the limit), and the cause as one line.
        """

    def is_lost(self, cell: Cell, since: float) -> bool:
        """True if the process that wrote a cell's status since the cell was assigned has ended.

        Args:
            cell: a cell that is assigned to a worker.
            since: time of the assignment, in seconds since 1970.
        """
