"""What the engine's tests share: fake cells, a listener that remembers, and what the executions left behind."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capsexp import records
from capsexp.cell import Cell, CellOutcome
from capsexp.engine.base import Group, Summary
from capsexp.engine.local import LocalEngine
from capsexp.engine.options import Layout, Options
from tests.engine import work


def cells_in(folder: Path, count: int, **config: Any) -> list[Cell]:
    """Cells 0, 1, 2, ... with the same config."""
    ids = [f"{number:010x}" for number in range(count)]
    return [Cell(folder / f"cell-{key}", key, {}, dict(config), in_sweep=True) for key in ids]


@dataclass
class Heard:
    """A listener that keeps what it is told.

    Attributes:
        started: cells and where they run, in order.
        ended: what became of the cells, by id; a second word about a cell is refused.
        put_back: cells and why.
        split: ids of the cells of a stack that went back together, and why.
        said: lines.
        most: the most cells that were in workers' hands at once, by slot, and altogether as "all".
        at_tick: called at every tick.
    """

    started_: list[tuple[str, str]] = field(default_factory=list)
    ended_: dict[str, CellOutcome] = field(default_factory=dict)
    put_back_: list[tuple[str, str]] = field(default_factory=list)
    split_: list[tuple[list[str], str]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    most: Counter[str] = field(default_factory=Counter)
    at_tick: Callable[[], None] = lambda: None
    _held: Counter[str] = field(default_factory=Counter)
    _where: dict[str, str] = field(default_factory=dict)

    def started(self, cell: Cell, where: str) -> None:
        assert cell.id not in self._where
        assert cell.id not in self.ended_
        self.started_.append((cell.id, where))
        self._where[cell.id] = where
        for slot in (where, "all"):
            self._held[slot] += 1
            self.most[slot] = max(self.most[slot], self._held[slot])

    def _left(self, cell: Cell) -> None:
        where = self._where.pop(cell.id, None)
        for slot in (where, "all") if where is not None else ():
            self._held[slot] -= 1

    def ended(self, cell: Cell, ended: CellOutcome) -> None:
        assert cell.id not in self.ended_
        self._left(cell)
        self.ended_[cell.id] = ended

    def put_back(self, cell: Cell, why: str) -> None:
        self._left(cell)
        self.put_back_.append((cell.id, why))

    def split(self, cells: Sequence[Cell], why: str) -> None:
        for cell in cells:
            self._left(cell)
        self.split_.append(([cell.id for cell in cells], why))

    def message(self, line: str) -> None:
        self.messages.append(line)

    def tick(self) -> None:
        self.at_tick()


class HeardBusy(Heard):
    """The same, where a busy cell is given to a worker again without a word."""

    def started(self, cell: Cell, where: str) -> None:
        self._left(cell)
        super().started(cell, where)


@dataclass(frozen=True)
class Execution:
    """One try at a cell, as the worker noted it."""

    id: str
    number: int
    pid: int
    cuda: str | None
    omp: str
    at_import: dict[str, Any]
    begin: float
    end: float | None


def executions(folder: Path) -> list[Execution]:
    """All executions of the cells in ``folder``, in the order in which they began."""
    found = []
    for path in (folder / work.EVIDENCE).glob("*.*"):
        if path.suffix != ".end":
            end = path.with_name(f"{path.name}.end")
            until = float(end.read_text()) if end.exists() else None
            found.append(Execution(**json.loads(path.read_text()), number=int(path.suffix[1:]), end=until))
    return sorted(found, key=lambda each: each.begin)


def at_once(found: Sequence[Execution]) -> int:
    """The most of these executions that ran at the same moment."""
    return max((sum(other.begin <= each.begin < (other.end or 0.0) for other in found) for each in found), default=0)


def run_sweep(
    cells: Sequence[Cell],
    layout: Layout,
    heard: Heard,
    options: Options | None = None,
    does: Any = work.run,
    groups: Sequence[Group] | None = None,
) -> Summary:
    """Run the cells and check what holds for every sweep: no cell is lost, none is counted twice.

    Without groups each cell is one.
    """
    engine = LocalEngine(options or Options(), layout, work.FakeWork(run_cell=does))
    summary = engine.run(groups or [(cell,) for cell in cells], heard)
    left = [cell.id for cell in summary.left]
    assert sorted([*summary.outcomes, *left]) == sorted(cell.id for cell in cells)
    assert summary.outcomes == heard.ended_
    return summary


def status_of(cell: Cell) -> records.Status:
    status = records.read_status(cell.directory)
    assert status is not None
    return status


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for a condition; gives how long it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "it did not come true"
        time.sleep(0.02)
    return time.monotonic() - begun
