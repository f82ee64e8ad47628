"""The pictures of one trained capsule network, from what it has kept or from one more pass over its data."""

import csv
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure as Canvas
from PIL import Image

from capsexp import analyse, cli, records, tracking
from capsexp.build import load_run
from tests.conftest import results, write_tiny_npz

Run = Callable[..., int]

FIGURES = ["fig02_images", "fig03_classes", "fig05_master", "fig06_probabilities", "fig07_tuning"]


def overrides(npz: Path) -> list[str]:
    model = ["model=capsnet", "model.c1=8", "model.c2=16", "model.decoder=[16]", "optimizer.lr=5e-3", "routing=max_min"]
    data = ["data=dhcd", f"data.path={npz}", "data.batch_size=16", "trainer.max_epochs=2"]
    fixed = ["hydra/launcher=basic", "sweep.name=adhoc", "threads=1", "logger.wandb.mode=disabled"]
    return [*model, *data, *fixed, "callbacks.memory_check=null"]


@pytest.fixture
def words(tiny_npz: Path, in_tmp: Path) -> list[str]:
    return overrides(tiny_npz)


TRAINED = {
    "kept": ["recipe=accumulate", "model.decoder=null"],
    "plain": ["model.decoder=null"],
    "decoder": [],
    "masterless": [
        *("model.decoder=null", "routing=self_routing", "model.module.loss=nll", "model.dim_class=0"),
        *("model.normaliser=batch_norm", "model.activation=logistic"),
    ],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one cell of each kind was trained, in a sweep folder of its own; who changes one takes a copy."""
    folder = tmp_path_factory.mktemp("trained")
    npz = write_tiny_npz(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CAPSEXP_CACHE", str(folder / "cache"))
        for name, more in TRAINED.items():
            assert cli.main([*overrides(npz), *more, f"sweep.name={name}"]) == 0
    return folder


@pytest.fixture(scope="module")
def shown(trained: Path) -> tuple[Path, list[Any]]:
    """The analysed cell with a decoder, and what was given to Weights & Biases."""
    cell, seen = the_cell(trained, "decoder"), list[Any]()

    def log_images(about: tracking.About, pictures: dict[str, Path]) -> bool:
        seen.append((about.config["logger"]["wandb"]["mode"], about.cell_id, sorted(pictures)))
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "log_images", log_images)
        assert analyse.main([str(cell), "--wandb", "offline"]) == 0
    return cell, seen


def the_cell(folder: Path, name: str = "adhoc") -> Path:
    (found,) = records.cell_directories(folder / "multirun" / name).values()
    return found


def copy_of(cell: Path, folder: Path) -> Path:
    return Path(shutil.copytree(cell, folder / cell.name))


def written(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.png"))


def table(path: Path) -> Any:
    rows = list(csv.reader(path.read_text().splitlines()))
    assert rows[0] == ["", *(str(column) for column in range(len(rows[0]) - 1))]
    return np.array([[float(number or "nan") for number in row[1:]] for row in rows[1:]])


def test_a_routing_without_master_coefficients_has_the_other_figures(
    trained: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its activations are shares, and the figures of them say so."""
    cell, said = copy_of(the_cell(trained, "masterless"), in_tmp), list[str]()
    text = Canvas.text

    def noted(canvas: Canvas, x: float, y: float, words: str, **more: Any) -> Any:
        said.append(words)
        return text(canvas, x, y, words, **more)

    monkeypatch.setattr(Canvas, "text", noted)
    assert analyse.main([str(cell)]) == 0
    assert {"Shares of the class capsules for the same test images", "share of the class capsule"} <= {*said}
    assert not [words for words in said if "ength" in words]
    assert written(cell / "analysis") == [name for name in FIGURES if name != "fig05_master"]
    assert "the master's columns" not in capsys.readouterr().out


def test_figures_say_of_what_kind_the_activations_are() -> None:
    titles = {kind: str(analyse.block(masters=False, activation=kind)) for kind in ("length", "share", "probability")}
    for kind, word in (("length", "Length"), ("share", "Share"), ("probability", "Activation")):
        assert [other for other, text in titles.items() if f"{word}s of the class capsules" in text] == [kind]


def test_a_network_whose_layers_route_at_once(tiny_npz: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["model=attention_capsnet", "model.concurrent=true", "routing.iterations=3", "model.primary.types=2"]
    model += ["model.backbone.channels=[4]", "model.layers=[{types:2,dim:16,stride:2}]"]
    others = [word for word in overrides(tiny_npz) if not word.startswith(("model", "routing"))]
    assert cli.main([*model, *others]) == 0
    cell = the_cell(in_tmp)
    assert analyse.main([str(cell)]) == 0
    assert written(cell / "analysis") == [name for name in FIGURES if name != "fig05_master"]


def test_a_cell_that_kept_its_arrays_and_one_that_did_not_give_the_same(
    trained: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = copy_of(the_cell(trained, "kept"), in_tmp)
    with monkeypatch.context() as patch:
        patch.setattr("capsexp.build.LoadedRun.examine", None)  # it is not needed
        assert analyse.main([str(cell)]) == 0
    kept = {path.name: table(path) for path in (cell / "analysis").glob("*.csv")}
    assert written(cell / "analysis") == FIGURES
    metrics = results(cell)[cell.name]["metrics"]
    intra, inter = metrics["correlation/classes/intra"], metrics["correlation/classes/inter"]
    out = capsys.readouterr().out
    assert f"{intra:.3f} within a class, {inter:.3f} between two" in out
    assert out.splitlines()[-1] == str(cell / "analysis")

    plain = the_cell(trained, "plain")  # the same training, by recipe=train
    assert analyse.main([str(plain), "--out", str(in_tmp / "pictures")]) == 0
    assert kept.keys() > {
        "correlation_images.csv",
        "correlation_classes.csv",
        "correlation_master.csv",
        "tuning_fast.csv",
    }
    for name, values in kept.items():
        np.testing.assert_allclose(table(in_tmp / "pictures" / name), values, atol=1e-6, err_msg=name)


def test_a_decoder_adds_a_picture_for_each_class(shown: tuple[Path, list[Any]]) -> None:
    cell, _ = shown
    assert written(cell / "analysis") == [*(f"activity_class{k}" for k in range(4)), *FIGURES]
    with Image.open(cell / "analysis" / "activity_class2.png") as picture:
        assert picture.size[1] > picture.size[0]  # 16 rows, 11 columns
    with np.load(cell / "analysis" / "arrays.npz") as arrays:
        assert arrays["decoded/class3"].shape == (16, 11, 1, 28, 28)
        assert arrays["correlation/images"].shape == (72, 72)  # there are no 100 training images


def test_what_was_kept_is_drawn_where_the_data_is_gone(
    run: Run, words: list[str], in_tmp: Path, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "recipe=accumulate") == 0
    cell = the_cell(in_tmp)
    tiny_npz.rename(in_tmp / "elsewhere.npz")
    assert analyse.main([str(cell)]) == 0
    assert written(cell / "analysis") == FIGURES
    assert "no reconstructions: data.path must name a .npz file that exists" in capsys.readouterr().out
    (cell / records.ARRAYS).write_bytes(b"junk")  # now there is nothing to draw
    assert analyse.main([str(cell)]) == 2
    assert capsys.readouterr().err.startswith("capsexp.analyse: error: data.path must name a .npz file that exists")


def test_damaged_arrays_are_found_again(trained: Path, in_tmp: Path) -> None:
    cell = copy_of(the_cell(trained, "kept"), in_tmp)
    (cell / records.ARRAYS).write_bytes(b"junk")
    assert analyse.main([str(cell)]) == 0
    assert written(cell / "analysis") == FIGURES


def test_the_network_stays_as_it_was(trained: Path) -> None:
    loaded = load_run(the_cell(trained, "decoder"))
    before = {name: value.clone() for name, value in loaded.module.state_dict().items()}
    state = torch.get_rng_state()
    loaded.examine()
    after = loaded.module.state_dict()
    assert after.keys() - before.keys() == {"model.class_capsules.master_JI"}
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.module.model.class_capsules.inference == "dynamic"  # type: ignore[union-attr]


def test_the_pictures_go_into_the_cells_run(shown: tuple[Path, list[Any]]) -> None:
    cell, ((mode, identifier, names),) = shown
    assert (mode, identifier) == ("offline", results(cell)[cell.name]["id"])
    assert {f"analysis/{name}" for name in FIGURES} < set(names)


def test_a_cnn_has_no_couplings(run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*quick) == 0
    capsys.readouterr()
    assert analyse.main([str(the_cell(in_tmp))]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "run_dir must hold a cell whose network has capsule layers" in error


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_no_cell_is_told_in_one_line(in_tmp: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert analyse.main([folder]) == 2
    assert capsys.readouterr().err.startswith("capsexp.analyse: error: run_dir must hold a finished cell")


def test_help_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    started = time.perf_counter()
    with pytest.raises(SystemExit) as end:
        analyse.main(["--help"])
    assert end.value.code == 0
    assert time.perf_counter() - started < 1
    assert "RUN_DIR" in capsys.readouterr().out
