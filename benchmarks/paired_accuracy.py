"""A test whether cells that were trained in stacks differ from the same cells trained alone more than two seeds do.

    python benchmarks/paired_accuracy.py multirun/stacked multirun/cnn_prune multirun/other_seed

All three are sweeps of one grid: in stacks, alone, and alone with another seed; each is given by its
folder, or by a ``results.csv`` of its report.  Cells are paired by their swept values.  In float32 the rounding of a
stack differs from that of a cell alone, and training amplifies differences of the last digit.  So the test is whether
the mean difference is zero, and how the differences compare with those between two seeds.
"""

import argparse
import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from capsexp import records

METRIC = "test/acc"


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("stacked", "alone", "other_seed"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    stacked, alone, other = (accuracies(folder) for folder in (given.stacked, given.alone, given.other_seed))
    print("| test accuracy | cells | mean difference | 95 % interval | standard deviation | largest | equal |")
    print("|---|---|---|---|---|---|---|")
    print(row("in stacks - alone, same seed", stacked, alone))
    print(row("another seed - the first, both alone", other, alone))


def accuracies(folder: Path) -> dict[str, float]:
    """The test accuracy of every finished cell, by its swept sizes."""
    if folder.suffix == ".csv":
        with folder.open(newline="") as stream:
            return {_sizes(row): float(row[METRIC]) for row in csv.DictReader(stream) if row[METRIC]}
    found = {}
    for cell in records.cell_directories(folder).values():
        result = records.read_result(cell)
        if result is not None:
            found[_sizes(result["axes"])] = result["metrics"][METRIC]
    return found


def _sizes(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={values[key]}" for key in sorted(values) if key.startswith("model."))


def row(name: str, one: Mapping[str, float], other: Mapping[str, float]) -> str:
    """The differences of the cells that both have, as a line of a table."""
    differences = [one[key] - other[key] for key in one if key in other]
    mean, half = interval(differences)
    cells = [len(differences), f"{mean:+.4f}", f"{mean - half:+.4f} to {mean + half:+.4f}"]
    cells += [f"{statistics.stdev(differences):.4f}", f"{max(map(abs, differences)):.4f}", differences.count(0)]
    return f"| {name} | {' | '.join(map(str, cells))} |"


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Their mean, and half of its 95 % interval by the normal distribution."""
    return statistics.mean(differences), 1.96 * statistics.stdev(differences) / math.sqrt(len(differences))


if __name__ == "__main__":
    main()
