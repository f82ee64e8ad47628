"""Inside a worker process: what it does before torch is imported, and what it does with each group of cells."""

import contextlib
import ctypes
import faulthandler
import functools
import gc
import logging
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capsexp import cell as cell_life
from capsexp import records, stop_request
from capsexp.cell import Cell, CellOutcome
from capsexp.engine.base import Group, Report
from capsexp.stacking.grouping import Settings

PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

log = logging.getLogger(__name__)

RunCell = Callable[[Cell], CellOutcome]

RunStack = Callable[[Sequence[Cell], Callable[[Cell, CellOutcome], None], Settings], None]
"""Runs several cells at once, and calls its second argument for each that ends."""


def run_stack(cells: Sequence[Cell], ended: Callable[[Cell, CellOutcome], None], settings: Settings) -> None:
    """Run cells together, trained as one stack."""
    from capsexp.stacking.scheduler import run as run_together  # imports torch

    _keep_memory()
    _allow_open_files()
    run_together(cells, ended, settings, functools.partial(_outcome_of, cell_life.run))


@dataclass(frozen=True)
class CellWork:
    """What a worker does: runs a cell on its own, trains several as a stack; see :class:`~capsexp.engine.base.Work`.

    Attributes:
        settings: of stacks.
        run_cell: runs a cell on its own.
        run_stack: runs several.
    """

    settings: Settings = field(default_factory=Settings)
    run_cell: RunCell = cell_life.run
    run_stack: RunStack = run_stack

    def prepare(self) -> None:
        """Import torch and Lightning."""
        with contextlib.suppress(Exception):  # the cell that needs it will say what is wrong
            import capsexp.build  # noqa: F401

    def __call__(self, group: Group) -> Report:
        """Do a group, and leave the process as it was.

        An error of a stack that belongs to none of its cells costs none: the report leaves out cells that did not end.
        """
        outcomes: dict[str, CellOutcome] = {}
        with _left_as_it_was(group[0]) as heard:
            if len(group) == 1:
                outcomes[group[0].id] = _outcome_of(self.run_cell, group[0])
            else:
                self._run_stack(group, outcomes)
        return Report(outcomes, heard.distinct)

    def _run_stack(self, group: Group, outcomes: dict[str, CellOutcome]) -> None:
        def note(cell: Cell, outcome: CellOutcome) -> None:
            outcomes[cell.id] = outcome

        try:
            self.run_stack(group, note, self.settings)
        except (KeyboardInterrupt, SystemExit):
            for cell in group:
                outcomes.setdefault(cell.id, _interrupted(cell))
        except Exception as error:
            words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            log.warning("a stack broke (%s; see %s)", words, group[0].directory / records.LOG)
            traceback.print_exc()


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


def start(parent: int, environment: Mapping[str, str], stop: Any, work: bytes) -> None:
    """Prepare this process.

    Args:
        parent: the process that it must not outlive.
        environment: variables that torch reads when it is imported, or when it first touches a GPU.
        stop: a shared flag; once it is not 0, running cells save and stop.
        work: what is to come, pickled: what it imports must see this environment.
    """
    _die_with(parent)
    torch: Any = sys.modules.get("torch")  # there already where the user's own script imports it: it is run again here
    assert torch is None or not torch.cuda.is_initialized(), "a worker's environment must be set before CUDA is touched"
    os.environ.update(environment)
    os.environ.pop("WANDB_SERVICE", None)  # that of a parent's run: this process has its own, which ends with it
    logging.raiseExceptions = False
    logging.getLogger().setLevel(logging.INFO)
    stop_request.listen(lambda: bool(stop.value))
    pickle.loads(work).prepare()
    gc.collect()
    gc.freeze()  # what is there now stays: later collections need not look at it


def _outcome_of(run_cell: RunCell, cell: Cell) -> CellOutcome:
    try:
        return run_cell(cell)
    except (KeyboardInterrupt, SystemExit):
        return _interrupted(cell)


def _interrupted(cell: Cell) -> CellOutcome:
    status = records.read_status(cell.directory) or records.Status("interrupted", cell.id)
    return CellOutcome(status, "interrupted: saved as far as it was")


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
    def distinct(self) -> tuple[str, ...]:
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
