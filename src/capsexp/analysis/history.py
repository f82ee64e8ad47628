"""The values that a training logged at each epoch, from its ``metrics.csv``."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from capsexp import records
from capsexp.analysis.arrays import ArrayError
from capsexp.analysis.figures.style import Grid


def read_history(directory: Path | None, metrics: Sequence[str]) -> dict[str, Grid]:
    """Those of the metrics that a cell has, of every epoch, from its ``metrics.csv``; a missing number is NaN.

    Raises:
        ArrayError: there is no such file, it is damaged, or it has none of the metrics.
    """
    directory = directory or Path()
    if (directory / records.METRICS).is_file() and records.is_damaged(directory, records.METRICS):
        raise ArrayError(f"{records.METRICS} is damaged: its checksum does not match")
    try:
        with (directory / records.METRICS).open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise ArrayError(f"no readable {records.METRICS}") from error
    found = [metric for metric in metrics if any(row.get(metric) for row in rows)]
    if not found:
        raise ArrayError(f"no {' or '.join(metrics)} in {records.METRICS}")
    return {metric: np.array([_number(row.get(metric)) for row in rows]) for metric in found}


def _number(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
