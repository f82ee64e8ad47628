"""The code of a worker process: its preparation before torch is imported, and its task for each group of cells."""

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

from pebble import CONSTS

from capsexp import cell as cell_life
from capsexp import records, stop_request
from capsexp.cell import Cell, CellOutcome
from capsexp.engine.base import Group, Report
from capsexp.stacking.grouping import Settings

PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

CONSTS.channel_lock_timeout = 5.0
"""Seconds that a process waits for another worker to release the lock of their pool.

That takes milliseconds, or never if the other one was killed; pebble then goes on without the lock.
"""

log = logging.getLogger(__name__)

RunCell = Callable[[Cell], CellOutcome]

RunStack = Callable[[Sequence[Cell], Callable[[Cell, CellOutcome], None], Settings], None]
"""Runs several cells together, and calls its second argument for each cell that ends."""


def run_stack(cells: Sequence[Cell], ended: Callable[[Cell, CellOutcome], None], settings: Settings) -> None:
    """Run cells that are trained as one stack."""
    from capsexp.stacking.scheduler import run as run_together  # imports torch

    _keep_memory()
    _allow_open_files()
    run_together(cells, ended, settings, functools.partial(_outcome_of, cell_life.run))


@dataclass(frozen=True)
class CellWork:
    """Runs a single cell, or several cells as a stack; see :class:`~capsexp.engine.base.Work`.

    Attributes:
        settings: the settings of stacks.
        run_cell: runs a single cell.
        run_stack: runs several cells.
    """

    settings: Settings = field(default_factory=Settings)
    run_cell: RunCell = cell_life.run
    run_stack: RunStack = run_stack

    def prepare(self) -> None:
        """Import torch and Lightning."""
        with contextlib.suppress(Exception):  # the cell that needs it reports the error
            import capsexp.build  # noqa: F401

    def __call__(self, group: Group) -> Report:
        """Run a group, and restore the state of the process afterwards.

        After an error of the stack that is not an error of a single cell, the report leaves out the cells that did not
        end.
        """
        outcomes: dict[str, CellOutcome] = {}
        with _restored_process(group[0]) as collected:
            if len(group) == 1:
                outcomes[group[0].id] = _outcome_of(self.run_cell, group[0])
            else:
                self._run_stack(group, outcomes)
        return Report(outcomes, collected.distinct, _learned())

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


def _learned() -> dict[str, str]:
    """What later workers need not find out again: that the server of Weights & Biases does not answer."""
    guard: Any = sys.modules.get("capsexp.tracking.guard")
    return {} if guard is None or guard.process.most == "online" else {guard.MOST: guard.process.most}


def _keep_memory() -> None:
    """Let the C library keep freed memory: the maps of many members are large, and are allocated again in every step.

    By default glibc requests blocks of 32 MB and more from the system each time, page by page, and returns them.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _allow_open_files() -> None:
    """Raise the limit of open files to its maximum: every cell of a stack has a log, a lock and perhaps a run open."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def start(parent: int, environment: Mapping[str, str], stop: Any, work: bytes) -> None:
    """Prepare this process.

    Args:
        parent: pid of the parent; this process ends with it.
        environment: variables that torch reads when it is imported, or when it first touches a GPU.
        stop: a shared flag; when it is not 0, running cells save and stop.
        work: the pickled task; its imports must see this environment.
    """
    _die_with(parent)
    torch: Any = sys.modules.get("torch")  # present if the user's script imports it: the script runs again here
    assert torch is None or not torch.cuda.is_initialized(), "a worker's environment must be set before CUDA is touched"
    records.use_process_folder()  # this process is killed at its end, so that nothing in it removes its files
    os.environ.update(environment)
    os.environ.pop("WANDB_SERVICE", None)  # the service of the parent's run; this process starts its own
    logging.raiseExceptions = False
    logging.getLogger().setLevel(logging.INFO)
    stop_request.listen(lambda: bool(stop.value))
    pickle.loads(work).prepare()
    gc.collect()
    gc.freeze()  # later collections skip all objects that exist now


def _outcome_of(run_cell: RunCell, cell: Cell) -> CellOutcome:
    try:
        return run_cell(cell)
    except (KeyboardInterrupt, SystemExit):
        return _interrupted(cell)


def _interrupted(cell: Cell) -> CellOutcome:
    status = records.read_status(cell.directory) or records.Status("interrupted", cell.id)
    return CellOutcome(status, "interrupted: saved as far as it was")


@contextlib.contextmanager
def _restored_process(cell: Cell) -> Iterator["_Warnings"]:
    """Redirect output into the cell's log and collect warnings; restore the process at the end."""
    collected = _Warnings()
    logging.getLogger().addHandler(collected)
    try:
        with _output_into(cell.directory / records.LOG), warnings.catch_warnings():
            yield collected
    finally:
        logging.getLogger().removeHandler(collected)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Lightning installs its own handler
        _tidy()


def _die_with(parent: int) -> None:
    """Let the system kill this process when its parent has ended for any reason."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the call
            os._exit(1)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


class _Warnings(logging.Handler):
    """Collects the warnings for the user, which are shown once for the whole sweep."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    @property
    def distinct(self) -> tuple[str, ...]:
        """The lines without duplicates."""
        return tuple(dict.fromkeys(self.lines))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the lines of capsexp's loggers; the cell's log has all lines."""
        if record.name.startswith("capsexp") and record.name != "capsexp.trace":
            self.lines.append(record.getMessage())


@contextlib.contextmanager
def _output_into(path: Path) -> Iterator[None]:
    """Redirect all output into the cell's log, that of C code and crashes too; it must not disturb the live table."""
    saved: list[int] = []
    with contextlib.suppress(OSError):  # a full disk: the output is not redirected
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
    """Free the memory that the cell left, on the device too, where other cells need it."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
