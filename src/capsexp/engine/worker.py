"""Inside a worker process: bound to its device and to its parent's life before torch is there, then lot after lot."""

import contextlib
import ctypes
import faulthandler
import functools
import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from capsexp import cell as cell_life
from capsexp import interruption, records
from capsexp.cell import Cell, Ended
from capsexp.engine.base import Lot, Report
from capsexp.stacking.settings import Settings

PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

log = logging.getLogger(__name__)

Work = Callable[[Cell], Ended]
"""What is done with a cell on its own."""

Together = Callable[[Sequence[Cell], Callable[[Cell, Ended], None], Settings], None]
"""What is done with several cells at once; it says of each how it ended."""


def stack(cells: Sequence[Cell], ended: Callable[[Cell, Ended], None], settings: Settings) -> None:
    """Let the cells live together, trained as one stack."""
    from capsexp.stacking.run import run as run_stack  # imports torch

    _keep_memory()
    _allow_open_files()
    run_stack(cells, ended, settings, functools.partial(_end_of, cell_life.run))


def _keep_memory() -> None:
    """Let the C library keep what is freed: the maps of many members are large, and are made anew in every step.

    By default glibc gets blocks of 32 MB and more from the system each time, page by page, and gives them back.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _allow_open_files() -> None:
    """Every cell of a stack has its log, its lock and perhaps a run open: as many files as the system lets us have."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def start(parent: int, environment: Mapping[str, str], stop: Any, warm: bool) -> None:
    """Prepare this process.

    Args:
        parent: the process that it must not outlive.
        environment: variables that torch reads when it is imported, or when it first touches a GPU.
        stop: a shared flag; once it is not 0, running cells save and stop.
        warm: import torch and Lightning now, so that no cell's time limit pays for it.
    """
    _die_with(parent)
    torch: Any = sys.modules.get("torch")  # there already where the user's own script imports it: it is run again here
    assert torch is None or not torch.cuda.is_initialized(), "a worker's environment must be set before CUDA is touched"
    os.environ.update(environment)
    os.environ.pop("WANDB_SERVICE", None)  # that of a parent's run: this process has its own, which ends with it
    logging.raiseExceptions = False
    logging.getLogger().setLevel(logging.INFO)
    interruption.listen(lambda: bool(stop.value))
    if warm:
        with contextlib.suppress(Exception):  # the cell that needs it will say what is wrong
            import capsexp.build  # noqa: F401
    gc.collect()
    gc.freeze()  # what is there now stays: later collections need not look at it


def run(work: Work, cell: Cell) -> Report:
    """Do one cell, and leave the process as it was."""
    with _left_as_it_was(cell) as heard:
        ended = _end_of(work, cell)
    return Report({cell.id: ended}, heard.told)


def run_lot(together: Together, lot: Lot, settings: Settings) -> Report:
    """Do the cells of a lot together, and leave the process as it was.

    An error that belongs to none of them costs none: the report leaves out those that came to no end.
    """
    ended: dict[str, Ended] = {}

    def note(cell: Cell, how: Ended) -> None:
        ended[cell.id] = how

    with _left_as_it_was(lot[0]) as heard:
        try:
            together(lot, note, settings)
        except (KeyboardInterrupt, SystemExit):
            ended = {cell.id: _interrupted(cell) for cell in lot} | ended
        except Exception as error:
            words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            log.warning("a stack broke (%s; see %s)", words, lot[0].directory / records.LOG)
            traceback.print_exc()
    return Report(ended, heard.told)


def _end_of(work: Work, cell: Cell) -> Ended:
    try:
        return work(cell)
    except (KeyboardInterrupt, SystemExit):
        return _interrupted(cell)


def _interrupted(cell: Cell) -> Ended:
    status = records.read_status(cell.directory) or records.Status("interrupted", cell.id)
    return Ended(status, "interrupted: saved as far as it was")


@contextlib.contextmanager
def _left_as_it_was(cell: Cell) -> Iterator["_Warnings"]:
    """What is printed goes into the cell's log and warnings are kept; at the end nothing of it stays."""
    heard = _Warnings()
    logging.getLogger().addHandler(heard)
    try:
        with _output_into(cell.directory / records.LOG), warnings.catch_warnings():
            yield heard
    finally:
        logging.getLogger().removeHandler(heard)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Lightning puts its own there
        _tidy()


def _die_with(parent: int) -> None:
    """Let the system kill this process when its parent is gone, however that ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before we asked
            os._exit(1)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


class _Warnings(logging.Handler):
    """Keeps what is worth telling the user, to be shown once for the whole sweep."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    @property
    def told(self) -> tuple[str, ...]:
        """The lines, each once."""
        return tuple(dict.fromkeys(self.lines))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line of our own loggers; the cell's log has all."""
        if record.name.startswith("capsexp") and record.name != "capsexp.trace":
            self.lines.append(record.getMessage())


@contextlib.contextmanager
def _output_into(path: Path) -> Iterator[None]:
    """Whatever is printed, by C code and by a crash too, goes into the cell's log and not across the live table."""
    saved: list[int] = []
    with contextlib.suppress(OSError):  # a full disk: then it stays where it was
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            saved = [os.dup(1), os.dup(2)]
            for number in (1, 2):
                os.dup2(stream.fileno(), number)
    faulthandler.enable()
    try:
        yield
    finally:
        for stream_to_flush in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream_to_flush.flush()
        for number, old in zip((1, 2), saved, strict=False):
            os.dup2(old, number)
            os.close(old)


def _tidy() -> None:
    """Give back what the cell left behind, on the device too, where other cells need it."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
