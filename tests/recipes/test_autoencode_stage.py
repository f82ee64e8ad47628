"""What decides which autoencoder a cell takes, and what must not; nothing is trained here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hydra import compose, initialize_config_dir

from capsexp import build, records, resolvers
from capsexp.errors import StageBusy
from capsexp.making import make_recipe
from capsexp.recipes.autoencode_then_classify import AutoencodeThenClassify
from capsexp.recipes.base import Factories
from capsexp.recipes.merge_walk import MergeWalk
from capsexp.sweep.cells import resolved

Made = Callable[..., tuple[Any, Factories]]


@pytest.fixture
def made(tiny_npz: Path, in_tmp: Path) -> Made:
    """A recipe and what it works with, by the overrides of a cell."""
    resolvers.register()

    def make(*words: str) -> tuple[Any, Factories]:
        with initialize_config_dir(version_base="1.3", config_dir=str(records.CONF)):
            composed = compose("config", ["data=dhcd", f"data.path={tiny_npz}", *words], return_hydra_config=True)
        config = resolved(composed)
        return make_recipe(config), build.factories(config, in_tmp)

    return make


AUTOENCODE = ["recipe=autoencode_then_classify", "model=autoencoder", "trainer.max_epochs=3"]


def stage(made: Made, *words: str) -> Path:
    recipe, factories = made(*AUTOENCODE, *words)
    assert isinstance(recipe, AutoencodeThenClassify)
    return factories.stages.directory(recipe.stages(factories)[0])


@pytest.mark.parametrize(
    "word",
    [
        "pruning=random",
        "callbacks.reconstructions.images=5",
        "model.module.reconstruction_weight=0.5",
        "recipe.reconstruction_epochs=3",
        "callbacks.resume.min_interval_s=0",
    ],
)
def test_what_the_autoencoder_does_not_depend_on(made: Made, word: str) -> None:
    assert stage(made, word) == stage(made)


def test_a_longer_classification_takes_the_same_autoencoder(made: Made) -> None:
    assert stage(made, "recipe.reconstruction_epochs=3", "trainer.max_epochs=9") == stage(made)


@pytest.mark.parametrize(
    "word",
    [
        "seed=1",
        "trainer.max_epochs=4",
        "recipe.reconstruction_epochs=2",
        "callbacks.peak.patience=2",
        "model.decoder=shared",
        "model.c1=8",
        "model.latent=7",
        "model.dropout=0.5",
        "optimizer.lr=0.001",
        "optimizer.weight_decay=0",
        "data.batch_size=7",
        "data.split_seed=1",
        "data.select_on=test",
        "data.normalise=unit",
        "augment=none",
    ],
)
def test_what_the_autoencoder_depends_on(made: Made, word: str) -> None:
    assert stage(made, word) != stage(made)


def test_a_stage_that_another_cell_computes_is_busy(made: Made) -> None:
    recipe, factories = made(*AUTOENCODE)
    recipe.check(factories)
    directory = stage(made)
    directory.mkdir(parents=True)
    with FileLock(directory / records.LOCK), pytest.raises(StageBusy):
        recipe.check(factories)


def test_the_network_of_a_walk_that_another_cell_trains_is_busy(made: Made) -> None:
    recipe, factories = made("recipe=merge_walk")
    assert isinstance(recipe, MergeWalk)
    recipe.check(factories)
    directory = factories.stages.directory(recipe.stages(factories)[0])
    directory.mkdir(parents=True)
    with FileLock(directory / records.LOCK), pytest.raises(StageBusy):
        recipe.check(factories)
