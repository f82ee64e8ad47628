"""Workers that are none: a backend that answers at once, in this process, as the test says."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from capsexp import records
from capsexp.cell import Cell, CellOutcome
from capsexp.engine import local
from capsexp.engine.base import Group, Report, Summary
from capsexp.engine.devices import Devices, Slot
from capsexp.engine.options import Options
from capsexp.engine.scheduler import Scheduler
from tests.engine.sweeps import Heard

Answer = Report | Exception | None


class Backend:
    """Hires workers that answer each group with what ``does`` gives for it; None = never, unless the test does.

    Attributes:
        given: ids of the cells of each group that was given out, in order, with its time limit.
        futures: what was handed to the loop for each.
        events: what else was asked of it.
        lost: ids of cells whose process is gone.
        at_end: called when all workers are to be ended.
    """

    def __init__(self, does: Callable[[Group], Answer]) -> None:
        self.does = does
        self.given: list[tuple[list[str], float | None]] = []
        self.futures: list[Future[Report]] = []
        self.events: list[str] = []
        self.lost: set[str] = set()
        self.at_end: Callable[[], None] = lambda: None
        self.pools: list[WorkerPool] = []

    def pool(self, slot: Slot, size: int) -> Any:
        self.pools.append(WorkerPool(self, size))
        return self.pools[-1]

    def ask_to_stop(self) -> None:
        self.events.append("stop")

    def end(self) -> None:
        self.events.append("end")
        self.at_end()

    def close(self) -> None:
        self.events.append("close")

    def cause_of(self, error: BaseException, timeout: float | None) -> tuple[records.Kind, str]:
        return local.cause_of(error, timeout)

    def is_lost(self, cell: Cell, since: float) -> bool:
        return cell.id in self.lost


class WorkerPool:
    def __init__(self, backend: Backend, size: int) -> None:
        self.backend, self.size, self.busy, self.failed_starts = backend, size, 0, 0

    def submit(self, group: Group, timeout: float | None) -> Future[Report]:
        future: Future[Report] = Future()
        self.backend.given.append(([cell.id for cell in group], timeout))
        self.backend.futures.append(future)
        answer = self.backend.does(group)
        if isinstance(answer, Report):
            future.set_result(answer)
        elif answer is not None:
            future.set_exception(answer)
        return future

    def poll(self) -> None:
        """Nothing breaks."""

    def close(self) -> None:
        """Nothing is there."""

    def stop(self) -> None:
        """Nothing is there."""


def done(cell: Cell) -> CellOutcome:
    return CellOutcome(records.Status("done", cell.id), "done")


def failed(cell: Cell, kind: records.Kind = "exception") -> CellOutcome:
    return CellOutcome(records.Status("failed", cell.id, cause="why", kind=kind), f"failed ({kind}): why")


def busy(cell: Cell, words: str = "waits for a stage") -> CellOutcome:
    return CellOutcome(records.Status("pending", cell.id), words, busy=True)


def report(group: Sequence[Cell], how: Callable[[Cell], CellOutcome] = done, **others: CellOutcome) -> Report:
    return Report({cell.id: how(cell) for cell in group} | others, ())


def run_groups(
    groups: Sequence[Group], backend: Backend, heard: Heard, options: Options | None = None, at_once: int = 1
) -> Summary:
    """Run groups and check what holds for every sweep."""
    for cell in [cell for group in groups for cell in group]:
        cell.directory.mkdir(parents=True, exist_ok=True)
    summary = Scheduler(options or Options(), Devices([None], at_once, at_once), backend).run(groups, heard)
    ids = sorted(cell.id for group in groups for cell in group)
    assert sorted([*summary.outcomes, *(cell.id for cell in summary.left)]) == ids
    assert summary.outcomes == heard.ended_
    assert backend.events[-1] == "close"
    assert [pool.busy for pool in backend.pools] == [0] * len(backend.pools) or "end" in backend.events
    return summary
