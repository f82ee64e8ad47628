"""What a sweep will cost, from what finished cells have cost."""

import math
import shutil
import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capsexp import records
from capsexp.sweep.rerun import runs_again

SAMPLE = 50
"""Finished cells that are looked at, at most."""


@dataclass(frozen=True)
class Estimate:
    """What is left of a sweep.

    Attributes:
        states: number of planned cells in each state; ``stale`` ones are finished by older code.
        orphans: cell directories that the plan does not name.
        left: cells that the command would run.
        measured: number of finished cells that the figures below come from; 0 = nothing is known.
        elsewhere: whether those lie in other sweeps.
        cell_s: seconds a cell, their mean.
        cell_bytes: bytes a cell on the disk, their mean.
        free_bytes: free space where the sweep lies.
    """

    states: Mapping[str, int]
    orphans: int
    left: int
    measured: int
    elsewhere: bool
    cell_s: float
    cell_bytes: float
    free_bytes: int


def estimate_of(
    directory: Path,
    cells: list[records.PlannedCell],
    frozen: Mapping[str, records.FrozenCell],
    rerun: Collection[str],
) -> Estimate:
    """The estimate for the cells that are planned in ``directory``, ended ones run again as ``sweep.rerun`` says."""
    states = [state_of(directory / cell.name) for cell in cells]
    here = [path for path in records.cell_directories(directory).values() if records.read_result(path)]
    found = here or list(_alike(directory, next(iter(frozen.values())).config))
    sample = found[:: max(1, math.ceil(len(found) / SAMPLE))]
    clocks = [result["clocks"] for path in sample if (result := records.read_result(path))]
    seconds = [each.get("share_s", each["total_s"]) for each in clocks]  # of a stack's hour, a member cost a part
    return Estimate(
        states=Counter(states),
        orphans=len(records.cell_directories(directory).keys() - {cell.id for cell in cells}),
        left=sum(runs_again(directory / cell.name, cell.id, rerun) for cell in cells),
        measured=len(seconds),
        elsewhere=not here,
        cell_s=statistics.fmean(seconds) if seconds else 0.0,
        cell_bytes=statistics.fmean([_size(path) for path in sample]) if sample else 0.0,
        free_bytes=shutil.disk_usage(_existing(directory)).free,
    )


def state_of(directory: Path) -> str:
    """A planned cell's state; one without a directory is ``pending``."""
    result = records.read_result(directory)
    if result is not None:
        return "stale" if records.is_stale(result) else "done"
    status = records.read_status(directory)
    return status.state if status and status.state != "done" else "pending"


def _alike(directory: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """Finished cells of other sweeps beside this one that do the same sort of work."""
    sort = _sort(config)
    for other in sorted(directory.parent.glob(f"*/{records.CONFIGS}")):
        if other.parent == directory:
            continue
        cells = records.cell_directories(other.parent)
        for identifier, frozen in records.read_configs(other.parent).items():
            path = cells.get(identifier)
            if path and _sort(frozen.config) == sort and records.read_result(path):
                yield path


def _sort(config: Mapping[str, Any]) -> list[Any]:
    """What mostly decides how long a cell takes, but for its swept values."""
    model, data, recipe = config.get("model") or {}, config.get("data") or {}, config.get("recipe") or {}
    trainer = config.get("trainer") or {}
    return [
        model.get("_target_"),
        data.get("source"),
        data.get("path"),
        recipe.get("_target_"),
        trainer.get("max_epochs"),
    ]


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _existing(path: Path) -> Path:
    path = path.absolute()
    return path if path.exists() else _existing(path.parent)
