"""Inside a worker process: bound to its device and to its parent's life before torch is there, then cell after cell."""

import contextlib
import ctypes
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capsexp import interruption, records
from capsexp.cell import Cell, Ended

PR_SET_PDEATHSIG = 1

Work = Callable[[Cell], Ended]


@dataclass(frozen=True)
class Report:
    """What a worker sends back: how a cell ended, and the warnings that were logged meanwhile."""

    ended: Ended
    warnings: tuple[str, ...]


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
    heard = _Warnings()
    logging.getLogger().addHandler(heard)
    try:
        with _output_into(cell.directory / records.LOG), warnings.catch_warnings():
            ended = work(cell)
    except (KeyboardInterrupt, SystemExit):
        status = records.read_status(cell.directory) or records.Status("interrupted", cell.id)
        ended = Ended(status, "interrupted: saved as far as it was")
    finally:
        logging.getLogger().removeHandler(heard)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Lightning puts its own there
        _tidy()
    return Report(ended, tuple(dict.fromkeys(heard.lines)))


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
