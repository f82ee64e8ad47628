"""The speed of a sweep with concurrent cells, relative to one cell at a time that has all cores.

Both ways train the same cells of the CNN study on digits; the order is reversed in every second round, since the
speed of a machine may change meanwhile.  The start of Python, torch and the workers counts for both.

    python benchmarks/sweep_speed.py [--widths 16,9,2] [--epochs 30] [--rounds 2]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CORES = len(os.sched_getaffinity(0))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="16,9,2")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    grid = [f"model.c2={given.widths}", f"model.c3={given.widths}", f"trainer.max_epochs={given.epochs}"]
    ways = {
        "concurrent": [],
        "one at a time": ["hydra.launcher.max_cells=1", f"hydra.launcher.cpus_per_cell={CORES}"],
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(given.rounds):
        for way in list(ways)[:: 1 if number % 2 else -1]:
            seconds[way].append(timed([*grid, *ways[way]]))
            print(f"  {way:18} {seconds[way][-1]:7.1f} s", flush=True)
    fast, slow = (statistics.median(seconds[way]) for way in ways)
    print(f"{CORES} cores: {fast:.1f} s concurrent, {slow:.1f} s one at a time; ratio {slow / fast:.2f}")


def timed(words: list[str]) -> float:
    """Seconds of a sweep of these cells."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "capsexp", "+experiment=cnn_prune", *words, "logger.wandb.mode=disabled", "-m"]
        started = time.perf_counter()
        subprocess.run(line, cwd=Path(folder), check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
