"""What every recipe owes: a whole result, the same one however it came about.

A recipe's file joins in by itself: it is run on tiny data with the first of some small networks that it accepts.
"""

import functools
import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from capsexp import build, records, resolvers
from capsexp import cell as life
from capsexp.build import load_run
from capsexp.callbacks.history import History
from capsexp.cell import Cell
from capsexp.recipes import latency
from capsexp.stacking.grouping import Settings
from capsexp.stacking.scheduler import run
from capsexp.sweep.cells import resolved
from tests.cell_files import arrays_of
from tests.conftest import write_tiny_npz
from tests.stacking.together import differences

FILES = sorted((Path(__file__).parents[2] / "conf" / "recipe").glob("*.yaml"))
EPOCHS, SEEDS = 2, (0, 1)
Config = dict[str, Any]

NETWORKS = (
    ("model=cnn", "model.c1=3", "model.c2=3", "model.c3=3"),
    ("model=capsnet", "model.c1=8", "model.c2=8", "model.dim_class=4", "model.decoder=null"),
    ("model=autoencoder", "model.c1=2", "model.c2=2", "model.latent=2"),
    ("model=deep_capsnet", "model.capsules=2", "model.dim=4", "model.dim_class=4"),
)
"""Overrides for small networks."""

PLAIN = (
    *("threads=1", "logger.wandb.mode=disabled", "trainer.accelerator=cpu", "trainer.precision=64-true"),
    *("callbacks.memory_check=null", "optimizer.lr=5e-3"),
)
"""Every number is then the same in a stack; the check takes longer than these trainings."""

SHORT = {"callbacks.broken.last": 1, "recipe.limit": 1, "recipe.first_epochs": 1, "recipe.steps": 2}
"""Settings that make a recipe short, for those that have them."""

every_recipe = pytest.mark.parametrize("recipe", [file.stem for file in FILES])


class Runs:
    """A folder of its own for each recipe, where a cell for each seed was run, one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._npz = folder, write_tiny_npz(folder)
        self._configs: dict[str, list[Config]] = {}

    def folder(self, recipe: str) -> Path:
        """Where the recipe's cells are, with the first network that it accepts."""
        if recipe not in self._configs:
            self._configs[recipe] = next(filter(None, (self._accepted(recipe, network) for network in NETWORKS)))
        return self._folder / recipe

    def cells(self, recipe: str, name: str) -> list[Cell]:
        """A cell for each seed, to be run in a folder of this name and with stages of its own."""
        folder, found = self.folder(recipe) / name, []
        for seed, config in zip(SEEDS, self._configs[recipe], strict=False):
            config = {**config, "paths": {**config["paths"], "stages": str(folder / ".stages")}}
            identifier = records.cell_id(config, records.file_sha256(self._npz))
            found.append(Cell(folder / f"seed-{seed}", identifier, {"seed": seed}, config, in_sweep=True))
        return found

    def _accepted(self, recipe: str, network: tuple[str, ...]) -> list[Config]:
        self._configs[recipe] = [self._config(recipe, network, SEEDS[0])]
        ended = life.run(self.cells(recipe, "serial")[0])
        if ended.status.state == "failed" and ended.status.kind == "config":
            shutil.rmtree(self._folder / recipe)
            return []
        assert ended.status.state == "done", ended.status.cause
        self._configs[recipe] += [self._config(recipe, network, seed) for seed in SEEDS[1:]]
        assert life.run(self.cells(recipe, "serial")[1]).status.state == "done"
        return self._configs[recipe]

    def _config(self, recipe: str, network: tuple[str, ...], seed: int) -> Config:
        data = ["data=dhcd", f"data.path={self._npz}", "data.batch_size=40", f"trainer.max_epochs={EPOCHS}"]
        words = [f"recipe={recipe}", *network, f"seed={seed}", *data, *PLAIN, "callbacks.resume.min_interval_s=0"]
        resolvers.register()
        with initialize_config_dir(version_base="1.3", config_dir=str(records.CONF)):
            config = compose("config", words, return_hydra_config=True)
        for key, value in SHORT.items():
            if OmegaConf.select(config, key) is not None:
                OmegaConf.update(config, key, value)
        return resolved(config)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("recipes"))


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(latency, "ROUNDS", 1)
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored behind a KeyboardInterrupt


@pytest.fixture
def serial(recipe: str, runs: Runs) -> Path:
    """The folder of the cells that were run one after the other."""
    return runs.folder(recipe) / "serial"


def everything(cell: Path) -> dict[str, Any]:
    """All that must be the same: bytes, but for clocks."""
    body = records.read_result(cell)
    assert body is not None
    body = {key: value for key, value in body.items() if key not in ("clocks", "name", "axes", "environment")}
    saved = torch.load(cell / records.BEST_CHECKPOINT, weights_only=True)
    weights = {name: (value.dtype, value.numpy().tobytes()) for name, value in saved["state_dict"].items()}
    arrays = {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays_of(cell).items()}
    tables = {path.name: path.read_bytes() for path in cell.glob("*.csv")}
    return {"result": json.dumps(body), "weights": weights, "sizes": saved["hyper_parameters"], **arrays, **tables}


@every_recipe
def test_the_result_is_complete(recipe: str, serial: Path) -> None:
    cell = serial / "seed-0"
    body, status = records.read_result(cell), records.read_status(cell)
    assert body is not None
    assert status is not None
    assert status.state == "done"
    assert {f"{split}/{name}" for split in ("val", "test") for name in ("loss", "acc")} <= body["metrics"].keys()
    assert {"epochs", "stopped", "seed", "select_on"} <= body["training"].keys()
    assert {"n_train", "n_val", "n_test", "classes", "sha256"} <= body["data"].keys()
    assert {"fit_s", "epoch_s"} <= body["clocks"].keys()
    assert body["params"] > 0
    assert body["params_paper"] > 0
    assert any(name.startswith("kernels/") for name in arrays_of(cell))
    lines = (cell / records.METRICS).read_text().splitlines()
    assert len(lines) == 1 + body["training"]["epochs"]
    assert not list(cell.rglob("resume-*"))


@every_recipe
def test_what_is_loaded_gives_the_accuracy_of_the_result(recipe: str, serial: Path) -> None:
    loaded = load_run(serial / "seed-0")
    module = loaded.module.double()
    found = [
        (module.predict(batch.images_BCHW.double()) == batch.labels_B) for batch in loaded.data().test_dataloader()
    ]
    assert float(torch.cat(found).double().mean()) == pytest.approx(loaded.result["metrics"]["test/acc"], abs=1e-12)


@every_recipe
def test_interrupted_in_every_fit_among_foreign_draws_equals_uninterrupted(
    recipe: str, runs: Runs, serial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others draw random numbers before each start, and before and after the making of every network and trainer."""
    broken_off: list[str] = []
    begun: list[tuple[str, int]] = []
    draws = [0]
    real = History.on_train_epoch_start

    def break_off(self: History, trainer: Any, module: Any) -> None:
        place = Path(trainer.default_root_dir).name
        begun.append((place, trainer.current_epoch))
        if trainer.current_epoch == 1 and place not in broken_off:
            broken_off.append(place)
            raise KeyboardInterrupt
        real(self, trainer, module)

    def draw() -> None:
        draws[0] += 1
        torch.rand(1000)
        np.random.rand(1000)
        [random.random() for _ in range(1000)]

    def drawing(make: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(make)
        def work(*given: Any, **named: Any) -> Any:
            draw()
            made = make(*given, **named)
            draw()
            return made

        return work

    monkeypatch.setattr(History, "on_train_epoch_start", break_off)
    for name in ("make_data", "make_model", "make_module", "make_trainer"):
        monkeypatch.setattr(build, name, drawing(getattr(build, name)))
    cell, broken = runs.cells(recipe, "interrupted")[0], 0
    while True:
        draw()
        try:
            life.run(cell)
            break
        except KeyboardInterrupt:
            broken += 1
    assert draws[0] > 8
    assert broken == len(broken_off) > 0
    for place in broken_off:
        assert begun.count((place, 0)) == 1, "it goes on from the epoch that was broken off"
        assert begun.count((place, 1)) == 2
    assert everything(cell.directory) == everything(serial / "seed-0")


@every_recipe
def test_alone_equals_stacked(recipe: str, runs: Runs, serial: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cells, ended = runs.cells(recipe, "stacked"), []
    run(cells, lambda cell, how: ended.append(how), Settings("grouped", 1), life.run)
    assert [each.status.state for each in ended] == ["done", "done"]
    assert differences(cells[0].directory.parent, serial) == []
    for cell in cells:
        body = records.read_result(cell.directory)
        assert body is not None
        refused = "this fit is not stacked" in (cell.directory / records.LOG).read_text()
        assert refused or body["environment"]["stack"]["members"] == len(SEEDS)
