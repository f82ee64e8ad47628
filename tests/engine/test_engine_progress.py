"""What people see of a sweep that runs."""

import contextlib
import io
import os
import pty
import select
import sys
import time
from pathlib import Path

import pytest

from capsexp import fit_progress, records
from capsexp.cell import Cell, CellOutcome
from capsexp.engine import progress
from capsexp.engine.progress import LiveProgress, Progress
from capsexp.fit_progress import FitProgress
from tests.engine.sweeps import cells_in


def done(cell: Cell, *, ran: bool = True, seconds: float = 1.0) -> CellOutcome:
    status = records.Status("done", cell.id, started=1000.0, updated=1000.0 + seconds)
    return CellOutcome(status, "done  test/acc 0.5000  1.0 s", ran=ran)


def failed(cell: Cell) -> CellOutcome:
    status = records.Status("failed", cell.id, cause="ValueError: no", kind="exception")
    return CellOutcome(status, "failed: ValueError: no")


def test_plain_lines(tmp_path: Path) -> None:
    cells, lines = cells_in(tmp_path, 3), io.StringIO()
    shown = Progress(12, 7, 2, lines)
    with shown.shown():
        shown.message("running 5, 2 at once, 1 thread per cell")
        for cell in cells:
            shown.started(cell, "GPU 0")
            shown.tick()
        shown.ended(cells[0], done(cells[0]))
        shown.put_back(cells[1], "signal: killed; it is tried again, alone on its device")
        shown.message("the cache is slow")
        shown.message("the cache is slow")
        shown.ended(cells[2], failed(cells[2]))
    assert lines.getvalue().splitlines() == [
        "running 5, 2 at once, 1 thread per cell",
        "[ 8/12]  cell-0000000000  done  test/acc 0.5000  1.0 s",
        "[ 8/12]  cell-0000000001  put back: signal: killed; it is tried again, alone on its device",
        "the cache is slow",
        f"[ 9/12]  cell-0000000002  failed: ValueError: no (see {cells[2].directory / 'log.txt'})",
    ]
    assert (shown.done, shown.failed, shown.left, shown.running) == (8, 1, 3, {})
    assert shown.last == "cell-0000000002  failed: ValueError: no"


def test_counts(tmp_path: Path) -> None:
    cells, shown = cells_in(tmp_path, 4), Progress(4, 0, 2, io.StringIO())
    assert (shown.done, shown.failed, shown.left) == (0, 0, 4)
    shown.started(cells[0], "")
    shown.started(cells[1], "")
    assert shown.left == 2
    shown.put_back(cells[1], "waits")
    assert shown.left == 3
    shown.ended(cells[0], CellOutcome(records.Status("interrupted", cells[0].id), "interrupted"))
    assert (shown.done, shown.failed, shown.left) == (0, 0, 4)
    shown.started(cells[1], "")
    shown.ended(cells[1], done(cells[1]))
    shown.ended(cells[2], failed(cells[2]))
    assert (shown.done, shown.failed, shown.left) == (1, 1, 2)


def test_the_cells_of_a_stack_go_back_in_one_line(tmp_path: Path) -> None:
    lines = io.StringIO()
    cells, shown = cells_in(tmp_path, 4), Progress(4, 0, 4, lines)
    for cell in cells:
        shown.started(cell, "")
    shown.split(cells[1:], "signal: killed; it is halved")
    assert shown.running.keys() == {cells[0].id}
    assert shown.left == 3
    shown.split(cells[:1], "broke")
    assert lines.getvalue().splitlines() == [
        "[0/4]  cell-0000000001 and 2 more  put back: signal: killed; it is halved",
        "[0/4]  cell-0000000000  put back: broke",
    ]


def test_the_time_that_is_left(tmp_path: Path) -> None:
    cells, shown = cells_in(tmp_path, 10), Progress(10, 0, 2, io.StringIO())
    assert shown.eta_s() is None
    shown.ended(cells[0], done(cells[0], ran=False))
    assert shown.eta_s() is None, "what was there already says nothing"
    for cell, seconds in zip(cells[1:3], (10, 20), strict=True):
        shown.started(cell, "")
        shown.ended(cell, done(cell, seconds=seconds))
    assert shown.eta_s() == pytest.approx(15 * 7 / 2)
    shown.started(cells[3], "")
    shown.started(cells[4], "")
    assert shown.eta_s() == pytest.approx(15 * (5 + 1) / 2)


class ClosedPipe(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_closed_pipe_does_not_end_the_sweep(tmp_path: Path) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (ClosedPipe(), closed):
        (cell,) = cells_in(tmp_path, 1)
        shown = Progress(1, 0, 1, stream)
        shown.started(cell, "")
        shown.message("a line")
        shown.ended(cell, done(cell))
        assert shown.done == 1


def run_through(shown: LiveProgress, cells: list[Cell]) -> None:
    """20 cells run, one ends well, one fails."""
    for cell in cells:
        shown.started(cell, "GPU 3")
    shown.message("[bold] is no markup")
    shown.ended(cells[0], done(cells[0]))
    shown.ended(cells[1], failed(cells[1]))
    shown.tick()


def read_until(mark: bytes, master: int) -> str:
    """What has been written to a terminal before a mark; the system may take its time to hand it over."""
    drawn = b""
    while mark not in drawn:
        assert select.select([master], [], [], 60)[0], drawn
        drawn += os.read(master, 1 << 16)
    return drawn.partition(mark)[0].decode()


def test_the_live_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of its own."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LINES", "50")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as terminal:
        shown, cells = LiveProgress(225, 200, 24, terminal), cells_in(tmp_path, 20)
        with shown.shown():
            run_through(shown, cells)
            terminal.write("<all is drawn>")
            terminal.flush()
            drawn = read_until(b"<all is drawn>", master)
    os.close(master)
    lines = drawn.replace("\r", "").splitlines()
    last = max(number for number, line in enumerate(lines) if "18 running" in line)
    assert "[bold] is no markup" in drawn
    assert f"[202/225]  cell-0000000001  failed: ValueError: no (see {cells[1].directory / 'log.txt'})" in drawn
    for words in ("201 done", "1 failed", "5 left", "about ", " to go", " gone"):
        assert words in lines[last]
    assert sum("GPU 3" in line for line in lines[last:]) == progress.SHOWN_RUNNING
    assert "and 6 more" in lines[last + progress.SHOWN_RUNNING + 1]


def test_the_live_table_has_the_epochs_of_this_attempt(tmp_path: Path) -> None:
    shown, cells = LiveProgress(20, 0, 4, io.StringIO()), cells_in(tmp_path, 3)
    for cell, at in zip(cells, (time.time() - 60, time.time() + 60), strict=False):
        fit_progress.write(cell.directory, FitProgress("base", ".", 3, 30, "val/acc", 0.75, 2.0, False, at))
    for cell in cells:
        records.write_status(cell.directory, records.Status("running", cell.id))
        shown.started(cell, "")
    old, now, unknown = shown._running_lines()
    assert now == "  cell-0000000001  0:00  base: epoch 3/30  val/acc 0.7500  2.0 s per epoch  at most 54 s left"
    assert (old, unknown) == ("  cell-0000000000  0:00", "  cell-0000000002  0:00")


def test_the_live_table_where_there_is_no_terminal(tmp_path: Path) -> None:
    stream = io.StringIO()
    shown = LiveProgress(20, 0, 4, stream)
    with shown.shown():
        run_through(shown, cells_in(tmp_path, 20))
    assert "[ 1/20]  cell-0000000000  done  test/acc 0.5000  1.0 s\n" in stream.getvalue()


def test_a_terminal_that_was_closed_does_not_end_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    terminal = os.fdopen(slave, "w", encoding="utf-8")
    shown, cells = LiveProgress(20, 0, 4, terminal), cells_in(tmp_path, 20)
    try:
        with shown.shown():
            os.close(master)
            run_through(shown, cells)
            shown._drawn = 0.0
            shown.tick()
    finally:
        with contextlib.suppress(OSError):
            terminal.close()
    assert (shown.done, shown.failed) == (1, 1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (75, "1:15"), (3599.7, "1:00:00"), (90061, "25:01:01")]
)
def test_clock(seconds: float, text: str) -> None:
    assert progress._clock(seconds) == text


def test_the_display_fits_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal, kind in ((True, LiveProgress), (False, Progress)):
        monkeypatch.setattr(sys.stdout, "isatty", lambda answer=is_terminal: answer)
        assert type(progress.progress(3, 1, 2)) is kind
