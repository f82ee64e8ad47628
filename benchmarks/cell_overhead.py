"""Seconds per cell of all that is not training, over a sweep of cells of one step.

The sweep runs through the command, with Hydra's composing, status, lock, logging, Weights & Biases (offline), early
stopping, similarity, result and checkpoint.  From its time the cells' own fitting time is taken away; what is left is
divided by the number of cells.  The plain reference, in the same run, is an empty Hydra application swept as often.

    python benchmarks/cell_overhead.py [--cells 20]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
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
    parser.add_argument("--cells", type=int, default=20)
    cells = parser.parse_args().cells
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = timed(["-c", "import capsexp.build, wandb"], folder)
        axes = [f"seed=range({cells})", "-m", "logger.wandb.mode=offline"]
        swept = timed(["-m", "capsexp", *axes, "trainer.max_epochs=1", "+trainer.limit_train_batches=1"], folder)
        bodies = [json.loads(path.read_text())["body"] for path in folder.rglob("result.json")]
        assert len(bodies) == cells, f"{len(bodies)} of {cells} cells finished"
        training = sum(body["clocks"]["fit_s"] for body in bodies)
        (folder / "empty.py").write_text(EMPTY)
        empty = timed(["empty.py", "-m", f"+seed=range({cells})"], folder)
    overhead = (swept - training) / cells
    print(f"capsexp      {overhead:6.3f} s a cell that is not training, the start of Python and torch included")
    print(
        f"             {(swept - training - started) / cells:6.3f} s a cell without that start ({started:.1f} s, once)"
    )
    print(f"empty Hydra  {empty / cells:6.3f} s a cell")
    print(f"ratio        {overhead / (empty / cells):6.2f}")


def timed(arguments: list[str], folder: Path) -> float:
    """Seconds that a Python command takes."""
    environment = {**os.environ, "WANDB_SILENT": "true"}
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
