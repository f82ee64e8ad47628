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
    fixed = ["hydra/launcher=basic", "sweep.name=adhoc", "threads=1", "logger.wandb.mode=disabled"]
    return [*model, *data, *fixed, "callbacks.memory_check=null"]


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


def test_a_name_that_fits_nothing_is_reported(
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


def test_a_frozen_part_stays_in_evaluation_mode_and_untrained(run: Run, words: list[str], in_tmp: Path) -> None:
    """Wang's CNN with all layers but the linear one frozen: dropout is off, so two epochs draw nothing random."""
    model = ["model=cnn", "model.c2=4", "model.c3=4", "model.dropout=0.9"]
    frozen = [f"layers.{kind}{number}" for kind in ("conv", "dropout") for number in (1, 2, 3)]
    freeze = f"+callbacks.freeze={{_target_: capsexp.callbacks.freeze.Freeze, modules: [{','.join(frozen)}]}}"
    kept = [word for word in words if not word.startswith("model")]
    assert run(*kept, *model, "augment=none", "callbacks.memory_check=null", freeze) == 0
    (cell,) = records.cell_directories(in_tmp / "multirun" / "adhoc").values()
    loaded = load_run(cell)
    first = make_model(loaded.config, image_shape=(1, 32, 32), classes=4).state_dict()
    changed = {name for name, value in loaded.module.model.state_dict().items() if not torch.equal(value, first[name])}
    assert changed == {"layers.linear.weight", "layers.linear.bias"}


def test_only_the_frozen_parts_are_put_into_evaluation_mode() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm2d(2)))
    module = torch.nn.ModuleDict({"model": model})
    module.model = model
    Freeze(modules=["1"]).on_train_epoch_start(None, module)  # type: ignore[arg-type]
    assert [each.training for each in (model[0], model[1], model[1][0], model[1][1])] == [True, False, False, False]


@pytest.mark.parametrize("name", ["2", ""])
def test_a_part_that_is_not_there_is_reported(name: str) -> None:
    module = torch.nn.Module()
    module.model = torch.nn.Sequential(torch.nn.Dropout())
    with pytest.raises(ConfigError, match=r"callbacks.freeze.modules must name parts of the model \(0, ...\)"):
        Freeze(modules=[name]).setup(None, module, "fit")  # type: ignore[arg-type]
