"""The estimated cost of a sweep, from the cost of finished cells."""

import math
import shutil
import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capsexp import records
from capsexp.sweep.rerun import runs_again

SAMPLE = 50
"""Maximum number of finished cells that are read."""


@dataclass(frozen=True)
class Measured:
    """The first fit of a cell, forecast from a few measured steps.

    Attributes:
        name: of the cell.
        step_s: seconds of a training step.
        steps: training steps of an epoch.
        validation_s: seconds of the validation after an epoch.
        epochs: largest number of epochs.
        alone: whether the cell has no other fit.
    """

    name: str
    step_s: float
    steps: int
    validation_s: float
    epochs: int
    alone: bool

    @property
    def fit_s(self) -> float:
        """Seconds of the whole fit, if it is not stopped early."""
        return self.epochs * (self.steps * self.step_s + self.validation_s)


@dataclass(frozen=True)
class Estimate:
    """The remaining work of a sweep.

    Attributes:
        states: number of planned cells in each state.
        stale: number of stale cells by cause.
        orphans: number of cell directories that are not in the plan.
        left: the planned cells that the command would run.
        known: number of finished cells from which the means below are computed; 0 = nothing is known.
        elsewhere: whether these cells are not in the plan, but do the same work as planned ones.
        cell_s: mean seconds per cell.
        cell_bytes: mean bytes on disk per cell.
        free_bytes: free space on the sweep's disk.
    """

    states: Mapping[str, int]
    stale: Mapping[str, int]
    orphans: int
    left: Sequence[records.PlannedCell]
    known: int
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
    states = {cell.id: state_of(directory / cell.name) for cell in cells}
    has_plan = (directory / records.SWEEP).is_file()  # single cells have none, and no orphans
    here = [directory / cell.name for cell in cells if states[cell.id][0] == "done"]
    found = here or list(_of_the_same_work(directory, frozen))
    sample = _some(found)
    seconds = seconds_of(sample)
    return Estimate(
        states=Counter(state for state, _ in states.values()),
        stale=Counter(cause for _, cause in states.values() if cause),
        orphans=len(records.cell_directories(directory).keys() - states.keys()) if has_plan else 0,
        left=[cell for cell in cells if runs_again(directory / cell.name, cell.id, rerun)],
        known=len(seconds),
        elsewhere=not here,
        cell_s=statistics.fmean(seconds) if seconds else 0.0,
        cell_bytes=statistics.fmean([_size(path) for path in sample]) if sample else 0.0,
        free_bytes=shutil.disk_usage(_existing(directory)).free,
    )


def _some(found: Sequence[Path]) -> Sequence[Path]:
    return found[:: max(1, math.ceil(len(found) / SAMPLE))]


def seconds_of(found: Sequence[Path]) -> list[float]:
    """The seconds that finished cells took, of at most :data:`SAMPLE` of them."""
    clocks = [result["clocks"] for path in _some(found) if (result := records.read_result(path))]
    return [each.get("share_s", each["total_s"]) for each in clocks]  # a member of a stack cost a share of its time


def state_of(directory: Path) -> tuple[str, str | None]:
    """A planned cell's state, ``pending`` if it has no directory, and why it is stale if it is."""
    result = records.read_result(directory)
    if result is not None:
        cause = records.stale_cause(result)
        return "stale" if cause else "done", cause
    status = records.read_status(directory)
    return status.state if status and status.state != "done" else "pending", None


def _of_the_same_work(directory: Path, frozen: Mapping[str, records.FrozenCell]) -> Iterator[Path]:
    """Finished cells that are not planned, here or in other sweeps, but differ from planned ones in the seed alone."""
    wanted = {_work(cell.config) for cell in frozen.values()}
    alike = {_epochs(cell.config) for cell in frozen.values()}
    for other in sorted(directory.parent.glob(f"*/{records.CONFIGS}")):
        cells = records.cell_directories(other.parent)
        for identifier, there in records.read_configs(other.parent).items():
            path = cells.get(identifier)
            planned = other.parent == directory and identifier in frozen
            if path is None or planned or _epochs(there.config) not in alike:
                continue
            result = records.read_result(path) if _work(there.config) in wanted else None
            if result is not None and not records.is_stale(result):
                yield path


def _work(config: Mapping[str, Any]) -> str:
    return records.config_digest({key: value for key, value in config.items() if key != "seed"})


def _epochs(config: Mapping[str, Any]) -> str:
    """What two cells of the same work must have in common; cheaper to compare than all of it."""
    return str((config.get("trainer") or {}).get("max_epochs"))


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _existing(path: Path) -> Path:
    path = path.absolute()
    return path if path.exists() else _existing(path.parent)
