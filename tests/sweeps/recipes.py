"""Recipes that go wrong on purpose, and that count how often they are begun, outside the results."""

import os
import resource
import signal
import time
from pathlib import Path

import torch

from capsexp import records
from capsexp.recipes.base import Factories, Outcome
from capsexp.recipes.train import Train

COUNTER = "CAPSEXP_TEST_COUNTER"
"""Environment variable: the file that gets a line for every execution."""

FAULTS = {3: "raise", 5: "kill", 7: "hang", 9: "oom"}
SMALL_DISK = "CAPSEXP_TEST_SMALL_DISK"
"""Environment variable: from this cell on, its process can write no file of more than a few bytes."""


class Counted(Train):
    """Trains; leaves a line with the cell's name, its process, whether it was finished before, and the memory used."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def run(self, factories: Factories) -> Outcome:
        finished = records.read_result(factories.directory) is not None
        line = f"{factories.directory.name} {os.getpid()} {finished} {resident_bytes()} {time.time()}\n"
        with Path(os.environ[COUNTER]).open("a") as stream:
            stream.write(line)  # one short write: lines of several processes do not mix
        self.misbehave()
        return super().run(factories)

    def misbehave(self) -> None:
        """Subclasses do."""


class Faulty(Counted):
    """One of the cells raises, one kills its process, one hangs, one has not enough memory."""

    def misbehave(self) -> None:
        fault = FAULTS.get(self.number)
        if fault == "raise":
            raise RuntimeError("no such luck")
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hang":
            time.sleep(3600)
        if fault == "oom":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 TiB")


class SmallDisk(Counted):
    """From one cell on there is no space left."""

    def misbehave(self) -> None:
        if self.number >= int(os.environ.get(SMALL_DISK, "1000")):
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class EditsYaml(Counted):
    """Changes the YAML file of the model while the sweep runs."""

    def misbehave(self) -> None:
        path = Path(os.environ["CAPSEXP_TEST_YAML"])
        path.write_text(path.read_text().replace("c1: 6", "c1: 5"))


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
