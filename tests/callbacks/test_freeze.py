from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from capsexp import records
from capsexp.build import load_run, make_model
from capsexp.callbacks.freeze import Freeze
from capsexp.errors import ConfigError
from tests.conftest import results

Run = Callable[..., int]

FREEZE = "+callbacks.freeze={{_target_: capsexp.callbacks.freeze.Freeze, parameters: [{}]}}"


@pytest.fixture
def words(tiny_npz: Path, in_tmp: Path) -> list[str]:
    model = ["model=capsnet", "model.c1=8", "model.c2=16", "model.decoder=[16]", "optimizer.lr=5e-3"]
    data = ["data=dhcd", f"data.path={tiny_npz}", "data.batch_size=16", "trainer.max_epochs=2"]
    return [*model, *data, "hydra/launcher=basic", "sweep.name=adhoc", "threads=1", "logger.wandb.mode=disabled"]


def test_frozen_parameters_stay_and_the_others_learn(run: Run, words: list[str], in_tmp: Path) -> None:
    assert run(*words, FREEZE.format("class_capsules.weight")) == 0
    (cell,) = records.cell_directories(in_tmp / "multirun" / "adhoc").values()
    loaded = load_run(cell)
    first = make_model(loaded.config, image_shape=(1, 28, 28), classes=4).state_dict()
    same = {name for name, value in loaded.module.model.state_dict().items() if torch.equal(value, first[name])}
    assert same == {"class_capsules.weight"}
    trained = sum(value.numel() for name, value in first.items() if name not in same)
    assert results(in_tmp)[cell.name]["params"] == trained


def test_a_star_stands_for_anything(run: Run, words: list[str], in_tmp: Path) -> None:
    assert run(*words, FREEZE.format("'conv1.*',primary.conv.weight")) == 0
    (cell,) = records.cell_directories(in_tmp / "multirun" / "adhoc").values()
    loaded = load_run(cell)
    first = make_model(loaded.config, image_shape=(1, 28, 28), classes=4).state_dict()
    same = {name for name, value in loaded.module.model.state_dict().items() if torch.equal(value, first[name])}
    assert same == {"conv1.weight", "conv1.bias", "primary.conv.weight"}


def test_a_name_that_fits_nothing_is_told(
    run: Run, words: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, FREEZE.format("class_capsule.weight")) == 2
    error = capsys.readouterr().err
    assert "callbacks.freeze.parameters must name parameters of the model (conv1.weight, " in error
    assert error.rstrip().endswith("got 'class_capsule.weight'")


@pytest.mark.parametrize("parameters", ["class_capsules.weight", [1]])
def test_names_come_as_a_list(parameters: object) -> None:
    with pytest.raises(ConfigError, match="parameters must be a list of parameters' names"):
        Freeze(parameters)  # type: ignore[arg-type]
