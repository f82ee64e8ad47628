"""Weights & Biases in a stack: every cell has the run that it has alone, though many are open at once."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from capsexp import cell as life
from capsexp import resolvers
from capsexp.cell import Cell, CellOutcome
from capsexp.stacking.grouping import Settings
from capsexp.stacking.scheduler import run
from capsexp.sweep.cells import resolved
from capsexp.tracking import guard

CONF = Path(__file__).parents[2] / "conf"


class Config(dict[str, Any]):
    """A run's config, as far as it is used."""

    def update(self, values: dict[str, Any], allow_val_change: bool) -> None:  # type: ignore[override]
        assert allow_val_change
        super().update(values)


class Run:
    """What one run was told; it lives in the memory of the test."""

    def __init__(self, at_once: list[int], others: Sequence["Run"], **told: Any) -> None:
        self.told = told
        self.id, self.name, self.dir = told["id"], told["name"], str(told["dir"])
        self.rows: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.config = Config(told["config"])
        self.ended: list[int] = []
        at_once.append(1 + sum(not other.ended for other in others))

    def log(self, row: dict[str, Any]) -> None:
        assert not self.ended, "it is open until its cell has ended"
        self.rows.append(dict(row))

    def finish(self, exit_code: int) -> None:
        self.ended.append(exit_code)


class Runs:
    """All runs that were opened, and how many were open whenever one more was."""

    def __init__(self) -> None:
        self.all: list[Run] = []
        self.at_once: list[int] = []

    def init(self, **told: Any) -> Run:
        self.all.append(Run(self.at_once, self.all, **told))
        return self.all[-1]

    def by_id(self) -> dict[str, Run]:
        found = {each.id: each for each in self.all}
        assert len(found) == len(self.all), "one run a cell"
        return found


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr(guard.process, "most", "online")
    monkeypatch.setattr(guard.process, "warned", set())
    found = Runs()
    monkeypatch.setattr("wandb.init", lambda **told: found.init(**told))
    return found


@pytest.fixture
def configs(tmp_path: Path) -> list[dict[str, Any]]:
    """Three cells: two of other widths, and one that diverges in its first epoch."""
    images, labels = np.random.default_rng(0).integers(0, 256, (36, 8, 8)).astype(np.uint8), np.arange(36) % 3
    np.savez(tmp_path / "noise.npz", x_train=images, y_train=labels, x_test=images[:6], y_test=labels[:6])
    words = ["data=dhcd", f"data.path={tmp_path / 'noise.npz'}", "augment=none", "data.batch_size=8", "threads=1"]
    small = ["model.c1=2", "model.c3=2", "model.kernels=[3,3,1]", "trainer.max_epochs=2", "trainer.log_every_n_steps=1"]
    exact = ["trainer.accelerator=cpu", "trainer.precision=64-true", "callbacks.memory_check=null"]
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        whole = resolved(compose("config", [*words, *small, *exact, "sweep.name=widths", "logger.wandb.mode=offline"]))
    found = []
    for c2, lr in ((1, 0.01), (3, 0.01), (2, 1e200)):
        found.append(copy.deepcopy(whole))
        found[-1]["model"]["c2"], found[-1]["optimizer"]["lr"] = c2, lr
    return found


def cells(folder: Path, configs: Sequence[dict[str, Any]]) -> list[Cell]:
    return [
        Cell(
            folder / f"c2-{config['model']['c2']}",
            f"{place:010x}",
            {"c2": config["model"]["c2"]},
            config,
            in_sweep=True,
        )
        for place, config in enumerate(configs)
    ]


def test_every_cell_has_the_run_that_it_has_alone(runs: Runs, configs: list[dict[str, Any]], tmp_path: Path) -> None:
    for cell in cells(tmp_path / "alone", configs):
        life.run(cell)
    alone, at_once = runs.by_id(), list(runs.at_once)
    runs.all.clear()
    ended: dict[str, CellOutcome] = {}
    run(
        cells(tmp_path / "stacked", configs),
        lambda cell, how: ended.update({cell.name: how}),
        Settings("grouped", 1),
        life.run,
    )
    assert [ended[name].status.state for name in ("c2-1", "c2-3", "c2-2")] == ["done", "done", "failed"]
    stacked = runs.by_id()
    assert (at_once, runs.at_once[3:]) == ([1, 1, 1], [1, 2, 3])
    assert list(stacked) == list(alone) == [f"widths-{place:010x}" for place in range(3)]
    assert [each.ended for each in stacked.values()] == [[0], [0], [1]], "closed once"
    for name, one in stacked.items():
        assert_same_run(one, alone[name])


def test_a_server_that_stops_answering_costs_no_other_cell_its_run(
    runs: Runs, configs: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teardown of wandb would end the runs of the cells that are open beside the one that it is for."""

    def init(**told: Any) -> Run:
        if runs.all and told["mode"] == "online":
            raise TimeoutError("no answer")
        return runs.init(**told)

    def teardown() -> None:
        torn.append(sum(not each.ended for each in runs.all))

    torn: list[int] = []
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr("wandb.init", init)
    monkeypatch.setattr("wandb.teardown", teardown)
    for config in configs[:2]:
        config["logger"]["wandb"]["mode"] = "online"
    run(cells(tmp_path, configs[:2]), lambda cell, how: None, Settings("grouped", 1), life.run)
    assert [each.told["mode"] for each in runs.all] == ["online", "offline"]
    assert [each.ended for each in runs.all] == [[0], [0]]
    assert not any(torn)
    assert guard.process.open == 0


def approximately(value: Any) -> Any:
    return pytest.approx(value, rel=0, abs=1e-12, nan_ok=True) if isinstance(value, float) else value


def assert_same_run(one: Run, other: Run) -> None:
    places = ("dir", "settings")
    assert {key: value for key, value in one.told.items() if key not in places} == {
        key: value for key, value in other.told.items() if key not in places
    }
    assert (one.told["group"], one.told["mode"], one.told["reinit"]) == ("widths", "offline", "create_new")
    assert Path(one.dir).name == Path(other.dir).name == one.name
    assert one.ended == other.ended
    assert one.config == other.config
    assert len(one.rows) == len(other.rows)
    for said, wanted in zip([*one.rows, one.summary], [*other.rows, other.summary], strict=True):
        assert said == {key: approximately(value) for key, value in wanted.items()}
    if one.ended == [0]:
        assert len({row["trainer/global_step"] for row in one.rows}) > 1
        assert one.summary["c2"] == one.told["config"]["model"]["c2"]
