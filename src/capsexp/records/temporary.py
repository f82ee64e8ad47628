"""Temporary files and folders; those that a killed process leaves are removed by a later process.

Each one is locked while its process lives; the system releases the lock when the process ends in any way.  Creating the
next one of the same kind removes all those that no process locks.  Where locks are not supported, none is removed.
"""

import atexit
import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX = ".capsexp-"
"""Beginning of the names of our folders in the system's folder for temporary files; nobody else uses it."""

HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
"""Part of such names: machines that share a folder may not see each other's locks."""


@contextlib.contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """A new empty file beside ``path``, hidden and locked; it is removed at the end, if it is still there.

    Files that killed processes have left beside ``path`` in the same way are removed first.
    """
    clear(path.parent, rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}")
    temporary, held = _new_file(path)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        if held is not None:
            os.close(held)


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None, prefix: str = PREFIX) -> Iterator[Path]:
    """A new locked folder, which is removed at the end; those that killed processes have left are removed first.

    Args:
        parent: where to make it; None for the system's folder for temporary files.
        prefix: beginning of its name; it must tell such folders from all others in ``parent``.
    """
    folder, held = _new_folder(parent or Path(tempfile.gettempdir()), prefix)
    try:
        yield folder
    finally:
        _remove(folder)
        if held is not None:
            os.close(held)


@functools.cache
def process_folder() -> Path:
    """The folder of this process for temporary files; it is locked as long as the process lives, and then removed."""
    folder, _ = _new_folder(Path(tempfile.gettempdir()), PREFIX)
    atexit.register(_remove_of, os.getpid(), folder)
    return folder


@contextlib.contextmanager
def in_process_folder() -> Iterator[None]:
    """In this block, this process and those that it starts make their temporary files in :func:`process_folder`."""
    folder, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    use_process_folder()
    try:
        yield
    finally:
        tempfile.tempdir = folder
        if variable is None:
            os.environ.pop("TMPDIR", None)
        else:
            os.environ["TMPDIR"] = variable


def use_process_folder() -> None:
    """From now on, this process and those that it starts make their temporary files in :func:`process_folder`."""
    with contextlib.suppress(OSError):  # a full disk: they are made where they would be otherwise
        tempfile.tempdir = os.environ["TMPDIR"] = str(process_folder())


def clear_folders(parent: Path | None = None, prefix: str = PREFIX) -> None:
    """Remove the folders of :func:`temporary_folder` and :func:`process_folder` whose processes have ended.

    Those of other machines stay.
    """
    clear(parent or Path(tempfile.gettempdir()), rf"{re.escape(prefix)}{HOST}-[A-Za-z0-9_]{{8}}")


def clear(parent: Path, pattern: str) -> None:
    """Remove the files and folders in ``parent`` whose whole name fits the pattern and whose lock is free."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        found = [Path(entry.path) for entry in entries if re.fullmatch(pattern, entry.name)]
        for path in found:
            held = _hold(path)
            if held is not None:
                _remove(path)
                os.close(held)


def _new_file(path: Path) -> tuple[Path, int | None]:
    """A new locked file beside ``path``, and the descriptor that holds the lock, if there are locks."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        # Its permissions are those that the user's umask leaves.
        held = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is None:  # an open file could not be renamed there
            os.close(held)
            return temporary, None
        if _lock(held) and _is_at(temporary, held):
            return temporary, held
        os.close(held)  # another process takes it for a leftover, which it was before it was locked


def _new_folder(parent: Path, prefix: str) -> tuple[Path, int | None]:
    clear_folders(parent, prefix)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{HOST}-", dir=parent))
        if fcntl is None:
            return folder, None
        with contextlib.suppress(FileNotFoundError):
            held = os.open(folder, os.O_RDONLY)
            if _lock(held) and _is_at(folder, held):
                return folder, held
            os.close(held)


def _hold(path: Path) -> int | None:
    """A descriptor that locks a leftover of our own; None if a process uses it, or if it cannot be known."""
    if fcntl is None:
        return None
    try:
        mode = os.O_RDONLY if path.is_dir() else os.O_RDWR  # network file systems lock only what is open for writing
        held = os.open(path, mode | os.O_NOFOLLOW)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(held).st_uid == os.getuid():
            return held
    os.close(held)
    return None


def _lock(held: int) -> bool:
    """Lock a new file or folder; False if another process has locked it, True also where nothing can be locked."""
    if fcntl is not None:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # the file system has no locks: no other process removes it either
            return True
    return True


def _is_at(path: Path, held: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(held))
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_of(process: int, folder: Path) -> None:
    if os.getpid() == process:  # not in a child that was forked
        _remove(folder)
