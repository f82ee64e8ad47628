"""Sweeps as a user runs them: the real command, in a process of its own, with real worker processes."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from capsexp import cli, records
from tests.processes.recipes import COUNTER, counted

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Execution:
    """One line of the counter."""

    name: str
    pid: int
    was_finished: bool
    resident_bytes: int
    time: float


@dataclass
class Sweep:
    """A sweep's command and what it leaves.

    Attributes:
        folder: where the command is given.
        arguments: its overrides.
        counter: the file that every execution leaves a line in.
        name: the sweep's name.
        started: its commands' processes.
    """

    folder: Path
    arguments: list[str]
    counter: Path
    name: str = "sweep"
    started: "list[subprocess.Popen[str]]" = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return self.folder / "multirun" / self.name

    def start(self, *more: str, multirun: bool = True, **variables: str) -> "subprocess.Popen[str]":
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, COUNTER: str(self.counter), **variables}
        line = [sys.executable, "-m", "capsexp", *self.arguments, *more, *(["-m"] if multirun else [])]
        process = subprocess.Popen(
            line,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that a signal to it is not one to the tests
        )
        self.started.append(process)
        return process

    def run(self, *more: str, **variables: str) -> tuple[int, str]:
        """Its exit code and what it said."""
        process = self.start(*more, **variables)
        told = process.communicate(timeout=280)[0]
        return process.returncode, told

    def run_here(self, *more: str, multirun: bool = True) -> int:
        """The same work in this process, which has torch already; its exit code."""
        words = [*self.arguments, *more, "hydra/launcher=basic", *(["-m"] if multirun else [])]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(COUNTER, str(self.counter))
            return cli.main(words)

    def executions(self) -> list[Execution]:
        lines = [line.split() for line in counted(self.counter)]
        return [Execution(name, int(pid), done == "True", int(size), float(at)) for name, pid, done, size, at in lines]

    def statuses(self) -> dict[str, records.Status]:
        cells = records.cell_directories(self.directory).values()
        found = {cell.name: records.read_status(cell) for cell in cells}
        return {name: status for name, status in found.items() if status is not None}

    def states(self) -> dict[str, int]:
        states = [status.state for status in self.statuses().values()]
        return {state: states.count(state) for state in sorted(set(states))}


@pytest.fixture
def sweep(quick: list[str], in_tmp: Path) -> Iterator[Callable[..., Sweep]]:
    """``sweep("Faulty", "recipe.number=range(0,16)")``: a sweep of one of the recipes that misbehave."""
    made: list[Sweep] = []

    def make(recipe: str, *arguments: str, name: str = "sweep") -> Sweep:
        others = ("model.",) if any(word.startswith("model=") for word in arguments) else ()
        words = [word for word in quick if not word.startswith(("hydra/launcher", "sweep.name", *others))]
        target = [f"recipe._target_=tests.processes.recipes.{recipe}", "+recipe.number=0"]
        numbered = any(word.startswith("+recipe.number") for word in arguments)
        made.append(
            Sweep(
                in_tmp,
                [*words, *target[: 1 if numbered else 2], f"sweep.name={name}", *arguments],
                in_tmp / f"{name}.counter",
                name,
            )
        )
        return made[-1]

    yield make
    for process in [process for each in made for process in each.started]:
        process.kill()  # a test that failed may have left it
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
