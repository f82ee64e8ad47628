"""A sweep in its own process, for tests that stop it: ``python -m tests.engine.driver FOLDER COUNT FAULT [SIZE]``."""

import json
import sys
from pathlib import Path

from capsexp.engine.local import LocalEngine
from capsexp.engine.options import Layout, Options
from capsexp.engine.progress import Progress
from tests.engine import work
from tests.engine.sweeps import cells_in

AT_ONCE = 2


def main(folder: Path, count: int, fault: str, size: int = 1) -> None:
    cells = cells_in(folder, count, faults=[fault] * 9, seconds=60 if fault == "none" else 0)
    shown = Progress(count, 0, AT_ONCE)
    groups = [tuple(cells[first : first + size]) for first in range(0, count, size)]
    engine = LocalEngine(Options(retries=0), Layout((None,), 1, AT_ONCE, AT_ONCE), work.FakeWork())
    summary = engine.run(groups, shown)
    told = {"stopped": summary.stopped, "left": [cell.id for cell in summary.left], "ended": sorted(summary.outcomes)}
    (folder / "summary.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
