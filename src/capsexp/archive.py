"""``python -m capsexp.archive DIR FILE``: carry the finished cells of a sweep to another machine in one small file.

The file is a compressed tar archive with, for every finished cell, its config, result, tables and arrays, and with the
sweep's plan and configs; it has no checkpoints.  The same results give the same bytes.  ``--restore`` writes the cells
into a folder, where the sweep's command continues with the other cells; the archives of several machines can be
restored into one folder.
"""

import argparse
import contextlib
import hashlib
import io
import json
import lzma
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from capsexp import commands, records
from capsexp.errors import CommandError
from capsexp.text import count

MANIFEST = "manifest.json"
PLAN = (records.SWEEP, records.CONFIGS)
"""Files of the sweep itself."""

UNPACKED = ".restore-"
"""Beginning of the name of a folder beside the sweep's, into which an archive is unpacked."""

NOT_COMPARED = ("clocks", "environment", "memory", "name", "stack")
"""Keys of a result that may differ from machine to machine."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = commands.parser(
        "archive",
        "Write the finished cells of a sweep into one small file, or put them back: configs, results, tables and "
        "arrays, no checkpoints.",
        "Restored cells are not run again. A cell that is there already must have the same numbers as in FILE.",
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="a sweep's folder, such as multirun/cnn_prune")
    parser.add_argument("file", metavar="FILE", type=Path, help="the archive, such as cnn_prune.tar.xz")
    parser.add_argument("--restore", action="store_true", help="write the cells of FILE into DIR")
    return commands.run(parser, _run, words)


def _run(given: argparse.Namespace) -> None:
    line = restore(given.file, given.directory) if given.restore else write_archive(given.directory, given.file)
    sys.stdout.write(f"{line}\n")


# -- writing ----------------------------------------------------------------------------------------------------------


def write_archive(directory: Path, file: Path) -> str:
    """Write the finished cells of a sweep into an archive.

    Args:
        directory: the sweep's folder.
        file: the archive; an existing one is replaced.

    Returns:
        One line with the number of cells and the size.

    Raises:
        CommandError: the folder does not exist or has no finished cell.
    """
    if not directory.is_dir():
        raise CommandError(f"{directory} is not a folder")
    cells = records.cell_directories(directory).values()
    finished = [cell for cell in sorted(cells) if records.read_result(cell) is not None]
    if not finished:
        raise CommandError(f"{directory} has no finished cell")
    paths = [directory / name for name in PLAN if (directory / name).is_file()]
    paths += [path for cell in finished for path in _files_of(cell)]
    digests = {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    file.parent.mkdir(parents=True, exist_ok=True)
    with records.replacing(file) as temporary, tarfile.open(temporary, "w:xz", preset=9) as archive:
        _add(archive, MANIFEST, json.dumps({"schema": records.SCHEMA, "files": digests}, indent=1).encode())
        for name in digests:
            _add(archive, name, (directory / name).read_bytes())
    left = len(cells) - len(finished)
    more = f", {count(left, 'unfinished cell')} left out" if left else ""
    return f"{file}: {count(len(finished), 'finished cell')}{more}, {file.stat().st_size / 1e6:.2f} MB"


def _files_of(cell: Path) -> list[Path]:
    tables = sorted(path for path in cell.glob("*.csv") if path.is_file())
    named = (cell / name for name in (records.CONFIG, records.RESULT, records.ARRAYS))
    return [*tables, *(path for path in named if path.is_file())]


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file without owner and time, so that equal contents give equal archives."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))


# -- restoring --------------------------------------------------------------------------------------------------------


def restore(file: Path, directory: Path) -> str:
    """Write the cells of an archive into a sweep's folder; nothing is written unless everything fits.

    Cells that are finished there stay as they are; the plans are joined.

    Args:
        file: an archive of :func:`write_archive`.
        directory: the folder; it is created if it does not exist.

    Returns:
        One line with the number of cells.

    Raises:
        CommandError: the archive is damaged, a cell is in the folder with other numbers, or a cell is being run.
    """
    if not file.is_file():
        raise CommandError(f"{file} is not a file")
    if (directory / records.STATUS).is_file() or (directory / records.RESULT).is_file():
        raise CommandError(f"{directory} is the folder of a single cell; give its sweep's")
    parent = next(folder for folder in (directory.absolute().parent, *directory.absolute().parents) if folder.is_dir())
    with records.temporary_folder(parent, UNPACKED) as unpacked:
        _unpack(file, unpacked)
        there = records.cell_directories(directory) if directory.is_dir() else {}
        cells = records.cell_directories(unpacked)
        timings = _timings(unpacked)
        finished = {identifier for identifier, cell in there.items() if records.read_result(cell) is not None}
        for identifier in sorted(cells.keys() & finished):
            _check_same(cells[identifier], there[identifier], timings, file)
        for cell in there.values():
            with _lock(cell):
                pass
        new = [identifier for identifier in cells if identifier not in finished]
        for identifier in new:
            _move(identifier, cells[identifier], there.get(identifier, directory / cells[identifier].name))
        _join_plans(unpacked, directory)
    kept = f", {count(len(cells) - len(new), 'cell')} there already" if len(cells) > len(new) else ""
    return f"{directory}: {count(len(new), 'cell')} restored{kept}"


def _unpack(file: Path, folder: Path) -> None:
    """Unpack an archive and check every file by its digest."""
    try:
        with tarfile.open(file, "r:xz") as archive:
            for entry in archive:
                if not (entry.isreg() and _is_expected(entry.name)):
                    raise CommandError(f"{file} is no archive of a sweep: it has {entry.name!r}")
                stream = archive.extractfile(entry)
                assert stream is not None, "a regular file"
                path = folder / entry.name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(stream.read())
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise CommandError(f"{file} is not a whole archive of a sweep ({error})") from error
    manifest = records.read_json(folder / MANIFEST) or {}
    if not isinstance(manifest.get("files"), dict):
        raise CommandError(f"{file} is not a whole archive of a sweep ({MANIFEST} is missing)")
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise CommandError(f"{file} is damaged: {name} is missing or has other content")


def _is_expected(name: str) -> bool:
    """True for the name of a file that :func:`write_archive` writes; no other is ever unpacked."""
    if name in (MANIFEST, *PLAN):
        return True
    cell, slash, last = name.partition("/")
    plain = bool(slash) and cell not in ("", ".", "..") and "\\" not in name and "/" not in last
    return plain and (last in (records.CONFIG, records.RESULT, records.ARRAYS) or last.endswith(".csv"))


def _timings(folder: Path) -> Sequence[str]:
    """The metrics of a sweep that are measured with a clock."""
    plan = records.read_sweep(folder)
    return list(plan.report.get("timings") or ()) if plan is not None else []


def _check_same(cell: Path, there: Path, timings: Sequence[str], file: Path) -> None:
    one, other = (_compared(records.read_result(each) or {}, timings) for each in (cell, there))
    differing = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    if differing:
        key = differing[0]
        values = f"{key} is {other.get(key)!r} there and {one.get(key)!r} in {file}"
        raise CommandError(f"{there} is finished with other numbers: {values}; nothing was restored")


def _compared(body: Mapping[str, Any], timings: Sequence[str]) -> dict[str, Any]:
    """What two results of a cell must share, by dotted keys."""
    kept = {key: value for key, value in body.items() if key not in NOT_COMPARED}
    return {key: value for key, value in records.leaves(kept) if key.removeprefix("metrics.") not in timings}


def _move(identifier: str, cell: Path, target: Path) -> None:
    """Move a cell's files into its directory, the result last."""
    target.mkdir(parents=True, exist_ok=True)
    with _lock(target):
        for path in sorted(cell.iterdir(), key=lambda each: each.name == records.RESULT):
            with records.replacing(target / path.name) as temporary:
                shutil.copyfile(path, temporary)
        (target / records.RESUME_CHECKPOINT).unlink(missing_ok=True)
        records.write_status(target, records.Status("done", identifier))


@contextlib.contextmanager
def _lock(cell: Path) -> Iterator[None]:
    lock = FileLock(cell / records.LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise CommandError(
            f"{cell} is being run by another process; restore the archive when that has ended"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _join_plans(unpacked: Path, directory: Path) -> None:
    plan, there = records.read_sweep(unpacked), records.read_sweep(directory)
    if plan is None:
        return
    configs = {**records.read_configs(unpacked), **records.read_configs(directory)}
    records.write_configs(directory, configs)
    records.write_sweep(directory, plan if there is None else _joined(there, plan))


def _joined(there: records.Sweep, plan: records.Sweep) -> records.Sweep:
    """The plan of a folder with the cells and values of another plan added."""
    planned = {cell.id for cell in there.cells}
    axes = {axis: list(there.axes.get(axis, [])) for axis in [*there.axes, *plan.axes]}
    for axis, values in plan.axes.items():
        axes[axis] += [value for value in values if repr(value) not in map(repr, axes[axis])]
    return replace(there, axes=axes, cells=[*there.cells, *(cell for cell in plan.cells if cell.id not in planned)])


if __name__ == "__main__":
    sys.exit(main())
