"""Sweeps whose command is killed again and again, and what must not differ from a quiet one afterwards."""

import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from capsexp import records
from tests.cell_files import weights_of
from tests.conftest import results
from tests.processes.conftest import Sweep

LONG_S = 120.0
"""For what comes when it comes, on however slow a machine."""

TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}|resume-v.*\.ckpt|\.restore-.*")
"""Names of files that nothing needs after the end of a cell."""

ROUNDING = {"rel": 1e-3, "abs": 1e-4}
"""Float32 sums of stacks of other members are rounded in another order, in every step."""


def processes_of(marker: str) -> list[int]:
    """Processes that carry the marker in their environment, as every child of a command does."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            carries = marker.encode() in path.read_bytes()
        except OSError:
            continue
        if carries:
            found.append(int(path.parent.name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def wait_for_more(sweep: Sweep, before: int, command: "subprocess.Popen[str]") -> None:
    """Wait until another cell is begun, or the command has ended."""
    wait_until(lambda: len(sweep.executions()) > before or command.poll() is not None, LONG_S)


def wait_for_a_checkpoint(sweep: Sweep, command: "subprocess.Popen[str]") -> None:
    """Wait until a cell has saved itself, or the command has ended."""
    wait_until(lambda: any(sweep.directory.rglob("resume-v*.ckpt")) or command.poll() is not None, LONG_S)


class Storm:
    """Kills of a sweep's command at random moments.

    Attributes:
        killed: the sweep.
        kills: how often its command was killed.
        seen: of each finished cell and stage the state of its result file when it was first seen.
    """

    def __init__(self, killed: Sweep, *more: str) -> None:
        self.killed, self.more, self.kills = killed, more, 0
        self.seen: dict[Path, tuple[int, int]] = {}
        self.temporary = killed.folder / f"tmp-{killed.name}"
        self.temporary.mkdir()
        self._moments = random.Random(0)

    def blow(self, kills: int, latest_s: float) -> None:
        """Kill the command so often; a third of the kills come while it starts, the others while cells run."""
        for _ in range(kills):
            before, starts = len(self.killed.executions()), self._moments.random() < 1 / 3
            until = (lambda _: None) if starts else partial(wait_for_more, self.killed, before)
            if not self._kill(until, latest_s):
                return

    def blow_when_saved(self) -> None:
        """Kill the command once a cell has saved itself."""
        assert self._kill(partial(wait_for_a_checkpoint, self.killed), 0), "it ended before it was killed"

    def _kill(self, until: "Callable[[subprocess.Popen[str]], None]", latest_s: float) -> bool:
        """Kill the command once; False if it was faster."""
        command = self.killed.start(*self.more, CAPSEXP_TEST_MARKER=self._marker, TMPDIR=str(self.temporary))
        until(command)
        time.sleep(self._moments.uniform(0, latest_s))
        command.send_signal(signal.SIGKILL)
        told = command.communicate()[0]
        assert wait_until(lambda: not processes_of(self._marker), LONG_S)
        assert "running" not in self.killed.states()
        if command.returncode != -signal.SIGKILL:
            assert command.returncode == 0, told
            return False
        self.kills += 1
        self._look()
        return True

    def complete(self) -> None:
        """Give the command once more, and check that it has made nothing anew and left nothing temporary."""
        code, told = self.killed.run(*self.more, TMPDIR=str(self.temporary))
        assert code == 0, told
        self._look()
        assert not any(execution.was_finished for execution in self.killed.executions())
        assert list(self.temporary.iterdir()) == []
        left = [path for path in (self.killed.folder / "multirun").rglob("*") if TEMPORARY.fullmatch(path.name)]
        assert left == []

    def _look(self) -> None:
        """Every finished cell and stage still has the very file that it was first seen with."""
        multirun = self.killed.folder / "multirun"
        for path in [*multirun.rglob(records.RESULT), *multirun.rglob(records.STAGE)]:
            found = path.stat()
            assert self.seen.setdefault(path, (found.st_ino, found.st_mtime_ns)) == (found.st_ino, found.st_mtime_ns)

    @property
    def _marker(self) -> str:
        return f"{self.killed.counter}-{self.killed.name}"


def assert_same(killed: Sweep, quiet: Sweep, *, rounded: bool) -> None:
    """The results, tables, arrays and weights of two sweeps are the same, but for times and rounding."""
    first, second = results(killed.directory), results(quiet.directory)
    assert first.keys() == second.keys()
    for name in first:
        one, other = killed.directory / name, quiet.directory / name
        weights, others = weights_of(one), weights_of(other)
        assert weights.keys() == others.keys()
        if rounded:
            assert first[name]["training"] == second[name]["training"]
            assert first[name]["metrics"] == pytest.approx(second[name]["metrics"], **ROUNDING)
            assert all(torch.allclose(weights[key], others[key], rtol=1e-3, atol=1e-4) for key in weights)
            continue
        assert _timeless(first[name]) == _timeless(second[name])
        assert all(torch.equal(weights[key], others[key]) for key in weights)
        for file in (records.METRICS, records.ARRAYS):
            assert (one / file).read_bytes() == (other / file).read_bytes(), file


def _timeless(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "clocks": None}


def forget_stages(sweep: Sweep) -> None:
    """Remove the stages, so that another sweep beside this one trains its own."""
    shutil.rmtree(sweep.folder / "multirun" / ".stages", ignore_errors=True)
