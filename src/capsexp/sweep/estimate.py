"""The estimated cost of a sweep, from the cost of finished cells."""

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
"""Maximum number of finished cells that are read."""


@dataclass(frozen=True)
class Estimate:
    """The remaining work of a sweep.

    Attributes:
        states: number of planned cells in each state; ``stale`` cells were finished by older code.
        orphans: number of cell directories that are not in the plan.
        left: number of cells that the command would run.
        measured: number of finished cells from which the means below are computed; 0 = nothing is known.
        elsewhere: whether these cells belong to other sweeps.
        cell_s: mean seconds per cell.
        cell_bytes: mean bytes on disk per cell.
        free_bytes: free space on the sweep's disk.
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
    """The estimate for the cells planned in ``directory``; ``rerun`` selects the ended cells that run again."""
    states = [state_of(directory / cell.name) for cell in cells]
    here = [path for path in records.cell_directories(directory).values() if records.read_result(path)]
    found = here or list(_alike(directory, next(iter(frozen.values())).config))
    sample = found[:: max(1, math.ceil(len(found) / SAMPLE))]
    clocks = [result["clocks"] for path in sample if (result := records.read_result(path))]
    seconds = [each.get("share_s", each["total_s"]) for each in clocks]  # a member of a stack cost a share of its time
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
    """A planned cell's state; ``pending`` if it has no directory."""
    result = records.read_result(directory)
    if result is not None:
        return "stale" if records.is_stale(result) else "done"
    status = records.read_status(directory)
    return status.state if status and status.state != "done" else "pending"


def _alike(directory: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """Finished cells of the same kind in other sweeps of the parent folder."""
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
    """The settings that mainly determine the duration of a cell, without its swept values."""
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
