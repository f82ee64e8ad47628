"""The overhead of a sweep: the time before its first cell, and seconds per cell besides the training itself.

225 cells of one step run through the command, with the plan, statuses, locks, logging, Weights & Biases (offline),
early stopping, similarity, results and checkpoints, several at once.  The time of a worker on a cell is that between
two results of its process, minus the fitting time of the cell.  The time before the first cell (Python, the plan, the
imports of the workers) is given separately, since it does not grow with the number of cells.  The plain reference, in
the same run, is an empty Hydra application with as many jobs.

    python benchmarks/cell_overhead.py [--cells 225]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

EMPTY = """
import hydra
@hydra.main(version_base="1.3", config_path=None)
def main(config):
    pass
if __name__ == "__main__":
    main()
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=225)
    cells = parser.parse_args().cells
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        axes = [f"seed=range({cells})", "-m", "logger.wandb.mode=offline", "sweep.name=empty"]
        begun = time.time()
        swept = timed(["-m", "capsexp", *axes, "trainer.max_epochs=1", "+trainer.limit_train_batches=1"], folder)
        statuses, bodies = read(folder, "status.json"), read(folder, "result.json")
        assert len(bodies) == cells, f"{len(bodies)} of {cells} cells finished"
        (folder / "empty.py").write_text(EMPTY)
        empty = timed(["empty.py", "-m", f"+seed=range({cells})"], folder)
    training = {body["body"]["id"]: body["body"]["clocks"]["fit_s"] for body in bodies}
    overhead = between_cells(statuses, training)
    workers = len({status["pid"] for status in statuses})
    print(f"first cell   {min(status['started'] for status in statuses) - begun:6.2f} s after the command was given")
    print(f"capsexp      {statistics.fmean(overhead):6.3f} s a cell over its training, of a worker's time")
    print(f"             {statistics.median(overhead):6.3f} s their median ({workers} workers at once)")
    print(f"             {swept / cells:6.3f} s a cell of the whole command's time, training and start included")
    print(f"empty Hydra  {empty / cells:6.3f} s a cell of the whole command's time")
    print(f"ratio        {swept / empty:6.2f} of the two commands' times")


def between_cells(statuses: list[dict[str, float]], training: dict[str, float]) -> list[float]:
    """Seconds of a worker for each of its cells but the first, from one result to the next, without the fitting."""
    by_worker = defaultdict(list)
    for status in statuses:
        by_worker[status["pid"]].append((status["updated"], status["id"]))
    return [
        end - before - training[str(cell)]
        for ends in by_worker.values()
        for (before, _), (end, cell) in pairwise(sorted(ends))
    ]


def read(folder: Path, name: str) -> list[dict]:  # type: ignore[type-arg]
    """The files of this name of all cells."""
    return [json.loads(path.read_text()) for path in folder.rglob(name)]


def timed(arguments: list[str], folder: Path) -> float:
    """Seconds that a Python command takes."""
    environment = {**os.environ, "WANDB_SILENT": "true"}
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
