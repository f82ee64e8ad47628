"""However a sweep is stopped, no process stays behind and no cell claims to run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from capsexp import records
from capsexp.cell import Cell
from capsexp.engine.options import Layout, Options
from tests.engine.sweeps import Execution, Heard, cells_in, executions, run_sweep, status_of, wait_until

ROOT = Path(__file__).parents[2]
MARK = "ENGINE_STOP_TEST"
GRACE_S = 30.0  # 10 s on a machine that has nothing else to do
LONG_S = 120.0  # for what comes when it comes, on however slow a machine
COUNT = 5

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


class Sweep:
    """A sweep of fake cells in a process of its own."""

    def __init__(self, folder: Path, fault: str, *, nohup: bool = False, size: int = 1) -> None:
        self.folder, self.mark = folder, uuid.uuid4().hex
        line = [sys.executable, "-m", "tests.engine.driver", str(folder), str(COUNT), fault, str(size)]
        with (folder / "printed").open("w") as printed:
            self.process = subprocess.Popen(
                ["nohup", *line] if nohup else line,
                cwd=ROOT,
                env={**os.environ, MARK: self.mark},
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def printed(self) -> str:
        return (self.folder / "printed").read_text()

    def alive(self) -> list[int]:
        """Every process of the sweep that lives, workers of a dead parent too."""
        needle, found = f"{MARK}={self.mark}".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if needle in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def wait_for_two(self, name: str) -> list[Execution]:
        """Wait until two cells are in the middle of their work."""

        def there() -> bool:
            assert self.process.poll() is None, self.printed()
            begun = len(executions(self.folder)) == 2
            return begun and len(list(self.folder.glob(f"cell-*/{name}"))) == 2

        wait_until(there, LONG_S)
        return executions(self.folder)

    def over(self) -> str:
        """Wait until nothing of it lives; gives what was printed."""
        self.process.wait(GRACE_S)
        wait_until(lambda: not self.alive(), GRACE_S)
        return self.printed()

    def summary(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return told

    def states(self) -> list[str | None]:
        found = (records.read_status(cell.directory) for cell in cells_in(self.folder, COUNT))
        return [status and status.state for status in found]


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    begun: list[Sweep] = []

    def begin(fault: str, **how: Any) -> Sweep:
        begun.append(Sweep(tmp_path, fault, **how))
        return begun[-1]

    yield begin
    for each in begun:
        for pid in each.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        each.process.wait()


def test_ctrl_c_lets_running_cells_save_and_starts_no_more(sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    """The terminal sends it to the workers too, and they do not mind."""
    running = sweep("obey")
    running.wait_for_two("status.json")
    os.killpg(running.process.pid, signal.SIGINT)
    printed = running.over()
    cells = cells_in(tmp_path, COUNT)
    assert [(cell.directory / "saved").exists() for cell in cells] == [True, True, False, False, False]
    assert running.states() == ["interrupted", "interrupted", None, None, None]
    assert [status_of(cell).cause for cell in cells[:2]] == ["stopped by the user"] * 2
    left = [cell.id for cell in cells[2:]]
    assert running.summary() == {"stopped": True, "left": left, "ended": [cell.id for cell in cells[:2]]}
    assert len(executions(tmp_path)) == 2
    assert "stopping: 2 running cells save themselves; Ctrl-C again ends them at once" in printed.splitlines()
    assert "Traceback" not in printed


def test_ctrl_c_lets_the_cells_of_stacks_save(sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    """Those that have not begun by then too: they are their worker's."""
    running = sweep("obey", size=2)
    running.wait_for_two("status.json")
    os.killpg(running.process.pid, signal.SIGINT)
    printed = running.over()
    cells = cells_in(tmp_path, COUNT)
    assert [(cell.directory / "saved").exists() for cell in cells] == [True, True, True, True, False]
    assert running.states() == ["interrupted"] * 4 + [None]
    told = {"stopped": True, "left": [cells[4].id], "ended": [cell.id for cell in cells[:4]]}
    assert running.summary() == told
    assert "stopping: 4 running cells save themselves; Ctrl-C again ends them at once" in printed.splitlines()
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    "numbers", [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP], [signal.SIGKILL]]
)
def test_cells_that_ignore_everything_are_ended(
    sweep: Callable[..., Sweep], tmp_path: Path, numbers: list[signal.Signals]
) -> None:
    running = sweep("deaf")
    running.wait_for_two("deaf")
    assert len(running.alive()) >= 3
    for count, number in enumerate(numbers, start=1):
        running.process.send_signal(number)
        if count < len(numbers):
            wait_until(lambda: "stopping" in running.printed(), LONG_S)
    running.over()
    assert running.states() == ["interrupted", "interrupted", None, None, None]
    if numbers != [signal.SIGKILL]:
        cells = cells_in(tmp_path, COUNT)
        told = running.summary()
        assert told["stopped"]
        assert told["left"] == [cell.id for cell in cells[2:]]
        assert [status_of(cell).cause for cell in cells[:2]] == ["stopped by the user"] * 2


@pytest.mark.parametrize("retries", [0, 1])
def test_a_worker_that_was_ended_by_the_same_signal_has_not_failed(tmp_path: Path, retries: int) -> None:
    """The signal comes while the engine starts a cell, and the worker's death is known before the engine looks."""
    cells = cells_in(tmp_path, 4)
    cells[0].config["faults"] = ["hang"]

    class Hit(Heard):
        def started(self, cell: Cell, where: str) -> None:
            super().started(cell, where)
            if cell is cells[2]:
                wait_until(lambda: cells[0].id in {each.id for each in executions(tmp_path)}, LONG_S)
                (hanging,) = (each for each in executions(tmp_path) if each.id == cells[0].id)
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(hanging.pid, signal.SIGTERM)
                time.sleep(0.4)  # pebble looks every tenth of a second

    summary = run_sweep(cells, Layout((None,), 1, 2, 2), Hit(), Options(retries=retries))
    assert summary.stopped
    assert (status_of(cells[0]).state, status_of(cells[0]).cause) == ("interrupted", "stopped by the user")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_for_the_whole_group_interrupts_and_fails_nothing(sweep: Callable[..., Sweep], number: int) -> None:
    """A closed terminal, or a cluster's scheduler, signals the workers too."""
    running = sweep("hang")
    running.wait_for_two("status.json")
    os.killpg(running.process.pid, number)
    running.over()
    assert running.states() == ["interrupted", "interrupted", None, None, None]
    assert running.summary()["stopped"]


def test_ctrl_c_while_workers_start_fails_nothing(sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    running = sweep("obey")
    wait_until(lambda: len(running.alive()) >= 4, LONG_S)  # the sweep, the workers, what multiprocessing itself needs
    os.killpg(running.process.pid, signal.SIGINT)
    printed = running.over()
    assert running.summary()["stopped"]
    assert "Traceback" not in printed
    assert {"failed", "running"}.isdisjoint(running.states())


def test_a_hangup_that_is_ignored_stays_ignored(sweep: Callable[..., Sweep]) -> None:
    """Which is what nohup asks for."""
    running = sweep("obey", nohup=True)
    running.wait_for_two("status.json")
    os.killpg(running.process.pid, signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(0.6)
    assert running.states()[:2] == ["running", "running"]
    running.process.send_signal(signal.SIGINT)
    running.over()
    assert running.summary()["stopped"]


def test_a_zombie_does_not_count_as_a_running_cell(tmp_path: Path) -> None:
    """Where nobody buries orphans, as in some containers, a killed worker keeps its number."""
    (cell,) = cells_in(tmp_path, 1)
    cell.directory.mkdir()
    script = (
        "import sys; from pathlib import Path; from capsexp import records;"
        "records.write_status(Path(sys.argv[1]), records.Status('running', '0' * 10))"
    )
    dead = subprocess.Popen([sys.executable, "-c", script, str(cell.directory)])
    wait_until(lambda: Path(f"/proc/{dead.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z", LONG_S)
    assert status_of(cell).state == "interrupted"
    dead.wait()
