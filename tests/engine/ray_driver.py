"""A sweep on a Ray cluster in a process of its own: ``python -m tests.engine.ray_driver FOLDER COUNT FAULT ADDR``."""

import json
import sys
from pathlib import Path

from capsexp.engine.options import Layout, Options
from capsexp.engine.progress import Progress
from capsexp.engine.ray import RayEngine
from tests.engine import work
from tests.engine.sweeps import cells_in


def main(folder: Path, count: int, fault: str, address: str) -> None:
    cells = cells_in(folder, count, faults=[fault] * 9)
    options, layout = Options(retries=1, engine="ray", address=address), Layout(("",), 1, None, 1)
    summary = RayEngine(options, layout, work.FakeWork()).run([(cell,) for cell in cells], Progress(count, 0, 1))
    told = {"stopped": summary.stopped, "left": [cell.id for cell in summary.left], "ended": sorted(summary.outcomes)}
    (folder / "summary.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
