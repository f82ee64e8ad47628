"""Atomic files: written to a temporary name, flushed to the disk and renamed."""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from capsexp.records.temporary import temporary_file, temporary_folder


@contextlib.contextmanager
def replacing(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """A temporary path in the folder of ``path``; after the block it is flushed to the disk and renamed to ``path``.

    A process that is killed in the block leaves its temporary file; the next one that replaces ``path`` removes it.  A
    device or pipe is not replaced: the content is written to it.

    Args:
        path: the file.
        flush: whether the content must survive a power cut; the flush waits for the disk.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with temporary_folder() as folder:
            temporary = folder / path.name
            yield temporary
            with path.open("wb") as stream:
                stream.write(temporary.read_bytes())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_file(path) as temporary:
        yield temporary
        if flush:
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
        temporary.replace(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, flush: bool = True) -> None:
    """Write ``text`` atomically; see :func:`replacing`."""
    with replacing(path, flush=flush) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, *, flush: bool = True) -> None:
    """Write ``value`` as JSON; numbers that JSON cannot represent (NaN, infinities) become null."""
    write_text(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n", flush=flush)


def write_record(path: Path, value: object) -> None:
    """Write one of our own JSON files; a folder in its place, which is nothing of ours, is removed."""
    if path.is_dir() and not path.is_symlink():
        remove(path)
    write_json(path, value)


def write_summed(path: Path, content: Mapping[str, Any]) -> None:
    """Write one of our own JSON files with a checksum of its content."""
    plain = json.loads(json.dumps(finite(content)))
    write_record(path, {**plain, "checksum": checksum(plain)})


def read_summed(path: Path) -> dict[str, Any] | None:
    """The content of such a file; None if it is missing or damaged.  Older versions wrote no checksum."""
    raw = read_json(path)
    written = raw.pop("checksum", None) if raw else None
    return None if raw is None or written not in (None, checksum(raw)) else raw


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, in hexadecimal, in whatever order its keys stand."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def finite(value: object) -> object:
    """``value`` with None in place of NaN and infinite numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def leaves(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted key and the value of everything in nested mappings that is not a mapping itself."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def dotted_keys(tree: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The dotted keys of nested mappings, those of the mappings among them included."""
    for key, value in tree.items():
        yield f"{before}{key}"
        if isinstance(value, Mapping):
            yield from dotted_keys(value, f"{before}{key}.")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``; None if the file is missing or has no complete object, or if it is no file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return None
        raise
    return value if isinstance(value, dict) else None
