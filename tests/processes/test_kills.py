"""Whatever happens to the command, no cell is lost and none runs twice."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from capsexp import records
from capsexp.analysis.write import write_report
from capsexp.records.temporary import PREFIX
from tests.conftest import results
from tests.processes.conftest import Sweep
from tests.processes.recipes import TOGETHER
from tests.processes.storms import LONG_S, Storm, assert_same, forget_stages, processes_of, wait_until

MakeSweep = Callable[..., Sweep]

STOP_S = 30.0
"""10 s on a machine that has nothing else to do."""

EPOCHS = 40
WANDB = "logger.wandb.mode=offline"

TABLES = ("results.csv", "results.md", "results.tex", "cells.csv", "index.html")


def long_fits(epochs: int) -> list[str]:
    return [
        f"trainer.max_epochs={epochs}",
        f"callbacks.peak.patience={epochs}",
        "callbacks.resume.min_interval_s=0.2",
    ]


def long_cells(cells: int, epochs: int) -> list[str]:
    return [f"+recipe.number=range(0,{cells})", *long_fits(epochs)]


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
    killed = sweep("Counted", *long_cells(3, EPOCHS), name="killed")
    storm = Storm(killed, "hydra.launcher.max_cells=1", WANDB)
    storm.blow(1, latest_s=0.7)
    storm.blow_when_saved()
    assert killed.states().get("done", 0) < 3
    capsys.readouterr()
    assert killed.run_here() == 0
    assert "goes on from its checkpoint" in capsys.readouterr().out
    assert_nothing_changed(killed, sweep("Counted", *long_cells(3, EPOCHS), name="quiet"), 3)


DEEP = ["model=deep_capsnet", "model.capsules=2", "model.dim=4", "model.depth=1", "model.dim_class=4"]
PRUNE = [*DEEP, "recipe=prune_and_retrain", "recipe.correlation_weight=0.1", "pruning.ratio=0.25,0.5", "seed=0,1"]
WALK = [
    *("recipe=merge_walk", "recipe.steps=20", "recipe.mode=merge,remove,reinit", "pruning=cosine"),
    *("model.c1=3", "model.c2=5", "model.c3=5", "seed=0,1,2"),
]
DEPTH = [*DEEP, "recipe=max_depth", "recipe.limit=3", "callbacks.broken.last=2", "seed=range(0,6)"]

STORMS: dict[str, tuple[str, list[str], list[str]]] = {
    "capsexp": ("Counted", long_cells(12, 100), []),
    "basic": ("Counted", long_cells(20, EPOCHS), ["hydra/launcher=basic", WANDB]),
    "auto": ("Counted", long_cells(12, 100), ["hydra/launcher=auto"]),
    "stacked": ("Counted", long_cells(8, 300), ["hydra/launcher=stacked", WANDB]),
    "prune_and_retrain": ("CountedPrune", [*PRUNE, *long_fits(20)], []),
    "merge_walk": ("CountedWalk", [*WALK, *long_fits(10)], []),
    "max_depth": ("CountedDepth", [*DEPTH, *long_fits(20)], []),
}
"""The recipe that counts its executions, the sweep's overrides, and those of the command that is killed."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", STORMS)
def test_a_long_storm_of_kills_changes_nothing(
    name: str, sweep: MakeSweep, record_property: Callable[[str, object], None]
) -> None:
    recipe, words, more = STORMS[name]
    storm = Storm(sweep(recipe, *words, name="killed"), *more)
    storm.blow(20, latest_s=2.0)
    storm.complete()
    forget_stages(storm.killed)
    quiet = sweep(recipe, *words, name="quiet")
    assert quiet.run_here() == 0
    assert_same(storm.killed, quiet, rounded=name in ("auto", "stacked"))
    counts = {"kills": storm.kills, "executions": len(storm.killed.executions()), "cells": len(quiet.executions())}
    for key, count in counts.items():
        record_property(key, count)
    assert storm.kills == 20


BOTH = {TOGETHER: "2"}
"""Neither of two commands does all the work before the other one has begun."""


@pytest.mark.slow
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


# The engine's tests end a sweep by SIGTERM, the storm above by SIGKILL.
@pytest.mark.parametrize("name", ["one Ctrl-C", pytest.param("SIGKILL", marks=pytest.mark.slow)])
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
