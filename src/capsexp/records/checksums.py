"""Checksums of files: those of a finished folder, which its result holds, and one in a checkpoint to resume from."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from capsexp.records.identity import ID_LENGTH, cached_sha256, file_sha256
from capsexp.records.layout import ARRAYS, BEST_CHECKPOINT

MARK = b"capsexp sha256 "
SEAL = len(MARK) + 64
"""Length of a seal in bytes."""
EMPTY = b"\0\0"
"""The length of a zip archive's comment, its last two bytes, where it has none."""


class DamagedError(Exception):
    """A file has not the content that was written.

    Attributes:
        path: the file.
        cause: the difference, as one line.
    """

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(path, cause)
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return f"{self.path} is damaged: {self.cause}"


def id_of(directory: Path) -> str:
    """The id at the end of a folder's name; empty if there is none."""
    last = directory.absolute().name.rpartition("-")[2]
    return last if len(last) == ID_LENGTH and set(last) <= set("0123456789abcdef") else ""


def file_digests(directory: Path) -> dict[str, str]:
    """The SHA-256 of the files that a finished cell or stage consists of, by their names below its folder."""
    names = [BEST_CHECKPOINT, ARRAYS, *sorted(path.name for path in directory.glob("*.csv"))]
    return {name: file_sha256(directory / name) for name in names if (directory / name).is_file()}


def first_damaged(directory: Path, digests: Mapping[str, str]) -> str | None:
    """The first of these files that is missing or has another content; a digest is computed once per process."""
    for name, digest in digests.items():
        try:
            same = cached_sha256(directory / name) == digest
        except OSError:  # it is missing, a folder, or a link to itself
            same = False
        if not same:
            return name
    return None


# -- checkpoints ------------------------------------------------------------------------------------------------------


def seal(path: Path, owner: str) -> None:
    """Write the checksum of a checkpoint, a zip archive, into its comment.

    Args:
        path: the file; torch reads it as before.
        owner: id of the folder that it belongs to; in another folder the checksum does not match.
    """
    digest = hashlib.sha256(owner.encode())
    with path.open("rb+") as stream:
        content = stream.read()
        digest.update(content)
        if content.endswith(EMPTY):
            stream.seek(-len(EMPTY), 2)
            stream.write(SEAL.to_bytes(2, "little") + MARK + digest.hexdigest().encode())


def read_checked(path: Path, *, sha256: str | None = None, owner: str = "") -> bytes:
    """The content of a checkpoint, checked while it is read.

    A file without a known checksum, from an older version, is checked by those that a zip archive has of its entries.

    Args:
        path: the file.
        sha256: its expected digest; None for the checksum in the file.
        owner: see :func:`seal`.

    Raises:
        DamagedError: it is missing, cannot be read, or has not the content that was written.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedError(path, f"it cannot be read: {error.strerror or type(error).__name__}") from error
    if sha256 is not None:
        whole = hashlib.sha256(content).hexdigest() == sha256
    elif content[-SEAL:].startswith(MARK):
        body = memoryview(content)[: -SEAL - len(EMPTY)]
        digest = hashlib.sha256(owner.encode())
        digest.update(body)
        digest.update(EMPTY)
        whole = content[-SEAL:] == MARK + digest.hexdigest().encode()
    else:
        whole = _entries_are_whole(content)
    if not whole:
        raise DamagedError(path, "its checksum does not match")
    return content


def _entries_are_whole(content: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.testzip() is None
    except Exception:  # damaged archives cause errors of many types
        return False
