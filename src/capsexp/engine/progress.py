"""The progress display of a running sweep: a live table on a terminal, plain lines in a log."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from capsexp import fit_progress, records
from capsexp.cell import Cell, CellOutcome

BAR = 60
"""Characters of the bar."""

SHOWN_RUNNING = 12
"""Running cells that the live table lists."""


@dataclass(frozen=True)
class StartedCell:
    """A cell that a worker has started.

    Attributes:
        cell: the cell.
        where: its device, for display.
        begun: monotonic time of its start in seconds.
    """

    cell: Cell
    where: str
    begun: float

    def line(self) -> str:
        """The cell's line of the live table, with the epoch of its fit if that is known."""
        gone = _clock(time.monotonic() - self.begun)
        fit = fit_progress.of_running(self.cell.directory)
        parts = [self.cell.name, self.where, gone, fit.line() if fit else ""]
        return "  ".join(["", *(part for part in parts if part)])


class Progress:
    """Counts cells and prints one line for each cell that ends.

    Args:
        total: cells of the plan.
        done: cells that need no more work.
        at_once: concurrent cells, for the estimate of the remaining time.
        stream: the output stream; None for stdout.
    """

    def __init__(self, total: int, done: int, at_once: int = 1, stream: TextIO | None = None) -> None:
        self.total, self.done, self.failed = total, done, 0
        self.running: dict[str, StartedCell] = {}
        self.last = ""
        self.at_once = at_once
        self._seconds, self._counted = 0.0, 0
        self._begun = time.monotonic()
        self._messages: set[str] = set()
        self._stream = stream or sys.stdout

    # -- events from the engine ---------------------------------------------------------------------------------------

    def started(self, cell: Cell, where: str) -> None:
        """Add a cell that a worker has started."""
        self.running[cell.id] = StartedCell(cell, where, time.monotonic())

    def ended(self, cell: Cell, ended: CellOutcome) -> None:
        """Count a cell that has ended, and print its outcome."""
        self.running.pop(cell.id, None)
        if ended.status.state == "done":
            self.done += 1
            if ended.ran:
                took = ended.status.updated - ended.status.started  # without the start of its worker
                self._seconds, self._counted = self._seconds + took, self._counted + 1
        else:
            self.failed += ended.status.state == "failed"
        log = f" (see {cell.directory / records.LOG})" if ended.status.state == "failed" else ""
        self.last = f"{cell.name}  {ended.words}"
        self.line(f"{self._place()}  {self.last}{log}")

    def put_back(self, cell: Cell, why: str) -> None:
        """Print that a cell goes back into the queue."""
        self.running.pop(cell.id, None)
        self.line(f"{self._place()}  {cell.name}  put back: {why}")

    def split(self, cells: Sequence[Cell], why: str) -> None:
        """Print that the cells of a stack go back into the queue."""
        for cell in cells:
            self.running.pop(cell.id, None)
        more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        self.line(f"{self._place()}  {cells[0].name}{more}  put back: {why}")

    def message(self, line: str) -> None:
        """Print a message about the whole sweep, or a warning from a cell; each is shown once."""
        if line not in self._messages:
            self._messages.add(line)
            self.line(line)

    def tick(self) -> None:
        """Redraw the display; plain lines need none."""

    # -- the display --------------------------------------------------------------------------------------------------

    @property
    def left(self) -> int:
        """Number of cells that have neither ended nor started."""
        return max(0, self.total - self.done - self.failed - len(self.running))

    def eta_s(self) -> float | None:
        """Estimated seconds until the end, from the cells that this command has finished; None if there are none."""
        if not self._counted:
            return None
        each = self._seconds / self._counted
        return each * (self.left + 0.5 * len(self.running)) / max(1, self.at_once)

    def line(self, text: str) -> None:
        """Print one line."""
        with contextlib.suppress(OSError, ValueError):  # a closed pipe must not stop the sweep
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def _place(self) -> str:
        width = len(str(self.total))
        return f"[{self.done + self.failed:>{width}}/{self.total}]"

    @contextlib.contextmanager
    def shown(self) -> Iterator["Progress"]:
        """Show the display in this block."""
        yield self


class LiveProgress(Progress):
    """Prints the lines of :class:`Progress` above a table, which is redrawn while the sweep runs."""

    @contextlib.contextmanager
    def shown(self) -> Iterator["Progress"]:
        """Show the table in this block."""
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._stream)
        live = Live(console=console, auto_refresh=False, get_renderable=self._table, transient=True)
        self._live: Any = live
        self._drawn = 0.0
        with contextlib.suppress(OSError, ValueError):
            live.start()
        try:
            yield self
        finally:
            with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
                live.stop()

    def line(self, text: str) -> None:
        """Print one line above the table."""
        with contextlib.suppress(OSError, ValueError):
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def tick(self) -> None:
        """Redraw the table twice per second."""
        if time.monotonic() - self._drawn > 0.5:
            self._drawn = time.monotonic()
            with contextlib.suppress(OSError, ValueError):
                self._live.refresh()

    def _table(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        ended = round(BAR * (self.done + self.failed) / max(1, self.total))
        bar = Text("━" * ended, style="green").append("━" * (BAR - ended), style="grey37")
        lines = [self._counts(), *self._running_lines()]
        return Group(bar, *(Text(line, overflow="ellipsis", no_wrap=True) for line in lines))

    def _counts(self) -> str:
        eta = self.eta_s()
        parts = [f"{self.done} done", f"{len(self.running)} running", f"{self.failed} failed", f"{self.left} left"]
        parts += [f"about {_clock(eta)} to go"] if eta is not None else []
        return "   ".join([*parts, f"{_clock(time.monotonic() - self._begun)} gone"])

    def _running_lines(self) -> list[str]:
        lines = [each.line() for each in list(self.running.values())[:SHOWN_RUNNING]]
        more = len(self.running) - SHOWN_RUNNING
        return lines + ([f"  and {more} more"] if more > 0 else [])


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def progress(total: int, done: int, at_once: int = 1) -> Progress:
    """The progress display that fits the output: live on a terminal, plain lines in a file or pipe."""
    kind = LiveProgress if sys.stdout.isatty() else Progress
    return kind(total, done, at_once)
