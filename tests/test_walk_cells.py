"""Cells that walk from a trained network down to a small one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger

from capsexp import build, cli, records, stop_request
from capsexp.build import load_run
from capsexp.callbacks.history import History
from capsexp.lightning_modules.base import BaseModule
from capsexp.models.cnn import CNN
from capsexp.pruning.base import Layer
from capsexp.pruning.cosine import Cosine
from capsexp.recipes.merge_walk import MergeWalk, narrowing
from capsexp.recipes.networks import Networks
from tests.cell_files import arrays_of, weights_of
from tests.conftest import write_tiny_npz

Run = Callable[..., int]

REMOVE, REINIT = "recipe.mode=remove", "recipe.mode=reinit"
STEPS = "recipe.steps=2"
CELLS = {
    "merge": [],
    "remove": [REMOVE],
    "tuned": [STEPS],
    "reinit": [REINIT],
}


def words(npz: Path) -> list[str]:
    """Overrides for a walk of four cuts: c2 from 4 and c3 from 4 down to 2."""
    data = ["data=dhcd", f"data.path={npz}", "data.batch_size=16", "trainer.max_epochs=2", "optimizer.lr=5e-3"]
    fixed = ["hydra/launcher=basic", "threads=1", "logger.wandb.mode=disabled", "callbacks.memory_check=null"]
    walk = ["recipe=merge_walk", "recipe.steps=0", "pruning=cosine", "model.c1=3", "model.c2=4", "model.c3=4"]
    return [*data, *fixed, *walk]


@pytest.fixture
def small(tiny_npz: Path, in_tmp: Path) -> list[str]:
    return [*words(tiny_npz), "sweep.name=adhoc"]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one cell of each kind ran, in a sweep folder of its own."""
    folder = tmp_path_factory.mktemp("quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CAPSEXP_CACHE", str(folder / "cache"))
        for name, more in CELLS.items():
            assert cli.main([*words(write_tiny_npz(folder)), f"sweep.name={name}", *more]) == 0
    return folder


def cell_of(folder: Path, name: str) -> Path:
    (found,) = records.cell_directories(folder / "multirun" / name).values()
    return found


def result_of(cell: Path) -> dict[str, Any]:
    body = records.read_result(cell)
    assert body is not None
    return body


def walk_of(folder: Path, name: str) -> dict[str, np.ndarray]:
    return {
        key.removeprefix("walk/"): value
        for key, value in arrays_of(cell_of(folder, name)).items()
        if key.startswith("walk/")
    }


every = pytest.mark.parametrize("name", CELLS)


@every
def test_layers_lose_a_channel_each_in_turn(quiet: Path, name: str) -> None:
    walk = walk_of(quiet, name)
    assert walk["conv1"].tolist() == [3, 3, 3, 3, 3]
    assert walk["conv2"].tolist() == [4, 3, 3, 2, 2]
    assert walk["conv3"].tolist() == [4, 4, 3, 3, 2]
    models = [
        CNN(image_shape=(1, 28, 28), classes=4, c1=3, c2=int(c2), c3=int(c3))
        for c2, c3 in zip(walk["conv2"], walk["conv3"], strict=True)
    ]
    assert walk["params_paper"].tolist() == [model.params_paper() for model in models]
    assert walk["params"].tolist() == [sum(p.numel() for p in model.parameters()) for model in models]


@every
def test_all_begin_with_the_same_trained_network(quiet: Path, name: str) -> None:
    stages = list((quiet / "multirun" / ".stages").glob("base-*"))
    assert len(stages) == 1
    facts = records.read_result(stages[0], records.STAGE)
    assert facts is not None
    walk = walk_of(quiet, name)
    assert (
        walk["test_acc"][0]
        == facts["tested"]["test/acc"]
        == result_of(cell_of(quiet, name))["metrics"]["walk/base_acc"]
    )
    assert walk["val_loss"][0] == facts["metrics"]["val/loss"]


@every
def test_the_epochs_are_those_of_the_trained_network(quiet: Path, name: str) -> None:
    (stage,) = (quiet / "multirun" / ".stages").glob("base-*")
    assert (cell_of(quiet, name) / records.METRICS).read_text() == (stage / records.METRICS).read_text()


@every
def test_the_checkpoint_is_the_last_network(quiet: Path, name: str) -> None:
    loaded, walk = load_run(cell_of(quiet, name)), walk_of(quiet, name)
    assert loaded.module.model.widths() == {"conv1": 3, "conv2": 2, "conv3": 2}  # type: ignore[operator]
    (batch,) = loaded.data().test_dataloader()
    accuracy = (loaded.module.predict(batch.images_BCHW) == batch.labels_B).double().mean().item()
    assert walk["test_acc"][-1] == pytest.approx(accuracy)
    metrics = loaded.result["metrics"]
    assert metrics["test/acc"] == walk["test_acc"][-1]
    assert metrics["val/acc"] == walk["val_acc"][-1]
    assert metrics["walk/mean_acc"] == pytest.approx(walk["test_acc"][1:].mean())


def base_weights(folder: Path) -> dict[str, torch.Tensor]:
    (stage,) = (folder / "multirun" / ".stages").glob("base-*")
    return weights_of(stage)


def test_removing_takes_the_lowest_score_of_each_turn(quiet: Path) -> None:
    """The walk again, by hand: filters of one layer, and what reads them in the next."""
    base = base_weights(quiet)
    conv2, conv3 = (base[f"model.layers.conv{number}.weight"] for number in (2, 3))
    for _ in range(2):
        kept = [each for each in range(len(conv2)) if each != int(Cosine().scores(Layer("conv2", conv2)).argmin())]
        conv2, conv3 = conv2[kept], conv3[:, kept]
        kept = [each for each in range(len(conv3)) if each != int(Cosine().scores(Layer("conv3", conv3)).argmin())]
        conv3 = conv3[kept]
    found = weights_of(cell_of(quiet, "remove"))
    assert torch.equal(found["model.layers.conv2.weight"], conv2)
    assert torch.equal(found["model.layers.conv3.weight"], conv3)


def test_merging_changes_what_reads_a_channel_and_nothing_before_it(quiet: Path) -> None:
    merged, removed = (weights_of(cell_of(quiet, name)) for name in ("merge", "remove"))
    assert torch.equal(merged["model.layers.conv1.weight"], removed["model.layers.conv1.weight"])
    assert not torch.equal(merged["model.layers.linear.weight"], removed["model.layers.linear.weight"])


def replace_weights(stage: Path, saved: dict[str, Any]) -> None:
    """Give a finished stage other weights, as if it had learnt them."""
    facts = records.read_result(stage, records.STAGE)
    assert facts is not None
    torch.save(saved, stage / records.BEST_CHECKPOINT)
    records.write_result(stage, facts, records.STAGE)


def test_a_walk_from_a_network_of_twins_loses_nothing_by_merging(quiet: Path, run: Run, in_tmp: Path) -> None:
    """Of four channels in each layer two are copies of the others, scaled: the same outputs at half the widths."""
    (stage,) = (quiet / "multirun" / ".stages").glob("base-*")
    saved = torch.load(stage / records.BEST_CHECKPOINT, weights_only=True)
    kept = {name: value.clone() for name, value in saved["state_dict"].items()}
    for name in ("conv2", "conv3"):
        for part in ("weight", "bias"):
            value = saved["state_dict"][f"model.layers.{name}.{part}"]
            value[2:] = torch.tensor([0.5, 3.0]).view(-1, *[1] * (value.ndim - 1)) * value[:2]
    replace_weights(stage, saved)
    try:
        merge, remove = (
            run(*words(quiet / "tiny.npz"), f"paths.stages={stage.parent}", f"sweep.name={name}", f"recipe.mode={name}")
            for name in ("merge", "remove")
        )
    finally:
        saved["state_dict"] = kept
        replace_weights(stage, saved)
    assert merge == remove == 0
    losses = walk_of(in_tmp, "merge")["test_loss"]
    np.testing.assert_allclose(losses[1:], losses[1], rtol=1e-5)
    assert not np.allclose(walk_of(in_tmp, "remove")["test_loss"][1:], losses[1], rtol=1e-3)


def test_new_networks_are_trained_at_each_size_and_shared(quiet: Path, run: Run, in_tmp: Path) -> None:
    assert len(list((quiet / "multirun" / ".stages").glob("scratch-*"))) == 4
    stages = f"paths.stages={quiet / 'multirun' / '.stages'}"
    assert run(*words(quiet / "tiny.npz"), stages, "sweep.name=adhoc", REINIT, "pruning=random", STEPS) == 0
    log = (cell_of(in_tmp, "adhoc") / records.LOG).read_text()
    assert log.count("stage scratch: taken from") == 4
    first, second = walk_of(quiet, "reinit"), walk_of(in_tmp, "adhoc")
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_the_same_walk_twice_is_the_same_with_steps_between(
    quiet: Path, run: Run, small: list[str], in_tmp: Path
) -> None:
    """Once behind the training of its base, once behind taking it."""
    assert run(*small, STEPS) == 0
    first, second = walk_of(quiet, "tuned"), walk_of(in_tmp, "adhoc")
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["test_loss"], walk_of(quiet, "merge")["test_loss"])


def test_so_many_steps_are_made_between_two_cuts(
    quiet: Path, run: Run, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[tuple[int, int]] = []
    real = BaseModule.training_step

    def counted(self: BaseModule, *batch: Any) -> torch.Tensor:
        found = self.model.widths()
        widths.append((found["conv2"], found["conv3"]))
        return real(self, *batch)

    monkeypatch.setattr(BaseModule, "training_step", counted)
    assert run(*small, STEPS, f"paths.stages={quiet / 'multirun' / '.stages'}") == 0
    assert widths == [each for cut in ((3, 4), (3, 3), (2, 3), (2, 2)) for each in (cut, cut)]


def test_a_walk_that_is_killed_begins_again_and_ends_the_same(
    quiet: Path, run: Run, small: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = MergeWalk._tune, [3]

    def killed(self: MergeWalk, *given: Any) -> None:
        real(self, *given)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(MergeWalk, "_tune", killed)
    often = [*small, STEPS, "callbacks.resume.min_interval_s=0", f"paths.stages={quiet / 'multirun' / '.stages'}"]
    assert [run(*often), run(*often)] == [130, 0]
    first, second = walk_of(quiet, "tuned"), walk_of(in_tmp, "adhoc")
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("tolerance", "within"), [(0.02, 90.0), (0.0, 100.0), (0.5, 70.0)])
def test_one_number_for_the_whole_walk(tolerance: float, within: float) -> None:
    """A network behind a fall does not count, however good it is."""
    accuracies, sizes = [0.9, 0.89, 0.5, 0.9, 0.3], [100.0, 90.0, 80.0, 70.0, 60.0]
    points = [{"test_acc": acc, "params_paper": size} for acc, size in zip(accuracies, sizes, strict=True)]
    walk = MergeWalk(criterion=Cosine(), tolerance=tolerance)
    found = walk._summary(points)
    assert found["walk/params_within"] == within
    assert found["walk/mean_acc"] == pytest.approx((0.89 + 0.5 + 0.9 + 0.3) / 4)
    assert found["walk/base_acc"] == 0.9


def test_maps_are_scored_on_so_many_batches(
    quiet: Path, run: Run, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    real = Networks.scores

    def listen(self: Networks, module: Any, criterion: Any, batches: int | None, directory: Path) -> Any:
        asked.append(batches)
        return real(self, module, criterion, batches, directory)

    monkeypatch.setattr(Networks, "scores", listen)
    maps = ["pruning=chip", "recipe.score_batches=2", "recipe.down_to=3"]
    assert run(*small, *maps, f"paths.stages={quiet / 'multirun' / '.stages'}") == 0
    assert asked == [2, 2]


def test_a_logger_gets_every_network_on_the_way(
    quiet: Path, run: Run, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[int | None, dict[str, float]]] = []

    class Listener(DummyLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            heard.append((step, metrics))

    monkeypatch.setattr(build, "logger_of", lambda _, prefix: Listener() if prefix == "walk" else None)
    assert run(*small, f"paths.stages={quiet / 'multirun' / '.stages'}") == 0
    assert [step for step, _ in heard] == [0, 1, 2, 3, 4]
    assert [point["test_acc"] for _, point in heard] == walk_of(quiet, "merge")["test_acc"].tolist()


def test_a_wish_to_stop_is_heard_between_two_cuts(
    quiet: Path, run: Run, small: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop_request, "requested", lambda: True)
    assert run(*small, f"paths.stages={quiet / 'multirun' / '.stages'}") == 130
    assert "stage base: taken from" in (cell_of(in_tmp, "adhoc") / records.LOG).read_text(), "only the walk was left"


def test_the_parameters_within_reach_are_those_before_the_first_fall(quiet: Path) -> None:
    walk, metrics = walk_of(quiet, "remove"), result_of(cell_of(quiet, "remove"))["metrics"]
    fallen = [acc < walk["test_acc"][0] - 0.02 for acc in walk["test_acc"]]
    last = fallen.index(True) - 1 if any(fallen) else len(fallen) - 1
    assert metrics["walk/params_within"] == walk["params_paper"][last]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["recipe.mode=fold"], "recipe.mode must be"),
        (["recipe.layers=[conv4]"], "recipe.layers must name layers of the model (conv1, conv2, conv3), got 'conv4'"),
        (["recipe.layers=conv2"], "recipe.layers must be a list of different layers"),
        (["recipe.down_to=5"], "recipe.down_to must be at most the channels that conv2 has (4), got 5"),
        (["recipe.steps=-1"], "recipe.steps must be"),
        (["pruning=cosine_merge"], "pruning.merge must come with recipe=prune_and_retrain or max_depth (in a walk, "),
        (["+pruning.ratio=0.5"], "pruning.ratio must come with recipe=prune_and_retrain or max_depth"),
        (
            ["model=capsnet", "model.c2=8", "recipe.layers=[primary]"],
            "recipe.layers must name layers whose channels do not become capsules",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    run: Run, small: list[str], capsys: pytest.CaptureFixture[str], more: list[str], line: str
) -> None:
    small = [word for word in small if not (word.startswith("model") and "model=capsnet" in more)]
    assert run(*small, *more) == 2
    assert line in capsys.readouterr().err


def test_a_ratio_of_the_channels_can_be_merged_too(
    run: Run, small: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same channels stay, chosen by the same scores; their readers have other weights."""
    kept = [word for word in small if not word.startswith(("recipe", "pruning", "sweep.name"))]
    half = ["recipe=prune_and_retrain", "recipe.correlation_weight=0", "recipe.pruned_epochs=1", "pruning.ratio=.5"]
    begun: dict[str, torch.Tensor] = {}
    real = History.on_train_epoch_start

    def watch(self: History, trainer: Any, module: Any) -> None:
        if "pruned" in Path(trainer.default_root_dir).name:
            begun[name] = module.model.layers.linear.weight.detach().clone()
        real(self, trainer, module)

    monkeypatch.setattr(History, "on_train_epoch_start", watch)
    for name in ("cosine", "cosine_merge"):
        assert run(*kept, *half, f"pruning={name}", f"sweep.name={name}") == 0
    log = (cell_of(in_tmp, "cosine_merge") / records.LOG).read_text()
    assert "stage scores: taken from" in log
    first, second = (arrays_of(cell_of(in_tmp, each)) for each in ("cosine", "cosine_merge"))
    assert all(np.array_equal(first[each], second[each]) for each in first if each.startswith("kept/"))
    assert not torch.equal(begun["cosine"], begun["cosine_merge"])


def test_a_layer_that_is_narrow_enough_waits_for_the_others() -> None:
    layers = CNN(image_shape=(1, 28, 28), classes=4).channel_layers()
    found = list(narrowing(layers, {"conv1": 6, "conv2": 3, "conv3": 5}, ["conv2", "conv3"], 2))
    assert [(each["conv2"], each["conv3"]) for each in found] == [(3, 5), (2, 5), (2, 4), (2, 3), (2, 2)]
