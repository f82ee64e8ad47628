"""Workers that are none: a staff that answers at once, in this process, as the test says."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from capsexp import records
from capsexp.cell import Cell, Ended
from capsexp.engine import crew
from capsexp.engine.base import Lot, Report, Tally
from capsexp.engine.loop import Loop
from capsexp.engine.options import Options
from capsexp.engine.places import Place, Places
from tests.engine.sweeps import Heard

Answer = Report | Exception | None


class Staff:
    """Hires workers that answer each lot with what ``does`` gives for it; None = never, unless the test does.

    Attributes:
        given: ids of the cells of each lot that was given out, in order, with its time limit.
        futures: what was handed to the loop for each.
        events: what else was asked of it.
        lost: ids of cells whose process is gone.
        at_end: called when all workers are to be ended.
    """

    def __init__(self, does: Callable[[Lot], Answer]) -> None:
        self.does = does
        self.given: list[tuple[list[str], float | None]] = []
        self.futures: list[Future[Report]] = []
        self.events: list[str] = []
        self.lost: set[str] = set()
        self.at_end: Callable[[], None] = lambda: None
        self.crews: list[Crew] = []

    def crew(self, place: Place, size: int) -> Any:
        self.crews.append(Crew(self, size))
        return self.crews[-1]

    def ask_to_stop(self) -> None:
        self.events.append("stop")

    def end(self) -> None:
        self.events.append("end")
        self.at_end()

    def close(self) -> None:
        self.events.append("close")

    def cause_of(self, error: BaseException, timeout: float | None) -> tuple[records.Kind, str]:
        return crew.cause_of(error, timeout)

    def is_lost(self, cell: Cell, since: float) -> bool:
        return cell.id in self.lost


class Crew:
    def __init__(self, staff: Staff, size: int) -> None:
        self.staff, self.size, self.busy, self.stillborn = staff, size, 0, 0

    def submit(self, lot: Lot, timeout: float | None) -> Future[Report]:
        future: Future[Report] = Future()
        self.staff.given.append(([cell.id for cell in lot], timeout))
        self.staff.futures.append(future)
        answer = self.staff.does(lot)
        if isinstance(answer, Report):
            future.set_result(answer)
        elif answer is not None:
            future.set_exception(answer)
        return future

    def mend(self) -> None:
        """Nothing breaks."""

    def close(self) -> None:
        """Nothing is there."""

    def stop(self) -> None:
        """Nothing is there."""


def done(cell: Cell) -> Ended:
    return Ended(records.Status("done", cell.id), "done")


def failed(cell: Cell, kind: records.Kind = "exception") -> Ended:
    return Ended(records.Status("failed", cell.id, cause="why", kind=kind), f"failed ({kind}): why")


def busy(cell: Cell, words: str = "waits for a stage") -> Ended:
    return Ended(records.Status("pending", cell.id), words, busy=True)


def report(lot: Sequence[Cell], how: Callable[[Cell], Ended] = done, **others: Ended) -> Report:
    return Report({cell.id: how(cell) for cell in lot} | others, ())


def run_lots(
    lots: Sequence[Lot], staff: Staff, heard: Heard, options: Options | None = None, at_once: int = 1
) -> Tally:
    """Run lots and check what holds for every sweep."""
    for cell in [cell for lot in lots for cell in lot]:
        cell.directory.mkdir(parents=True, exist_ok=True)
    tally = Loop(options or Options(), Places([None], at_once, at_once), staff).run(lots, heard)
    ids = sorted(cell.id for lot in lots for cell in lot)
    assert sorted([*tally.ended, *(cell.id for cell in tally.left)]) == ids
    assert tally.ended == heard.ended_
    assert staff.events[-1] == "close"
    assert [crew.busy for crew in staff.crews] == [0] * len(staff.crews) or "end" in staff.events
    return tally
