"""A sweep's plan, the configs it froze, and the directories of its cells."""

import errno
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from capsexp.records.files import read_summed, write_summed
from capsexp.records.identity import ID_LENGTH
from capsexp.records.layout import CONFIGS, SCHEMA, SWEEP


@dataclass(frozen=True)
class PlannedCell:
    """One point of a sweep: its id, its directory's name, and the values that were swept."""

    id: str
    name: str
    axes: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """The plan of a sweep at its launch.

    Attributes:
        name: the experiment's name.
        axes: each swept key with its values, in the order given.
        cells: every cell of the plan, in the order in which they run.
        overrides: the arguments of the command line, verbatim.
        report: the experiment's ``report:`` block.
        launch: the provenance of the launch: ``time`` (seconds since 1970), ``host``, ``python``, ``versions`` of the
            packages, and ``git`` (commit, branch, changed files) if the code is in a repository.
    """

    name: str
    axes: dict[str, list[Any]]
    cells: list[PlannedCell]
    overrides: list[str]
    report: dict[str, Any]
    launch: dict[str, Any] = field(default_factory=dict)


def write_sweep(directory: Path, sweep: Sweep) -> None:
    """Write the plan of a sweep into its directory."""
    write_summed(directory / SWEEP, {"schema": SCHEMA, **asdict(sweep)})


def read_sweep(directory: Path) -> Sweep | None:
    """The plan of the sweep that was last launched in ``directory``; None if there is none."""
    raw = read_summed(directory / SWEEP)
    if raw is None:
        return None
    raw.pop("schema", None)
    try:
        raw["cells"] = [PlannedCell(**cell) for cell in raw["cells"]]
        sweep = Sweep(**raw)
    except (KeyError, TypeError):  # damaged, or written by another version of this package
        return None
    return sweep if _well_formed(sweep) else None


def _well_formed(sweep: Sweep) -> bool:
    """True if everything in a plan has the type that it is written with."""
    return (
        isinstance(sweep.name, str)
        and isinstance(sweep.axes, dict)
        and all(isinstance(values, list) for values in sweep.axes.values())
        and all(
            isinstance(cell.id, str) and isinstance(cell.name, str) and isinstance(cell.axes, dict)
            for cell in sweep.cells
        )
        and isinstance(sweep.overrides, list)
        and all(isinstance(word, str) for word in sweep.overrides)
        and isinstance(sweep.report, dict)
        and isinstance(sweep.launch, dict)
    )


@dataclass(frozen=True)
class FrozenCell:
    """A cell's resolved config at launch, and its overrides for Hydra's launchers."""

    config: dict[str, Any]
    overrides: list[str]


def write_configs(directory: Path, frozen: Mapping[str, FrozenCell]) -> None:
    """Write the configs of a sweep's cells, by cell id, into its directory."""
    write_summed(directory / CONFIGS, {"schema": SCHEMA, "cells": {key: asdict(cell) for key, cell in frozen.items()}})


def read_configs(directory: Path) -> dict[str, FrozenCell]:
    """The configs of the sweep that was last launched in ``directory``, by cell id; empty if there are none."""
    raw = read_summed(directory / CONFIGS) or {}
    try:
        found = {key: FrozenCell(**cell) for key, cell in raw.get("cells", {}).items()}
    except (AttributeError, TypeError):  # damaged, or written by another version of this package
        return {}
    whole = all(isinstance(cell.config, dict) and isinstance(cell.overrides, list) for cell in found.values())
    return found if whole else {}


def cell_directories(directory: Path) -> dict[str, Path]:
    """Every cell directory below a sweep's, by cell id."""
    if not directory.is_dir():
        return {}
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries if _is_readable(entry.name) and _is_folder(entry))
    ids = {name.rpartition("-")[2]: directory / name for name in names}
    return {key: path for key, path in ids.items() if len(key) == ID_LENGTH and set(key) <= set("0123456789abcdef")}


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def _is_readable(name: str) -> bool:
    """True for the name of a folder that is not hidden and that can be printed; we make no other."""
    return not name.startswith(".") and name.isprintable()


def sweeps_below(directory: Path) -> list[Path]:
    """The folders of sweeps below a folder that is none itself, sorted; a folder of single cells is one, too.

    A name with slashes puts a sweep into folders of folders; no sweep lies in another one's folder.
    """
    if not directory.is_dir() or _has_cells(directory):
        return []
    found: list[Path] = []
    for folder in sorted(directory.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        if _has_cells(folder):
            found.append(folder)
        elif not folder.is_symlink():  # a link may lead round in a circle
            found += sweeps_below(folder)
    return found


def _has_cells(directory: Path) -> bool:
    return (directory / SWEEP).exists() or bool(cell_directories(directory))


def cell_name(axes: Mapping[str, Any], identifier: str) -> str:
    """A cell directory's name: swept values and id, as in ``c2-16_c3-07-1a2b3c4d5e``.

    Whole numbers are written with two digits at least, so that names sort as values do.
    """
    parts = [f"{key.rpartition('.')[2]}-{_plain(value)}" for key, value in axes.items()]
    stem = shortened("_".join(parts), 100) or "cell"
    return f"{stem}-{identifier}"


def shortened(text: str, most: int) -> str:
    """The beginning of a text that takes at most so many bytes: file systems count bytes, not letters."""
    return text.encode()[:most].decode(errors="ignore")


def _plain(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:02d}"
    text = "".join(char if char.isalnum() or char in ".+-" else "." for char in str(value))
    return text.strip(".") or "none"
