"""Capsule networks through the command: every routing, half precision, equal however they were interrupted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from capsexp import records
from capsexp.build import load_run
from capsexp.callbacks.history import History
from capsexp.nn.capsules import ClassCapsules
from tests.conftest import results

Run = Callable[..., int]

ROUTINGS = ("dynamic", "max_min", "uniform", "fixed")


@pytest.fixture
def small(tiny_npz: Path, in_tmp: Path) -> list[str]:
    """Overrides for a capsule network that learns the four classes in a moment."""
    model = ["model=capsnet", "model.c1=8", "model.c2=16", "model.decoder=[16]", "optimizer.lr=5e-3"]
    data = ["data=dhcd", f"data.path={tiny_npz}", "data.batch_size=16", "trainer.max_epochs=4"]
    fixed = ["hydra/launcher=basic", "sweep.name=adhoc", "threads=1", "logger.wandb.mode=disabled"]
    fixed += ["callbacks.memory_check=null"]
    return [*model, *data, *fixed]


def the_cell(folder: Path) -> Path:
    (found,) = records.cell_directories(folder / "multirun" / "adhoc").values()
    return found


def without_clocks(folder: Path) -> dict[str, Any]:
    return {
        name: {key: value for key, value in body.items() if key != "clocks"} for name, body in results(folder).items()
    }


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_every_routing_trains(run: Run, small: list[str], in_tmp: Path, routing: str, precision: str) -> None:
    assert run(*small, f"routing={routing}", f"trainer.precision={precision}") == 0
    ((name, body),) = results(in_tmp).items()
    assert body["metrics"]["test/acc"] > 0.7, name
    assert body["metrics"]["test/reconstruction"] > 0
    loaded = load_run(the_cell(in_tmp))
    batch = next(iter(loaded.data().test_dataloader()))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        output = loaded.module.model.capsules(batch.images_BCHW)  # type: ignore[operator,union-attr]
    assert {part.dtype for part in output} == {torch.float32}
    hits = (output.activations_BJ.argmax(1) == batch.labels_B).float().mean().item()
    assert hits == pytest.approx(body["metrics"]["test/acc"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [["model=em_capsnet"], ["model=vb_capsnet"], ["model=attention_capsnet", "model.concurrent=true"]],
    ids="-".join,
)
def test_networks_of_matrix_capsules_learn(run: Run, small: list[str], in_tmp: Path, model: list[str]) -> None:
    sizes = ["model.backbone.channels=[8]", "model.primary.types=4", "model.layers=[{types:4,dim:16,stride:2}]"]
    others = [word for word in small if not word.startswith(("model", "trainer"))]
    assert run(*model, *sizes, *others, "trainer.max_epochs=30") == 0
    ((name, body),) = results(in_tmp).items()
    assert body["metrics"]["test/acc"] > 0.9, name
    assert load_run(the_cell(in_tmp)).module.model.params_paper() > 0  # type: ignore[operator,union-attr]


def test_a_network_that_is_wholly_half_precision_trains(run: Run, small: list[str], in_tmp: Path) -> None:
    assert run(*small, "trainer.precision=bf16-true", "trainer.max_epochs=1") == 0
    (body,) = results(in_tmp).values()
    assert 0 < body["metrics"]["test/loss"] < 1


@pytest.mark.parametrize("loss", ["margin", "spread"])
def test_resumed_equals_uninterrupted(
    run: Run, small: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    decay = "++callbacks.lr_decay={_target_:capsexp.callbacks.lr_decay.LearningRateDecay,rate:0.5,steps:3}"
    arguments = [*small, decay, "callbacks.resume.min_interval_s=0", f"model.module.loss={loss}"]
    assert run(*arguments) == 0
    whole, cell = without_clocks(in_tmp), the_cell(in_tmp)
    weights = (cell / records.BEST_CHECKPOINT).read_bytes()
    with np.load(cell / records.ARRAYS) as arrays:
        kernels = {name: arrays[name] for name in arrays.files}
    (cell / records.RESULT).unlink()

    def stop(self: History, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_epoch_start", stop)
        assert run(*arguments) == 130
    assert (cell / records.RESUME_CHECKPOINT).exists()
    assert run(*arguments) == 0
    assert without_clocks(in_tmp) == whole
    assert (cell / records.BEST_CHECKPOINT).read_bytes() == weights
    with np.load(cell / records.ARRAYS) as arrays:
        assert all(np.array_equal(arrays[name], kernels[name]) for name in kernels)


def test_same_seed_same_numbers_other_seed_others(run: Run, small: list[str], in_tmp: Path) -> None:
    for name, seed in (("first", 3), ("second", 3), ("third", 4)):
        assert run(*small, f"sweep.name={name}", f"seed={seed}") == 0
    metrics = {
        path.parent.name: body["metrics"]
        for path in sorted((in_tmp / "multirun").glob("*/*"))
        if (body := records.read_result(path)) is not None
    }
    assert metrics["first"] == metrics["second"]
    assert metrics["first"]["test/loss"] != metrics["third"]["test/loss"]


def test_a_given_coupling_matrix_is_used(run: Run, small: list[str], in_tmp: Path, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).random((4, 72), dtype=np.float32)
    np.save(tmp_path / "coupling.npy", matrix)
    assert run(*small, "routing=fixed", f"routing.coupling={tmp_path}/coupling.npy") == 0
    (tmp_path / "coupling.npy").unlink()  # the cell has what it needs
    layer = load_run(the_cell(in_tmp)).module.model.class_capsules  # type: ignore[union-attr]
    assert isinstance(layer, ClassCapsules)
    assert np.array_equal(layer.routing.coupling_JI.numpy(), matrix)  # type: ignore[operator,union-attr]


def test_a_coupling_matrix_counts_by_its_content(run: Run, small: list[str], in_tmp: Path, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).random((4, 72), dtype=np.float32)
    for folder, content in (("one", matrix), ("two", matrix), ("one", matrix / 2)):
        (tmp_path / folder).mkdir(exist_ok=True)
        np.save(tmp_path / folder / "coupling.npy", content)
        path = tmp_path / folder / "coupling.npy"
        assert run(*small, "routing=fixed", f"routing.coupling={path}", "trainer.max_epochs=1") == 0
    assert len(results(in_tmp)) == 2  # the same matrix elsewhere is the same cell, another in its place is not


def test_weights_that_the_last_step_broke_are_no_result(run: Run, small: list[str], in_tmp: Path) -> None:
    """Each step's loss was a number, but no weights were left to choose."""
    assert run(*small, "optimizer.lr=1e30", "data.batch_size=1000", "trainer.max_epochs=1") == 1
    status = records.read_status(the_cell(in_tmp))
    assert status is not None
    assert (status.state, status.kind, status.cause) == ("failed", "diverged", "diverged at step 1")
    assert results(in_tmp) == {}


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model.c2=20", "model.c2 must be a multiple of dim (8), so that its channels make whole capsules, got 20"),
        ("model.decoder=[]", "model.decoder must be null, or the widths of the hidden layers, such as [512, 1024]"),
        ("model.kernel=15", "give images of at least 29x29 pixels to this model"),
        ("routing.iterations=0", "routing.iterations must be a whole number >= 1, got 0"),
        ("routing.gradient=none", "routing.gradient must be one of full, last, got 'none'"),
        ("routing.squash=flat", "routing.squash must be one of classic, linear, exponential, got 'flat'"),
        ("routing.iterations=x", "routing.iterations must be a whole number >= 1, got 'x'"),
        ("model.module.present=2", "model.module.present must be"),
        ("+model.module.first_margin=1", "model.module.first_margin must be at most last_margin=0.9, got 1"),
        ("routing.bias=1", "routing.bias must be true or false, got 1"),
        ("routing.epsilon=-1", "routing.epsilon must be a number in [0, inf], got -1"),
        (
            "model.normaliser=x",
            "model.normaliser must be one of squash, batch_norm, type_norm, layer_norm, none, got 'x'",
        ),
        ("model.activation=x", "model.activation must be one of length, logistic, got 'x'"),
        ("model.depthwise=true", "model.depthwise must be false where maps of"),
        ("model.head=x", "model.head must be one of activations, linear, got 'x'"),
        ("model.module.loss=x", "model.module.loss must be one of margin, spread, nll, cross_entropy, got 'x'"),
        ("model.dim_class=0", "model.dim_class must be at least 1: Dynamic gives no activations without poses, got 0"),
        ("model.head=linear", "model.module.loss must be cross_entropy: the scores of model.head=linear are logits"),
        (
            "routing=self_routing",
            "model.module.loss must be nll or cross_entropy: the activations of SelfRouting add up to 1 and are no "
            "lengths, got 'margin'",
        ),
        ("routing=inverted_attention", "model.head must be linear: InvertedAttention has no activations"),
        ("model.activation=logistic", "model.activation must be length: Dynamic does not use the activations of the"),
    ],
)
def test_a_bad_value_is_one_line(
    run: Run, small: list[str], capsys: pytest.CaptureFixture[str], override: str, line: str
) -> None:
    assert run(*small, override) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert line in told[0]


def test_a_coupling_of_another_shape_is_refused(
    run: Run, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "coupling.npy", np.ones((4, 71)))
    assert run(*small, "routing=fixed", f"routing.coupling={tmp_path}/coupling.npy") == 2
    assert "routing.coupling must have the shape (parents, children) = (4, 72), got (4, 71)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("[1,2]", "routing.coupling must be null or the path of a .npy file, got [1, 2]"),
        ("nowhere.npy", "routing.coupling must name an existing .npy file, got"),
    ],
)
def test_a_coupling_that_is_no_file_is_refused(
    run: Run, small: list[str], capsys: pytest.CaptureFixture[str], value: str, line: str
) -> None:
    assert run(*small, "routing=fixed", f"routing.coupling={value}") == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert line in told[0]


@pytest.mark.parametrize("more", [[], ["-m"]])
def test_routing_needs_a_model_that_routes(run: Run, capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    assert run("model=cnn", "routing=max_min", *more) == 2
    told = capsys.readouterr().err
    assert told == "capsexp: error: routing must be given with a model of capsules, such as model=capsnet\n"
