"""``python -m capsexp.clean DIR``: list, and on request remove, what costs disk and is not needed for any result.

Three kinds are found, and no result is ever removed:

=============== ===================================================================================================
kind            content
=============== ===================================================================================================
``checkpoints`` checkpoints of finished cells; without them ``load_run``, ``analyse`` and ``export`` cannot read a cell
``orphans``     unfinished cells that are not in the plan of their sweep
``stages``      shared trainings (``.stages``) that no unfinished cell of a plan can still use; they are computed again
                when a new sweep needs them
=============== ===================================================================================================
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from capsexp import commands, records
from capsexp.errors import CommandError
from capsexp.text import count

KINDS = ("checkpoints", "orphans", "stages")
STAGES = ".stages"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Item:
    """One removable folder.

    Attributes:
        kind: one of :data:`KINDS`.
        path: the folder.
        owner: the directory of the cell or stage, whose lock says whether it is in use.
        size: bytes on the disk.
    """

    kind: str
    path: Path
    owner: Path
    size: int


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = commands.parser(
        "clean",
        "List what costs disk and no result needs: checkpoints of finished cells, orphaned cells, orphaned stages.",
        "Nothing is removed without --remove, and never a result. What a running process uses stays.",
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="a sweep's folder, or one of sweeps: multirun")
    rule = f"remove this kind, one of {', '.join(KINDS)}; may be given several times"
    parser.add_argument("--remove", metavar="KIND", action="append", choices=KINDS, default=[], help=rule)
    return commands.run(parser, _run, words)


def _run(given: argparse.Namespace) -> None:
    items = find(given.directory)
    for kind in KINDS:
        of_kind = [item for item in items if item.kind == kind]
        sys.stdout.write(f"{kind:<11}  {count(len(of_kind), 'folder'):>11}  {_size(of_kind):>9}\n")
        if kind != "checkpoints":  # there is one per finished cell
            sys.stdout.writelines(f"  {item.path}  {_size([item])}\n" for item in of_kind)
    removed = [item for item in items if item.kind in given.remove and remove(item)]
    if given.remove:
        used = sum(item.kind in given.remove for item in items) - len(removed)
        stayed = f", {count(used, 'folder')} in use" if used else ""
        sys.stdout.write(f"removed {count(len(removed), 'folder')}, {_size(removed)}{stayed}\n")
    elif items:
        sys.stdout.write("nothing is removed without --remove KIND\n")


def find(directory: Path) -> list[Item]:
    """Everything removable below a sweep's folder or a folder of sweeps.

    Raises:
        CommandError: it is neither.
    """
    if not directory.is_dir():
        raise CommandError(f"{directory} is not a folder")
    sweeps = [directory] if _is_sweep(directory) else [path for path in sorted(directory.iterdir()) if _is_sweep(path)]
    stages = directory / STAGES
    if not sweeps and not stages.is_dir():
        raise CommandError(f"{directory} is neither the folder of a sweep nor a folder of sweeps")
    found = [item for sweep in sweeps for item in _cells(sweep)]
    if stages.is_dir() and not any(_unfinished(sweep) for sweep in sweeps):
        found += [Item("stages", path, path, _bytes(path)) for path in sorted(stages.iterdir()) if path.is_dir()]
    return found


def remove(item: Item) -> bool:
    """Remove a folder unless a process uses it; returns whether it was removed."""
    lock = FileLock(item.owner / records.LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return False
    try:
        if item.kind == "orphans" and records.read_result(item.owner) is not None:  # finished since it was listed
            return False
        shutil.rmtree(item.path)
    finally:
        lock.release()
    return True


def _is_sweep(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith(".") and bool(records.cell_directories(folder))


def _cells(sweep: Path) -> Iterator[Item]:
    plan = records.read_sweep(sweep)
    planned = None if plan is None else {cell.id for cell in plan.cells}
    for identifier, cell in records.cell_directories(sweep).items():
        if _has_result(cell):
            if (cell / CHECKPOINTS).is_dir():
                yield Item("checkpoints", cell / CHECKPOINTS, cell, _bytes(cell / CHECKPOINTS))
        elif planned is not None and identifier not in planned:
            yield Item("orphans", cell, cell, _bytes(cell))


def _has_result(cell: Path) -> bool:
    """True if there is a result or an earlier one, whole or not: it is never removed."""
    return (cell / records.RESULT).exists() or (cell / records.PREVIOUS_RESULT).exists()


def _unfinished(sweep: Path) -> bool:
    """True if a planned cell, or in a folder without a plan any cell, may still need a stage."""
    plan, there = records.read_sweep(sweep), records.cell_directories(sweep)
    wanted = there.keys() if plan is None else {cell.id for cell in plan.cells}
    return any(identifier not in there or records.read_result(there[identifier]) is None for identifier in wanted)


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _size(items: Sequence[Item]) -> str:
    return f"{sum(item.size for item in items) / 1e6:,.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
