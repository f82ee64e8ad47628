"""Whatever happens to the command, no cell is lost and none runs twice."""

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from capsexp import records
from capsexp.analysis.write import write_report
from capsexp.records.temporary import PREFIX
from tests.conftest import results
from tests.processes.conftest import Sweep
from tests.processes.recipes import TOGETHER

MakeSweep = Callable[..., Sweep]

LONG_S = 120.0
"""For what comes when it comes, on however slow a machine."""

STOP_S = 30.0
"""10 s on a machine that has nothing else to do."""

EPOCHS = 40

TABLES = ("results.csv", "results.md", "results.tex", "cells.csv", "index.html")


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


def long_cells(cells: int, epochs: int) -> list[str]:
    return [
        f"+recipe.number=range(0,{cells})",
        f"trainer.max_epochs={epochs}",
        f"callbacks.peak.patience={epochs}",
        "callbacks.resume.min_interval_s=0.2",
    ]


def storm(sweep: MakeSweep, *more: str, cells: int, kills: int, epochs: int, latest_s: float) -> Sweep:
    """Kill the command at random moments, the last time when a cell has saved itself."""
    killed = sweep("Counted", *long_cells(cells, epochs), name="killed")
    moments = random.Random(0)
    for kill in range(1, kills + 1):
        before = len(killed.executions())
        command = killed.start(*more, CAPSEXP_TEST_MARKER=str(killed.counter))
        if kill == kills:
            wait_for_a_checkpoint(killed, command)
        else:  # a third of them come while the command starts, the others while cells run
            if moments.random() > 1 / 3:
                wait_for_more(killed, before, command)
            time.sleep(moments.uniform(0, latest_s))
        command.send_signal(signal.SIGKILL)
        told = command.communicate()[0]
        assert command.returncode == -signal.SIGKILL, f"it ended before it was killed: {told}"
        assert wait_until(lambda: not processes_of(str(killed.counter)), LONG_S)
        assert "running" not in killed.states()
    assert killed.states().get("done", 0) < cells
    return killed


def assert_nothing_changed(killed: Sweep, quiet: Sweep, cells: int) -> None:
    """No cell ran after it was finished, and the tables are those of a quiet run."""
    assert killed.states() == {"done": cells}
    assert not any(execution.was_finished for execution in killed.executions())
    assert len({execution.name for execution in killed.executions()}) == cells

    assert quiet.run_here() == 0
    assert Counter(execution.name for execution in quiet.executions()).most_common(1)[0][1] == 1
    first, second = results(killed.directory), results(quiet.directory)
    assert [{**body, "clocks": None} for body in first.values()] == [
        {**body, "clocks": None} for body in second.values()
    ]
    for each in (killed, quiet):
        plan = records.read_sweep(each.directory)
        assert plan is not None
        # The name and the time of the launch are what a report may differ in.
        same = records.Sweep("sweep", plan.axes, plan.cells, [], plan.report, {})
        records.write_sweep(each.directory, same)
        write_report(each.directory, each.folder / f"report-{each.name}")
    for table in TABLES:
        one, other = ((killed.folder / f"report-{name}" / table).read_bytes() for name in ("killed", "quiet"))
        assert one == other, table


def test_a_storm_of_kills_changes_nothing(sweep: MakeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    killed = storm(sweep, "hydra.launcher.max_cells=1", cells=3, kills=2, epochs=EPOCHS, latest_s=0.7)
    capsys.readouterr()
    assert killed.run_here() == 0
    assert "goes on from its checkpoint" in capsys.readouterr().out
    assert_nothing_changed(killed, sweep("Counted", *long_cells(3, EPOCHS), name="quiet"), 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_long_storm_of_kills_changes_nothing(sweep: MakeSweep) -> None:
    killed = storm(sweep, cells=40, kills=22, epochs=EPOCHS, latest_s=4.0)
    code, told = killed.run()
    assert code == 0, told
    assert_nothing_changed(killed, sweep("Counted", *long_cells(40, EPOCHS), name="quiet"), 40)


BOTH = {TOGETHER: "2"}
"""Neither of two commands does all the work before the other one has begun."""


def test_two_commands_share_the_cells_of_one_sweep_and_do_not_both_try_what_fails(sweep: MakeSweep) -> None:
    numbers = [*range(5), 10, 11]
    shared = sweep("Faulty", f"+recipe.number={','.join(map(str, numbers))}", "trainer.max_epochs=1")
    alone = "hydra.launcher.max_cells=1"
    commands = [shared.start(alone, **BOTH), shared.start(alone, **BOTH)]
    told = [command.communicate(timeout=280)[0] for command in commands]
    assert [command.returncode for command in commands] == [1, 1], told
    executions = shared.executions()
    assert len(executions) == len({execution.name for execution in executions}) == len(numbers)
    assert len({execution.pid for execution in executions}) == 2
    assert shared.states() == {"done": len(numbers) - 1, "failed": 1}
    # Given again, what failed is tried again, and nothing else.
    assert shared.run_here() == 1
    assert [execution.name[:9] for execution in shared.executions()[len(numbers) :]] == ["number-03"]


SIGNALS = {
    "one Ctrl-C": ([signal.SIGINT], 130),
    "SIGKILL": ([signal.SIGKILL], -signal.SIGKILL),
}


def test_ctrl_c_lets_a_single_cell_save_itself(sweep: MakeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    long = sweep("Counted", "trainer.max_epochs=100000", "callbacks.peak.patience=100000")
    ended = threading.Event()

    def press() -> None:
        if wait_until(lambda: len(long.executions()) == 1 or ended.is_set(), LONG_S):
            ended.wait(0.5)  # it may have begun its first epoch or not: both end the same
            if not ended.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    user = threading.Thread(target=press)
    user.start()
    try:
        assert long.run_here(multirun=False) == 130
    finally:
        ended.set()
        user.join()
    told = "".join(capsys.readouterr())
    assert "the cell saves itself at the end of its epoch" in told
    assert "Traceback" not in told
    assert long.states() == {"interrupted": 1}
    assert any(long.directory.rglob("resume-v*.ckpt"))


@pytest.mark.parametrize("name", SIGNALS)  # the engine's tests end a sweep by SIGTERM
def test_stop_means_stop(name: str, sweep: MakeSweep) -> None:
    """Weights & Biases' own process is gone too; one Ctrl-C leaves checkpoints to go on from.

    The folders that wandb makes in TMPDIR are gone, or go with the next command.
    """
    signals, code = SIGNALS[name]
    long = sweep(
        "Counted",
        "+recipe.number=0,1,2",
        "trainer.max_epochs=100000",
        "callbacks.peak.patience=100000",
        "logger.wandb.mode=offline",
        "hydra.launcher.max_cells=1",
    )
    another = "3-1-unix-/another/run/socket"  # what a program leaves that has a run of its own
    temporary = long.folder / "tmp"
    temporary.mkdir()
    command = long.start(CAPSEXP_TEST_MARKER=str(long.counter), WANDB_SERVICE=another, TMPDIR=str(temporary))
    assert wait_until(lambda: len(long.executions()) == 1 and any(long.directory.rglob("run-*.wandb")), LONG_S)
    time.sleep(0.5)
    for number in signals:
        os.kill(command.pid, number)
        time.sleep(0.02)
    since = time.monotonic()
    told = command.communicate(timeout=LONG_S)[0]
    assert wait_until(lambda: not processes_of(str(long.counter)), LONG_S)
    assert time.monotonic() - since < STOP_S
    assert command.returncode == code, told
    assert long.states() == {"interrupted": 1}
    assert len(long.executions()) == 1
    assert any(long.directory.rglob("resume-v*.ckpt")) == (name == "one Ctrl-C")
    left = list(temporary.iterdir())
    assert all(path.name.startswith(PREFIX) for path in left)
    assert bool(left) == (name == "SIGKILL")
    records.clear_folders(temporary)
    assert list(temporary.iterdir()) == []
