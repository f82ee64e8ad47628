"""The status of a cell, corrected if its process has died."""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from capsexp.records.files import read_json, write_json
from capsexp.records.layout import LOCK, SCHEMA, STATUS

State = Literal["pending", "running", "done", "failed", "interrupted"]
Kind = Literal["config", "exception", "signal", "timeout", "out-of-memory", "disk", "diverged"]

HEARTBEAT_S = 30.0
"""Interval at which a running cell touches its lock file (seconds)."""

LOST_AFTER_S = 300.0
"""Seconds without a touch of the lock file after which a cell on another machine counts as interrupted."""


@dataclass(frozen=True)
class Status:
    """The status of a cell.

    Attributes:
        state: the last state that the cell's process wrote; :func:`read_status` corrects it for a dead process.
        id: the cell's id.
        pid: process that runs or ran it.
        host: machine of that process.
        boot: identifier of that machine's boot, so that a process number from before a restart is ignored.
        born: start time of that process, in clock ticks since the machine's boot, so that a reused process number is
            ignored; 0 if the system does not report it.
        started: seconds since 1970.
        updated: seconds since 1970.
        cause: for failed, interrupted and pending cells, the cause as one line.
        kind: for failed cells, the kind of failure.
        retried: the causes of the earlier attempts that this command's launcher put back into its queue.
    """

    state: State
    id: str
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)
    boot: str = field(default_factory=lambda: _boot_id())
    born: int = field(default_factory=lambda: _born(os.getpid()))
    started: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)
    cause: str | None = None
    kind: Kind | None = None
    retried: tuple[str, ...] = ()

    def now(self, state: State, cause: str | None = None, kind: Kind | None = None) -> "Status":
        """This status, changed to ``state`` at this moment."""
        return replace(self, state=state, updated=time.time(), cause=cause, kind=kind)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _born(pid: int) -> int:
    """Start time of a process, in clock ticks since the machine's boot; 0 if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    state, *numbers = stat.rpartition(")")[2].split()  # fields from 3 on; the name before them may contain spaces
    return 0 if state in "ZX" else int(numbers[18])  # a zombie has ended too


def write_status(directory: Path, status: Status) -> None:
    """Write a cell's status."""
    write_json(directory / STATUS, {"schema": SCHEMA, **asdict(status)})


def read_status(directory: Path) -> Status | None:
    """A cell's status; a running cell whose process has died is reported as interrupted.

    None if there is no whole status; :func:`status_damage` gives the cause.
    On this machine the process itself is checked.  For a process on another machine, the lock file must have been
    touched within :data:`LOST_AFTER_S`.
    """
    raw = read_json(directory / STATUS)
    if raw is None or raw.get("schema") != SCHEMA:
        return None
    status = _parsed(raw)
    if status is None:
        return None
    if status.state != "running":
        return status
    if status.host == socket.gethostname():
        lost = None if _alive(status) else f"process {status.pid} ended unexpectedly"
    else:
        lost = _silence(directory / LOCK, status)
    return replace(status, state="interrupted", cause=lost) if lost else status


def status_damage(directory: Path) -> str | None:
    """The cause if a cell's ``status.json`` is not what was written; None if it is whole or missing."""
    path = directory / STATUS
    if not os.path.lexists(path):
        return None
    raw = read_json(path)
    if raw is None:
        return f"{STATUS} is a folder" if path.is_dir() else f"{STATUS} is not whole"
    if raw.get("schema") != SCHEMA:
        return None
    if raw.get("state") not in get_args(State):
        return f"{STATUS} has the unknown state {raw.get('state')!r}"
    return f"{STATUS} is not what was written" if _parsed(raw) is None else None


def _parsed(raw: Mapping[str, Any]) -> Status | None:
    """The status that a file holds; None if a key or a text is not what was written.  Times may be anything."""
    try:
        status = Status(**{key: value for key, value in raw.items() if key != "schema"})
        status = replace(status, retried=tuple(status.retried))
    except TypeError:
        return None
    known = status.state in get_args(State) and (status.kind is None or status.kind in get_args(Kind))
    texts = (status.id, status.host, status.boot, *status.retried, *(() if status.cause is None else (status.cause,)))
    whole = isinstance(status.pid, int) and isinstance(status.born, int) and all(isinstance(t, str) for t in texts)
    return status if known and whole else None


def is_gone(status: Status) -> bool:
    """True if the process that wrote this status ran on this machine and has ended."""
    return status.host == socket.gethostname() and not _alive(status)


def is_user_error(status: Status) -> bool:
    """True if the cell failed because a value in its config breaks a rule."""
    return status.state == "failed" and status.kind == "config"


def _alive(status: Status) -> bool:
    if status.boot != _boot_id():
        return False
    if Path("/proc/self/stat").exists():
        return _born(status.pid) != 0 and status.born in (0, _born(status.pid))
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _silence(lock: Path, status: Status) -> str | None:
    try:
        last = max(lock.stat().st_mtime, status.updated)
    except OSError:
        last = status.updated
    silent = time.time() - last
    return f"no sign of life from {status.host} for {silent / 60:.0f} minutes" if silent > LOST_AFTER_S else None
