"""Fake sweeps on disk, written through ``records`` as real ones are."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from capsexp import records
from capsexp.analysis.write import write_report
from tests.conftest import plan

TIMINGS = {"timings.csv", "timings.md", "timings.tex"}
BLOCK: dict[str, Any] = {
    "title": "A <fake> sweep & more",
    "paper_data": "dhcd",
    "columns": ["test/acc", "params", "params_paper", "training.epochs"],
    "compare": [{"what": "best", "metric": "test/acc", "reduce": "max", "paper": 0.94}],
    "figures": [],
}


def body(cell: records.PlannedCell, accuracy: float | None, **changes: Any) -> dict[str, Any]:
    """A whole result; ``changes``: ``data``, ``select_on``, ``numerics``, ``seconds``, ``metrics``, ``environment``."""
    return {
        "id": cell.id,
        "name": "fake",
        "axes": cell.axes,
        "numerics": changes.get("numerics", records.NUMERICS_VERSION),
        "metrics": {"test/acc": accuracy, "test/loss": 0.25, "distance/conv1/min": accuracy}
        | changes.get("metrics", {}),
        "params": 12345,
        "params_paper": 11622,
        "training": {"epochs": 20, "peak_epoch": 14, "seed": 0, "select_on": changes.get("select_on", "val")},
        "data": {"name": changes.get("data", "digits"), "source": "embedded", "sha256": None, "generated": False,
                 "test_split": "seeded", "n_train": 10, "image_shape": [1, 28, 28]},
        "environment": {"torch": "2.13.0+cpu", "threads": 1} | changes.get("environment", {}),
        "clocks": {"total_s": changes.get("seconds", 4.25), "epoch_s": 0.5},
    }  # fmt: skip


def accuracy(cell: records.PlannedCell) -> float:
    """A number that differs from cell to cell and is the same every time."""
    return int(cell.id[:6], 16) / 2**24


def finish(root: Path, cell: records.PlannedCell, value: float | None, **changes: Any) -> Path:
    """Write a finished cell with its kernels."""
    directory = root / cell.name
    records.write_result(directory, body(cell, value, **changes))
    records.write_status(directory, records.Status("done", cell.id))
    kernels = np.random.default_rng(int(cell.id, 16)).normal(size=(6, 1, 7, 7)).astype(np.float32)
    np.savez(directory / records.ARRAYS, **{"kernels/conv1": kernels})
    return directory


def sweep(root: Path, axes: dict[str, list[Any]], block: dict[str, Any] | None = None) -> list[records.PlannedCell]:
    """Write a plan alone."""
    cells = plan(axes)
    records.write_sweep(
        root, records.Sweep("fake", axes, cells, ["experiment=fake"], BLOCK if block is None else block)
    )
    return cells


def finished(root: Path, axes: dict[str, list[Any]], block: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A sweep in which every cell is done."""
    for cell in sweep(root, axes, block):
        finish(root, cell, accuracy(cell), **changes)
    return root


def report(root: Path) -> Path:
    """Write the report from nothing, and return its folder."""
    shutil.rmtree(root / "report", ignore_errors=True)
    return write_report(root, root / "report")[0].parent


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a report."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rows(folder: Path, table: str) -> list[dict[str, str]]:
    """A CSV as dictionaries."""
    import csv

    with (folder / f"{table}.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
