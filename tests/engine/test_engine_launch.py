"""From a command to groups: which launcher makes stacks, what it says, and that it changes no cell."""

import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from capsexp import hardware, plan, records
from capsexp.engine.base import Group, Listener, Summary
from capsexp.engine.options import Layout, Options
from capsexp.engine.worker import CellWork
from capsexp.stacking.grouping import Settings
from capsexp.sweep import run as sweep_run

Run = Callable[..., int]
GRID = ["model.c2=2,3,4", "model.c3=2,3,4", "-m"]


class Engine:
    """Takes groups, and runs none."""

    made: list["Engine"]

    def __init__(self, options: Options, layout: Layout, work: CellWork) -> None:
        self.options, self.layout, self.settings, self.at_once = options, layout, work.settings, layout.most
        self.groups: list[Group] = []
        self.shown: Any = None
        Engine.made.append(self)

    def run(self, groups: Sequence[Group], listener: Listener) -> Summary:
        self.groups, self.shown = list(groups), listener
        return Summary(left=[cell for group in groups for cell in group])


@pytest.fixture(autouse=True)
def _a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores, no GPU, and an engine that does nothing."""
    Engine.made = []
    monkeypatch.setattr(sweep_run, "LocalEngine", Engine)
    has(monkeypatch, cores=2)


def has(monkeypatch: pytest.MonkeyPatch, cores: int, gpus: Sequence[str] = ()) -> None:
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    monkeypatch.setattr(hardware, "gpus", lambda: list(gpus))


@pytest.fixture
def words(quick: list[str]) -> list[str]:
    return [word for word in quick if not word.startswith("hydra/launcher")]


def sizes() -> list[int]:
    (engine,) = Engine.made
    return [len(group) for group in engine.groups]


ALIKE = "auto: stacked (9 cells can share a stack)"
LAUNCHERS = {
    ("capsexp",): ([1] * 9, ["running 9, 2 at once, 1 thread per cell"]),
    ("stacked",): ([4, 5], ["running 9 in 2 stacks, 2 at once, 1 thread per stack"]),
    ("stacked", "members=3", "max_cells=1"): ([3] * 3, ["running 9 in 3 stacks, 1 at once, 1 thread per stack"]),
    ("auto",): ([4, 5], [ALIKE, "running 9 in 2 stacks, 2 at once, 1 thread per stack"]),
}
"""Launchers with their options, the sizes of the groups that they make of nine cells, and what they say."""


def test_what_a_launcher_makes_of_a_sweep(
    run: Run, words: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its groups; the cells are the same under each."""
    plans = []
    for (name, *options), (expected, told) in LAUNCHERS.items():
        Engine.made = []
        capsys.readouterr()
        run(*words, *GRID, f"hydra/launcher={name}", *(f"hydra.launcher.{option}" for option in options))
        assert sizes() == expected
        assert capsys.readouterr().out.splitlines()[1 : 1 + len(told)] == told
        assert Engine.made[0].shown.at_once == sum(expected[: 1 if "max_cells=1" in options else 2])
        sweep = records.read_sweep(in_tmp / "multirun" / "adhoc")
        assert sweep is not None
        plans.append({(cell.id, cell.name) for cell in sweep.cells})
        assert {(cell.id, cell.name) for group in Engine.made[0].groups for cell in group} == plans[0]
    assert all(each == plans[0] for each in plans)


def test_how_many_cells_go_on_and_how_long_the_rest_will_take(
    run: Run, words: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*words, *GRID, "hydra/launcher=capsexp"]
    run(*command)
    sweep = records.read_sweep(in_tmp / "multirun" / "adhoc")
    assert sweep is not None
    first, second, third, *_ = (in_tmp / "multirun" / "adhoc" / cell.name for cell in sweep.cells)
    for directory, seconds in ((first, 100.0), (second, 140.0)):
        body = {"metrics": {}, "numerics": records.NUMERICS_VERSION, "clocks": {"total_s": seconds}}
        records.write_result(directory, body)
    (third / "checkpoints").mkdir(parents=True)
    (third / records.RESUME_CHECKPOINT).write_bytes(b"half")
    capsys.readouterr()
    run(*command)
    assert capsys.readouterr().out.splitlines()[:3] == [
        "multirun/adhoc: 9 cells, 2 already done, not run again, 1 goes on from a checkpoint",
        "running 7, 2 at once, 1 thread per cell",
        "about 7 min to go (mean of 2 finished cells: 120.0 s)",
    ]


def test_auto_stacks_on_a_gpu(
    run: Run, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, cores=16, gpus=["0"])
    run(*[word for word in words if word != "threads=1"], *GRID, "hydra/launcher=auto", "trainer.accelerator=auto")
    assert sizes() == [9]
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "auto: stacked (9 cells can share a stack on a GPU)",
        "running 9 in 1 stack on GPU 0, 1 at once, 16 threads per stack",
    ]


def test_settings_reach_the_engine_and_those_that_cannot_share_run_alone(
    run: Run, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["model.c2=2,3,4", "model.kernels=[3,3,3],[5,3,3]", "-m", "hydra/launcher=stacked"]
    run(*words, *grid, "hydra.launcher.form=unfold", "hydra.launcher.buckets=2", "hydra.launcher.members=2")
    assert sizes() == [1, 2, 1, 2]
    assert Engine.made[0].settings == Settings("unfold", 2)
    kernels = [{tuple(cell.config["model"]["kernels"]) for cell in group} for group in Engine.made[0].groups]
    assert [len(each) for each in kernels] == [1] * 4
    assert "running 6, 4 of them in 2 stacks, 2 at once, 1 thread per stack" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        ("stacked", ["stacks: 2 of up to 5 cells, 2 at once", "time: not known beforehand for stacks"]),
        ("auto", [ALIKE, "stacks: 2 of up to 5 cells, 2 at once", "time: not known beforehand for stacks"]),
    ],
)
def test_the_plan_tells_of_stacks(
    words: list[str], capsys: pytest.CaptureFixture[str], launcher: str, expected: list[str]
) -> None:
    assert plan.main([*words, *GRID, f"hydra/launcher={launcher}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(("stacks:", "auto:", "time: not known beforehand"))] == expected


def test_a_cluster_has_its_own_engine(run: Run, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how many run together there, and stacks are cut by that."""

    class Cluster(Engine):
        def __init__(self, options: Options, layout: Layout, work: CellWork) -> None:
            super().__init__(options, layout, work)
            self.at_once = 3

    there: Any = types.ModuleType("capsexp.engine.ray")
    there.RayEngine = Cluster
    monkeypatch.setitem(sys.modules, "capsexp.engine.ray", there)
    ray = ["hydra.launcher.engine=ray", "hydra.launcher.address=head:6379"]
    run(*words, *GRID, "hydra/launcher=stacked", *ray)
    assert sizes() == [3, 3, 3]
    assert Engine.made[0].options.address == "head:6379"
    assert Engine.made[0].layout.most == 9


def test_nothing_left_needs_no_engine(run: Run, words: list[str], in_tmp: Path) -> None:
    run(*words, *GRID, "hydra/launcher=stacked")
    for cell in Engine.made[0].groups[0] + Engine.made[0].groups[1]:
        cell.directory.mkdir(parents=True)
        body = {"id": cell.id, "metrics": {"val/acc": 0.5}, "clocks": {"total_s": 1.0}, "axes": {}}
        records.write_result(cell.directory, {**body, "numerics": records.NUMERICS_VERSION})
    assert run(*words, *GRID, "hydra/launcher=stacked") == 0
    assert len(Engine.made) == 1


def test_an_address_without_a_cluster_is_refused(
    run: Run, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, *GRID, "hydra/launcher=stacked", "hydra.launcher.address=auto") == 2
    assert "hydra.launcher.address must be null unless hydra.launcher.engine is ray" in capsys.readouterr().err
    assert Engine.made == []
