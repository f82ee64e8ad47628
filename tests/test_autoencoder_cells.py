"""Cells that autoencode and then classify: what is frozen, what is shared, what is found and what is loaded."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from capsexp import cli, records
from capsexp.build import LoadedRun, load_run
from capsexp.callbacks.history import History
from capsexp.models.autoencoder import Autoencoder
from tests.cell_files import arrays_of, weights_of
from tests.conftest import write_tiny_npz

Run = Callable[..., int]

EPOCHS = 3
SHARED = "model=shared_autoencoder"


def words(npz: Path) -> list[str]:
    """Overrides for an autoencoder of four channels a layer."""
    data = ["data=dhcd", f"data.path={npz}", "data.batch_size=16", f"trainer.max_epochs={EPOCHS}", "optimizer.lr=5e-3"]
    fixed = ["hydra/launcher=basic", "sweep.name=adhoc", "threads=1", "logger.wandb.mode=disabled"]
    model = ["model=autoencoder", "model.c1=4", "model.c2=4"]
    return [*data, *fixed, *model, "recipe=autoencode_then_classify", "callbacks.memory_check=null"]


@pytest.fixture
def small(tiny_npz: Path, in_tmp: Path) -> list[str]:
    return words(tiny_npz)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a normal and a shared cell ran; ``modes`` says whether dropout was on in each fit."""
    folder = tmp_path_factory.mktemp("quiet")
    modes: list[str] = []
    real = History.on_train_epoch_end

    def watch(self: History, trainer: Any, module: Any) -> None:
        dropouts = [each for each in module.model.modules() if isinstance(each, torch.nn.Dropout)]
        modes.append("on" if any(each.training for each in dropouts) else "off")
        real(self, trainer, module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(History, "on_train_epoch_end", watch)
        patch.chdir(folder)
        patch.setenv("CAPSEXP_CACHE", str(folder / "cache"))
        for more in ([], [SHARED]):
            assert cli.main([*words(write_tiny_npz(folder)), *more]) == 0
    (folder / "modes").write_text(" ".join(modes))
    return folder


def cell_of(folder: Path, decoder: str) -> Path:
    cells = records.cell_directories(folder / "multirun" / "adhoc").values()
    (found,) = (cell for cell in cells if f"decoder: {decoder}" in (cell / records.CONFIG).read_text())
    return found


def result_of(cell: Path) -> dict[str, Any]:
    body = records.read_result(cell)
    assert body is not None
    return body


def stage_of(folder: Path, cell: Path) -> Path:
    """The stage whose encoder the cell has."""
    mine = weights_of(cell)["model.encoder.conv1.weight"]
    stages = (folder / "multirun" / ".stages").glob("autoencode-*")
    (found,) = (stage for stage in stages if torch.equal(weights_of(stage)["model.encoder.conv1.weight"], mine))
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


both = pytest.mark.parametrize("decoder", ["own", "shared"])


@both
def test_encoder_and_decoder_stay_and_the_linear_layer_learns(quiet: Path, decoder: str) -> None:
    cell = cell_of(quiet, decoder)
    before, after = weights_of(stage_of(quiet, cell)), weights_of(cell)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"model.linear.weight", "model.linear.bias"}


def test_dropout_is_on_while_it_draws_and_off_while_it_classifies(quiet: Path) -> None:
    found = (quiet / "modes").read_text().split()
    epochs = [result_of(cell_of(quiet, decoder))["training"] for decoder in ("own", "shared")]
    expected = [mode for each in epochs for mode in ["on"] * each["autoencode_epochs"] + ["off"] * each["epochs"]]
    assert found == expected


@both
def test_both_trainings_are_in_the_result(quiet: Path, decoder: str) -> None:
    cell = cell_of(quiet, decoder)
    body, drawing = result_of(cell), rows(cell / "autoencode.csv")
    metrics, training = body["metrics"], body["training"]
    assert list(drawing[0]) == ["epoch", *sorted(set(drawing[0]) - {"epoch"})]
    assert not {"val/acc", "train/acc"} & set(drawing[0])
    assert "val/acc" in rows(cell / records.METRICS)[0]
    peak = min(drawing, key=lambda row: float(row["val/loss"]))
    assert metrics["reconstruction/val_loss"] == float(peak["val/loss"])
    assert training["autoencode_peak_epoch"] == int(peak["epoch"])
    assert metrics["reconstruction/train_loss"] == float(drawing[-1]["train/loss"])
    assert training["autoencode_epochs"] == len(drawing)
    assert body["clocks"].keys() >= {"fit_s", "epoch_s", "autoencode_fit_s", "autoencode_epoch_s"}


@both
def test_the_loaded_cell_draws_and_classifies_as_the_result_says(quiet: Path, decoder: str) -> None:
    loaded = load_run(cell_of(quiet, decoder))
    (batch,) = loaded.data().test_dataloader()
    model = loaded.module.model
    assert isinstance(model, Autoencoder)
    with torch.no_grad():
        error = F.mse_loss(model.reconstruct(batch.images_BCHW), batch.images_BCHW).item()
        accuracy = (model(batch.images_BCHW).argmax(1) == batch.labels_B).double().mean().item()
    metrics = loaded.result["metrics"]
    assert metrics["reconstruction/loss"] == pytest.approx(error, rel=1e-5)
    assert metrics["test/acc"] == pytest.approx(accuracy)


def test_parameters_are_those_of_the_autoencoder_and_shared_ones_count_once(quiet: Path) -> None:
    weights = 9 * 4 + 9 * 16 + 9 * 4 * 6
    biases = 4 + 4 + 6 + 4 + 4 + 1
    own, shared = (result_of(cell_of(quiet, decoder)) for decoder in ("own", "shared"))
    assert (own["params_paper"], shared["params_paper"]) == (2 * weights, weights)
    assert (own["params"], shared["params"]) == (2 * weights + biases, weights + biases)
    classifier = weights + 4 + 4 + 6 + (6 * 49 + 1) * 4
    assert own["metrics"]["classifier/params"] == shared["metrics"]["classifier/params"] == classifier
    kept = [name for name in weights_of(cell_of(quiet, "shared")) if name.endswith("weight")]
    assert len(kept) == 4  # three kernels and the linear layer


@both
def test_pictures_are_test_images_and_what_is_drawn_of_them(quiet: Path, decoder: str) -> None:
    cell = cell_of(quiet, decoder)
    arrays, loaded = arrays_of(cell), load_run(cell)
    (batch,) = loaded.data().test_dataloader()
    images, labels = arrays["reconstructions/images"], arrays["reconstructions/labels"]
    assert (images.shape, images.dtype, labels.tolist()) == ((2, 4, 1, 28, 28), np.uint8, [0, 1, 2, 3])
    first = [batch.labels_B.tolist().index(label) for label in labels]
    assert np.array_equal(images[0], batch.pixels_BCHW[first].numpy())
    with torch.no_grad():
        drawn = loaded.module.model.reconstruct(batch.images_BCHW[first])  # type: ignore[operator, union-attr]
    expected = ((drawn + 1) * 127.5).round().clamp(0, 255)
    assert np.abs(images[1].astype(int) - expected.numpy().astype(int)).max() <= 1


def test_the_encoders_kernels_are_measured(quiet: Path) -> None:
    cell = cell_of(quiet, "own")
    assert {f"distance/conv{number}/min" for number in (1, 2, 3)} <= set(result_of(cell)["metrics"])
    assert arrays_of(cell)["kernels/conv3"].shape == (6, 4, 3, 3)


def test_a_second_cell_takes_the_autoencoder_and_has_epochs_of_its_own(
    run: Run, small: list[str], in_tmp: Path
) -> None:
    small = [*(word for word in small if not word.startswith("sweep.name")), "recipe.reconstruction_epochs=1"]
    assert run(*small, "trainer.max_epochs=2", "sweep.name=first") == 0
    assert run(*small, "trainer.max_epochs=2", "pruning=random", "sweep.name=second") == 0
    first, second = (next((in_tmp / "multirun" / name).glob("cell-*")) for name in ("first", "second"))
    assert "stage autoencode: taken from" in (second / records.LOG).read_text()
    assert [len(rows(first / name)) for name in ("autoencode.csv", records.METRICS)] == [1, 2]
    assert result_of(second)["metrics"] == result_of(first)["metrics"]
    assert all(torch.equal(value, weights_of(first)[name]) for name, value in weights_of(second).items())


def test_both_are_trained_at_once_where_the_recipe_is_train(run: Run, small: list[str], in_tmp: Path) -> None:
    assert run(*small, "recipe=train", "trainer.max_epochs=1") == 0
    (cell,) = records.cell_directories(in_tmp / "multirun" / "adhoc").values()
    metrics = result_of(cell)["metrics"]
    total = metrics["test/cross_entropy"] + metrics["test/reconstruction"]
    assert metrics["test/loss"] == pytest.approx(total, rel=1e-6)
    loaded = load_run(cell)
    assert isinstance(loaded, LoadedRun)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["model=cnn"], "model must be a network with a decoder"),
        (["model.decoder=null"], "model.decoder must be own or shared"),
        (["recipe.reconstruction_epochs=0"], "recipe.reconstruction_epochs must be"),
        (["callbacks.reconstructions.images=0"], "callbacks.reconstructions.images must be"),
        (["augment=crop28", "augment.size=30"], "image_shape must"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    run: Run, small: list[str], capsys: pytest.CaptureFixture[str], more: list[str], line: str
) -> None:
    small = [word for word in small if not (word.startswith("model") and more == ["model=cnn"])]
    assert run(*small, *more) == 2
    assert line in capsys.readouterr().err
