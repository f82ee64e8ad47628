"""Recipes that go wrong on purpose, and that count how often they are begun, outside the results."""

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

from capsexp import records
from capsexp.recipes.base import Factories, Outcome, Recipe
from capsexp.recipes.max_depth import MaxDepth
from capsexp.recipes.merge_walk import MergeWalk
from capsexp.recipes.prune_and_retrain import PruneAndRetrain
from capsexp.recipes.train import Train

COUNTER = "CAPSEXP_TEST_COUNTER"
"""Environment variable: the file that gets a line for every execution."""

FAULTS = {3: "raise", 5: "kill"}
SMALL_DISK = "CAPSEXP_TEST_SMALL_DISK"
"""Environment variable: from this cell on, its process can write no file of more than a few bytes."""

TOGETHER = "CAPSEXP_TEST_TOGETHER"
"""Environment variable: every cell waits until so many processes have begun one."""


class Counting(Recipe):
    """Leaves a line with the cell's name, its process, whether it was finished before, and the memory used."""

    def __init__(self, number: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.number = number

    def run(self, factories: Factories) -> Outcome:
        finished = records.read_result(factories.directory) is not None
        line = f"{factories.directory.name} {os.getpid()} {finished} {resident_bytes()} {time.time()}\n"
        with Path(os.environ[COUNTER]).open("a") as stream:
            stream.write(line)  # one short write: lines of several processes do not mix
        wait_for_others(int(os.environ.get(TOGETHER, "1")))
        self.misbehave()
        return super().run(factories)

    def misbehave(self) -> None:
        """Subclasses do."""


class Counted(Counting, Train):
    """Trains."""


class CountedPrune(Counting, PruneAndRetrain):
    """Trains, prunes and trains again."""


class CountedDepth(Counting, MaxDepth):
    """Looks for the largest depth."""


class CountedWalk(Counting, MergeWalk):
    """Walks from a trained network down to a small one."""


class Faulty(Counted):
    """One of the cells raises, and one kills its process."""

    def misbehave(self) -> None:
        fault = FAULTS.get(self.number)
        if fault == "raise":
            raise RuntimeError("no such luck")
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)


class SmallDisk(Counted):
    """From one cell on there is no space left."""

    def misbehave(self) -> None:
        if self.number >= int(os.environ.get(SMALL_DISK, "1000")):
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class EditsYaml(Faulty):
    """Changes the YAML file of the model while the sweep runs; some cells go wrong then."""

    def misbehave(self) -> None:
        path = Path(os.environ["CAPSEXP_TEST_YAML"])
        whole = path.with_name(f"{path.name}.{os.getpid()}")  # other jobs read the file meanwhile
        whole.write_text(path.read_text().replace("c1: 6", "c1: 5"))
        whole.replace(path)
        super().misbehave()


def counted(path: Path) -> list[str]:
    """The lines of the counter that are whole; the last one may be half there."""
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def wait_for_others(count: int) -> None:
    """Until the counter names so many processes; commands that are given at once may begin seconds apart."""
    deadline = time.monotonic() + 200
    while len({line.split()[1] for line in counted(Path(os.environ[COUNTER]))}) < count:
        if time.monotonic() > deadline:
            raise TimeoutError("the others have not begun")
        time.sleep(0.05)


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
