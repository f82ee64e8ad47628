"""What runs on the nodes of a Ray cluster: a worker as on one machine, and a look at the node before it gets one."""

import contextlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

import capsexp
from capsexp import records
from capsexp.engine import worker
from capsexp.engine.base import Lot, Report
from capsexp.stacking.settings import Settings

TOKEN, STOP, LOCK = "token", "stop", "lock"
"""Files in the folder that a sweep's command and its workers share."""


@dataclass(frozen=True)
class StopFile:
    """A flag that other machines can raise: a file that is not empty.

    It is there from the beginning and written in place, because a network file system may keep for a minute that a file
    is missing, but asks for its content whenever it is opened.

    Attributes:
        path: the file.
    """

    path: Path

    def write(self, text: str) -> None:
        """Raise it with any text; the empty one puts it there, not raised."""
        self.path.write_text(text)

    @property
    def value(self) -> bool:
        """Whether it is raised."""
        try:
            return self.path.read_bytes() != b""
        except OSError:  # the file system is away for a moment
            return False


class RayWorker:
    """A worker process, as an actor: prepared before torch is there, then lot after lot.

    Args:
        folder: the one in which the command was given, so that relative paths mean the same here.
        environment: see :func:`capsexp.engine.worker.start`.
        stop: once it is raised, running cells save and stop.
        warm: import torch now, so that no cell's time limit pays for it.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], stop: StopFile, warm: bool) -> None:
        with contextlib.suppress(OSError):  # a node may know only the sweep's own folder
            os.chdir(folder)
        worker.start(os.getppid(), environment, stop, warm)  # the node's end is its end, at once

    def ready(self) -> None:
        """Answer, which it does when it can begin with a lot."""

    def run(self, work: worker.Work, together: worker.Together, lot: Lot, settings: Settings) -> Report:
        """Do a lot."""
        if len(lot) > 1:
            return worker.run_lot(together, lot, settings)
        return worker.run(work, lot[0])


@dataclass(frozen=True)
class Look:
    """What a node has and sees.

    Attributes:
        versions: of Python, of this package and of its numbers.
        token: what it reads in the folder that all should share; None where it sees no such file.
        wrote: whether it could write there.
        locked: whether a lock that the command holds there is one for the node too.
    """

    versions: str
    token: str | None
    wrote: bool
    locked: bool


def versions() -> str:
    """What must be equal on all nodes, so that their numbers are comparable."""
    python = ".".join(platform.python_version_tuple()[:2])
    return f"capsexp {capsexp.__version__}, numbers of version {records.NUMERICS_VERSION}, Python {python}"


def look(folder: Path, answer: str) -> Look:
    """Look at the folder from here, and leave an answer there.

    Args:
        folder: as the command names it.
        answer: name of the file to write.
    """
    token, wrote, locked = None, False, False
    with contextlib.suppress(OSError):
        token = (folder / TOKEN).read_text()
        (folder / answer).write_text(token)
        wrote = True
        locked = _is_locked(folder / LOCK)
    return Look(versions(), token, wrote, locked)


def _is_locked(path: Path) -> bool:
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True
