"""Sweeps run one cell after the other and again as stacks, and what then differs between their files."""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from capsexp import cell as task
from capsexp import cli, records
from capsexp.cell import Cell, CellOutcome
from capsexp.stacking.grouping import Settings
from capsexp.stacking.scheduler import run

PLAIN = ("hydra/launcher=basic", "threads=1", "logger.wandb.mode=disabled", "trainer.accelerator=cpu")
DOUBLE = (*PLAIN, "trainer.precision=64-true", "callbacks.memory_check=null")


def alone(words: Sequence[str], name: str, code: int = 0) -> Path:
    """The folder of a sweep whose cells ran one after the other, below the present folder."""
    assert cli.main([*words, f"sweep.name={name}", "-m"]) == code
    return Path("multirun", name)


def cells_of(planned: Path, folder: Path) -> list[Cell]:
    """The cells of a planned sweep, to be run in another folder and with stages of its own."""
    sweep, frozen = records.read_sweep(planned), records.read_configs(planned)
    assert sweep is not None
    configs = {each.id: {**frozen[each.id].config} for each in sweep.cells}
    for config in configs.values():
        config["paths"] = {**config["paths"], "stages": str(folder.with_name(f".{folder.name}"))}
    return [Cell(folder / each.name, each.id, each.axes, configs[each.id], in_sweep=True) for each in sweep.cells]


def together(
    folder: Path, *planned: Path, settings: Settings | None = None, accelerator: str | None = None
) -> dict[str, CellOutcome]:
    """Run the cells of planned sweeps in stacks, in a folder of their own; how each ended, by its directory's name.

    Args:
        folder: where the cells go.
        planned: folders of the sweeps.
        settings: of the stacks.
        accelerator: the device of the trainings, if it is not that of the plan.
    """
    found: dict[str, CellOutcome] = {}

    def work(cell: Cell) -> CellOutcome:
        try:
            return task.run(cell)
        except KeyboardInterrupt:
            status = records.read_status(cell.directory)
            assert status is not None
            return CellOutcome(status, "interrupted")

    def ended(cell: Cell, how: CellOutcome) -> None:
        assert found.setdefault(cell.name, how) is how, "a cell ends once"

    cells = [cell for each in planned for cell in cells_of(each, folder)]
    for cell in cells if accelerator else []:
        cell.config["trainer"] = {**cell.config["trainer"], "accelerator": accelerator}
    run(cells, ended, settings or Settings("grouped", 1), work)
    return found


def differences(stacked: Path, *serial: Path, within: float = 1e-12) -> list[str]:
    """What differs by more between cells of a folder and those of others: results, epochs, best weights, arrays."""
    pairs = {status.parent.name: status.parent for folder in serial for status in folder.glob("*/status.json")}
    assert pairs.keys() == {status.parent.name for status in stacked.glob("*/status.json")}
    return [f"{name}: {line}" for name, cell in pairs.items() for line in _of_cells(cell, stacked / name, within)]


def _of_cells(one: Path, other: Path, within: float) -> Iterator[str]:
    first, second = (all_of(cell) for cell in (one, other))
    yield from unlike(first, second, within)


def all_of(cell: Path) -> dict[str, Any]:
    """What the files of a cell say, without clocks: status, result, epochs, best weights, arrays."""
    status = json.loads((cell / records.STATUS).read_text())
    found: dict[str, Any] = {"state": status["state"], "cause": status["cause"]}
    result = records.read_result(cell)
    if result is not None:
        result["environment"].pop("stack", None)
        found["result"] = {key: value for key, value in result.items() if key != "clocks"}
    if (cell / records.METRICS).is_file():
        with (cell / records.METRICS).open() as stream:
            rows = list(csv.DictReader(stream))
        found["epochs"] = [{key: float(value or "nan") for key, value in row.items()} for row in rows]
    if (cell / records.BEST_CHECKPOINT).is_file():
        found["best"] = torch.load(cell / records.BEST_CHECKPOINT, weights_only=True, map_location="cpu")
    if (cell / records.ARRAYS).is_file():
        with np.load(cell / records.ARRAYS) as arrays:
            found["arrays"] = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return found


def unlike(one: Any, other: Any, within: float, where: str = "") -> Iterator[str]:
    """A line for each place where two structures differ by more."""
    if isinstance(one, dict) and isinstance(other, dict):
        yield from (f"{where}/{key} is in one alone" for key in sorted(one.keys() ^ other.keys()))
        for key in one.keys() & other.keys():
            yield from unlike(one[key], other[key], within, f"{where}/{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for place, (mine, its) in enumerate(zip(one, other, strict=True)):
            yield from unlike(mine, its, within, f"{where}/{place}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same, (mine, its) = one.shape == other.shape and one.dtype == other.dtype, (one.cpu(), other.cpu())
        if not same or not torch.allclose(mine.double(), its.double(), rtol=0, atol=within, equal_nan=True):
            yield f"{where}: tensors differ by {(mine - its).abs().max().item() if same else 'their shapes'}"
    elif isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, rel_tol=0, abs_tol=within) and not (math.isnan(one) and math.isnan(other)):
            yield f"{where}: {one} and {other}"
    elif one != other:
        yield f"{where}: {one} and {other}"
