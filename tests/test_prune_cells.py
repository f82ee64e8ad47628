"""Cells that train, prune and train again: shared stages, interruptions, what is left and what is loaded."""

import csv
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from capsexp import build, cli, records, trainers
from capsexp.build import LoadedRun, load_run
from capsexp.callbacks.channel_pruning import ChannelPruning
from capsexp.callbacks.history import History
from capsexp.making import make_recipe
from capsexp.models.base import count_parameters
from capsexp.models.cnn import CNN
from capsexp.nn.channels import Prunable
from capsexp.pruning.base import Layer
from capsexp.pruning.magnitude import Magnitude
from capsexp.pruning.selection import Selection
from capsexp.recipes.networks import Networks
from capsexp.recipes.prune_and_retrain import PruneAndRetrain
from tests.cell_files import arrays_of, weights_of
from tests.conftest import write_tiny_npz

Run = Callable[..., int]

EPOCHS = 2
UNCHECKED = "callbacks.memory_check=null"
"""The check takes longer than these trainings."""
HALF = "pruning.ratio=0.5"
UNPRUNED = ["pruning.ratio=0", "model.depth=0"]
RETRAINED = [*UNPRUNED, "recipe.retrain_unpruned=true"]
ALL_STAGES = ["base", "ccm", "scores", "pruned", "deep"]
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def _short() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored behind a KeyboardInterrupt


def common(npz: Path) -> list[str]:
    data = ["data=dhcd", f"data.path={npz}", "data.batch_size=16", f"trainer.max_epochs={EPOCHS}", "optimizer.lr=5e-3"]
    fixed = ["hydra/launcher=basic", "sweep.name=adhoc", "threads=1", "logger.wandb.mode=disabled"]
    return [*data, *fixed, "recipe=prune_and_retrain", UNCHECKED]


def words(npz: Path) -> list[str]:
    """Overrides for a deep capsule network that goes through all stages in a second or two."""
    model = ["model=deep_capsnet", "model.capsules=4", "model.dim=4", "model.depth=1", "model.dim_class=4"]
    return [*common(npz), *model, "recipe.correlation_weight=0.1"]


@pytest.fixture
def small(tiny_npz: Path, in_tmp: Path) -> list[str]:
    return words(tiny_npz)


@pytest.fixture
def plain(tiny_npz: Path, in_tmp: Path) -> list[str]:
    return [*common(tiny_npz), "trainer.max_epochs=1"]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where four cells ran one after the other, undisturbed; ``begun`` has the weights that each fit began with."""
    folder = tmp_path_factory.mktemp("quiet")
    (folder / "begun").mkdir()
    real = History.on_train_epoch_start

    def watch(self: History, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 0:
            torch.save(module.state_dict(), folder / "begun" / Path(trainer.default_root_dir).name)
        real(self, trainer, module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(History, "on_train_epoch_start", watch)
        patch.chdir(folder)
        patch.setenv("CAPSEXP_CACHE", str(folder / "cache"))
        for more in ([], [HALF], UNPRUNED, RETRAINED):
            assert cli.main([*words(write_tiny_npz(folder)), *more]) == 0
    return folder


def cells(folder: Path) -> list[Path]:
    return sorted(records.cell_directories(folder / "multirun" / "adhoc").values())


def the_cell(folder: Path) -> Path:
    (found,) = cells(folder)
    return found


def config_of(cell: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((cell / records.CONFIG).read_text())
    return config


def quiet_cell(quiet: Path, ratio: float = 0.25, retrained: bool = False) -> Path:
    """A cell of :func:`quiet`."""
    for cell in cells(quiet):
        config = config_of(cell)
        if (config["pruning"]["ratio"], config["recipe"]["retrain_unpruned"]) == (ratio, retrained):
            return cell
    raise AssertionError(ratio)


def body_of(cell: Path) -> dict[str, Any]:
    body = records.read_result(cell)
    assert body is not None
    return body


def metrics_of(cell: Path) -> dict[str, float]:
    metrics: dict[str, float] = body_of(cell)["metrics"]
    return metrics


def computed(cell: Path) -> list[str]:
    """The stages that a cell computed, by its log."""
    return re.findall(r"stage (\w+): being computed", (cell / records.LOG).read_text())


def stages_of(cell: Path) -> dict[str, Path]:
    """The folders of a cell's stages, computed or taken, in their order."""
    found = re.findall(r"stage (\w+): (?:being computed in|taken from) (\S+)", (cell / records.LOG).read_text())
    return {name: cell.parents[1] / ".stages" / folder for name, folder in found}


def facts_of(stage: Path) -> dict[str, Any]:
    facts = records.read_result(stage, records.STAGE)
    assert facts is not None
    return facts


def without_clocks(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in ("clocks", "name", "axes")}


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = weights_of(first), weights_of(second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def accuracy(loaded: LoadedRun) -> float:
    batches = [
        (loaded.module.predict(batch.images_BCHW) == batch.labels_B) for batch in loaded.data().test_dataloader()
    ]
    return float(torch.cat(batches).double().mean())


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / records.METRICS).open() as stream:
        return list(csv.DictReader(stream))


# -- one cell ----------------------------------------------------------------------------------------------------------


def test_what_a_cell_leaves(quiet: Path) -> None:
    cell = quiet_cell(quiet)
    metrics, training = metrics_of(cell), body_of(cell)["training"]
    stages = stages_of(cell)
    assert list(stages) == ALL_STAGES
    assert (cell / records.METRICS).read_bytes() == (stages["deep"] / records.METRICS).read_bytes()
    assert_same_weights(cell, stages["deep"])
    trained = ["base", "ccm", "pruned", "deep"]
    for name in trained:
        tested = facts_of(stages[name])["tested"]
        assert metrics[f"{name}/acc"] == tested["test/acc"]
        assert metrics[f"{name}/primary_dead_share"] == tested["capsules/primary/dead_share"]
        assert 0 < metrics[f"{name}/channel_correlation"] <= 1
        assert training[f"{name}_epochs"] == EPOCHS
    assert {name for name in metrics if name.endswith("/dead_share") and name.count("/") == 1} == {
        "capsules/dead_share",
        "deep/dead_share",
    }, "the others have no intermediate capsules"
    assert metrics["test/acc"] == metrics["deep/acc"]
    assert metrics["pruning/change"] == metrics["deep/acc"] - metrics["base/acc"]
    assert metrics["train/loss"] == float(rows(cell)[-1]["train/loss"])
    assert training["stopped"] == "max_epochs"
    assert not training["broken"]
    assert body_of(cell)["data"]["n_train"] == 72


def test_its_arrays_say_what_was_scored_and_kept(quiet: Path) -> None:
    cell = quiet_cell(quiet)
    arrays, stages = arrays_of(cell), stages_of(cell)
    assert {name for name in arrays if name.startswith("kept/")} == {
        f"kept/{name}" for name in ("conv1", "conv2", "conv3", "primary")
    }
    layers = load_run(cell).module.model.channel_layers()
    best = weights_of(stages["ccm"])
    for name, layer in layers.items():
        weight = best[f"model.{layer.conv}.weight"].double()
        scores = torch.from_numpy(arrays[f"scores/{name}"])
        torch.testing.assert_close(scores, weight.abs().sum((1, 2, 3)), rtol=1e-12, atol=0)
        assert arrays[f"kept/{name}"].tolist() == Selection(0.25).keep(layer, scores).tolist()
    assert arrays["activity/layer1"].shape == (3, 6, 6)
    assert arrays["kernels/primary"].shape == (12, 12, 3, 3)


def test_the_reward_is_in_its_own_stages_curves_alone(quiet: Path) -> None:
    for name, stage in stages_of(quiet_cell(quiet)).items():
        if name != "scores":
            logged = rows(stage)
            assert len(logged) == EPOCHS
            assert ("train/correlation" in logged[0], "val/correlation" in logged[0]) == (name == "ccm",) * 2
    stages = stages_of(quiet_cell(quiet))
    tested = facts_of(stages["ccm"])["tested"]
    per_layer = sum(tested[f"channel_correlation/{name}"] for name in ("conv1", "conv2", "conv3", "primary"))
    assert tested["test/correlation"] == pytest.approx(per_layer, rel=1e-5)


def test_each_stage_begins_with_what_the_one_before_has_learnt(quiet: Path) -> None:
    stages = stages_of(quiet_cell(quiet))
    begun = {name: torch.load(quiet / "begun" / stage.name) for name, stage in stages.items() if name != "scores"}
    best = {name: weights_of(stages[name]) for name in begun}
    assert all(torch.equal(value, best["base"][name]) for name, value in begun["ccm"].items())
    assert not torch.equal(begun["base"]["model.backbone.conv1.weight"], begun["ccm"]["model.backbone.conv1.weight"])

    kept = {name: torch.tensor(index) for name, index in facts_of(stages["pruned"])["kept"].items()}
    assert {name: len(index) for name, index in kept.items()} == {"conv1": 4, "conv2": 4, "conv3": 12, "primary": 12}
    for name, before, layer in (
        ("backbone.conv2", "conv1", "conv2"),
        ("backbone.conv3", "conv2", "conv3"),
        ("primary.conv", "conv3", "primary"),
    ):
        weight = f"model.{name}.weight"
        assert torch.equal(begun["pruned"][weight], best["ccm"][weight][kept[layer]][:, kept[before]])
    for name in ("weight", "bias", "running_mean", "running_var"):
        norm = f"model.backbone.norm2.{name}"
        assert torch.equal(begun["pruned"][norm], best["ccm"][norm][kept["conv2"]])

    carried = {name for name, value in begun["deep"].items() if torch.equal(value, best["pruned"].get(name, value + 1))}
    assert carried == {name for name in begun["deep"] if "intermediate" not in name and "class_capsules" not in name}
    assert begun["deep"]["model.intermediate.layer1.weight"].shape == (3, 4, 4, 27)


def test_what_the_networks_of_the_stages_weigh(quiet: Path) -> None:
    stages = stages_of(quiet_cell(quiet))
    params = {name: facts_of(stages[name])["params"] for name in ("base", "ccm", "pruned", "deep")}
    assert params["base"] == params["ccm"] > params["pruned"]
    assert params["deep"] - params["pruned"] == 3 * 4 * 4 * (3 * 9)
    assert body_of(quiet_cell(quiet))["params"] == params["deep"]


# -- shared stages -----------------------------------------------------------------------------------------------------


def test_cells_share_the_stages_that_their_keys_do_not_change(quiet: Path) -> None:
    assert computed(quiet_cell(quiet)) == ALL_STAGES
    assert computed(quiet_cell(quiet, 0.5)) == ["pruned", "deep"]
    assert computed(quiet_cell(quiet, 0)) == []
    assert computed(quiet_cell(quiet, 0, retrained=True)) == ["pruned"]
    names = sorted(path.name.rpartition("-")[0] for path in (quiet / "multirun" / ".stages").iterdir())
    assert names == sorted(["base", "ccm", "scores", *["pruned"] * 3, *["deep"] * 2])
    first, second = (stages_of(quiet_cell(quiet, ratio)) for ratio in (0.25, 0.5))
    assert {name for name in ALL_STAGES if first[name] == second[name]} == {"base", "ccm", "scores"}


def test_a_larger_ratio_leaves_less(quiet: Path) -> None:
    shapes = [
        {name: len(array) for name, array in arrays_of(quiet_cell(quiet, ratio)).items() if name.startswith("kept/")}
        for ratio in (0.25, 0.5)
    ]
    assert shapes[1] == {"kept/conv1": 4, "kept/conv2": 4, "kept/conv3": 8, "kept/primary": 8}
    assert body_of(quiet_cell(quiet, 0.5))["params"] < body_of(quiet_cell(quiet))["params"]


def test_a_ratio_of_zero_is_the_base_alone(quiet: Path) -> None:
    cell = quiet_cell(quiet, 0)
    stages = stages_of(cell)
    assert list(stages) == ["base"]
    assert_same_weights(cell, stages["base"])
    assert metrics_of(cell)["pruning/change"] == 0
    assert not any(name.startswith(("kept/", "scores/")) for name in arrays_of(cell))
    assert stages["base"] == stages_of(quiet_cell(quiet))["base"]


def test_training_an_unpruned_network_again_is_a_control(quiet: Path) -> None:
    cell = quiet_cell(quiet, 0, retrained=True)
    stages = stages_of(cell)
    assert list(stages) == ["base", "ccm", "pruned"], "where nothing is cut, nothing is scored"
    arrays = arrays_of(cell)
    for name, width in {"conv1": 4, "conv2": 8, "conv3": 16, "primary": 16}.items():
        assert arrays[f"kept/{name}"].tolist() == list(range(width))
    assert body_of(cell)["params"] == body_of(quiet_cell(quiet, 0))["params"]
    assert metrics_of(cell)["pruned/acc"] == metrics_of(cell)["test/acc"]


def directories(config: dict[str, Any], folder: Path, **changes: Any) -> dict[str, str]:
    """The names of the folders that a cell's stages would have, with some (dotted) keys changed."""
    changed = json.loads(json.dumps(config))
    for dotted, value in changes.items():
        *groups, key = dotted.split("__")
        node = changed
        for group in groups:
            node = node[group]
        assert key in node
        node[key] = value
    networks = Networks(build.factories(changed, folder))
    recipe = make_recipe(changed)
    assert isinstance(recipe, PruneAndRetrain)
    stages = recipe.stages(networks.factories)
    return {stage.name: networks.factories.stages.directory(stage).name for stage in stages}


FROM_CCM, FROM_SCORES, FROM_PRUNED = set(ALL_STAGES[1:]), set(ALL_STAGES[2:]), set(ALL_STAGES[3:])


@pytest.mark.parametrize(
    ("key", "value", "others"),
    [
        ("sweep__name", "other", set()),
        ("recipe__retrain_unpruned", True, set()),
        ("recipe__correlation_weight", 0.2, FROM_CCM),
        ("recipe__ccm_epochs", 1, FROM_CCM),
        ("pruning__norm", 2, FROM_SCORES),
        ("recipe__score_batches", 3, FROM_SCORES),
        ("pruning__ratio", 0.375, FROM_PRUNED),
        ("pruning__granularity", "capsule", FROM_PRUNED),
        ("pruning__rounding", "down", FROM_PRUNED),
        ("recipe__renew", False, FROM_PRUNED),
        ("recipe__pruned_epochs", 1, FROM_PRUNED),
        ("model__depth", 2, {"deep"}),
        ("recipe__deep_epochs", 1, {"deep"}),
        ("trainer__max_epochs", 3, set(ALL_STAGES)),
        ("model__squash", "linear", set(ALL_STAGES)),
        ("seed", 1, set(ALL_STAGES)),
    ],
)
def test_a_key_makes_the_stages_anew_that_depend_on_it(quiet: Path, key: str, value: Any, others: set[str]) -> None:
    config = config_of(quiet_cell(quiet))
    before, after = directories(config, quiet), directories(config, quiet, **{key: value})
    assert before == {name: stage.name for name, stage in stages_of(quiet_cell(quiet)).items()}
    assert {name for name in before if before[name] != after[name]} == others


def test_a_prefix_gives_a_logger_of_its_own() -> None:
    logger = SimpleNamespace(of_stage=lambda stage: f"logger of {stage}")
    assert trainers.logger_of(logger, "pruned") == "logger of pruned"
    assert trainers.logger_of(logger, "") is logger
    assert trainers.logger_of(False, "pruned") is trainers.logger_of(False, "") is None


def test_what_decides_a_stage_without_some_keys() -> None:
    config = {
        "data": {"path": None, "source": {}},
        "model": {"depth": 1, "routing": {"iterations": 3}},
        "pruning": {"ratio": 0.5, "norm": 1},
    }
    key = build._work_key(config, ("model.depth", "pruning.ratio", "study", "study.name", "model.routing.other"))
    assert config["pruning"] == {"ratio": 0.5, "norm": 1}, "the config stays as it is"
    for change in ({"model": {**config["model"], "depth": 7}}, {"pruning": {"ratio": 0.1, "norm": 1}}):
        assert build._work_key(config | change, ("model.depth", "pruning.ratio")) == key
        assert build._work_key(config | change, ()) != build._work_key(config, ())
    other = config | {"pruning": {"ratio": 0.5, "norm": 2}}
    assert build._work_key(other, ("model.depth", "pruning.ratio")) != key
    assert build._work_key(other, ("model.depth", "pruning")) == build._work_key(config, ("pruning", "model.depth"))


def test_the_same_widths_from_new_weights_are_a_control(run: Run, small: list[str], in_tmp: Path, quiet: Path) -> None:
    checked = [word for word in small if word != UNCHECKED]
    assert run(*checked, "recipe.inherit=false", "trainer.max_epochs=1") == 0
    cell = the_cell(in_tmp)
    assert computed(cell) == ["scratch"]
    loaded, pruned = load_run(cell), load_run(quiet_cell(quiet))
    assert shapes_of(loaded) == shapes_of(pruned)
    assert loaded.result["training"]["scratch_epochs"] == 1
    assert loaded.result["memory"]["step_bytes"] > 0
    assert loaded.result["metrics"]["pruning/change"] == 0
    assert accuracy(loaded) == pytest.approx(loaded.result["metrics"]["test/acc"], abs=1e-12)


def shapes_of(loaded: LoadedRun) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in loaded.module.state_dict().items()}


# -- other networks and criteria ---------------------------------------------------------------------------------------

CNN_WORDS = ["model=cnn", "model.c2=4", "model.c3=4"]
CAPSNET_WORDS = ["model=capsnet", "model.c1=6", "model.c2=16", "model.decoder=[8]"]


def rarely(*values: object) -> Any:
    """A case of which each part is in another one."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("model", "more", "widths"),
    [
        (CNN_WORDS, ["pruning=cosine"], {"conv1": 4, "conv2": 3, "conv3": 3}),
        rarely(CNN_WORDS, ["pruning=chip", "recipe.score_batches=2", HALF], {"conv1": 3, "conv2": 2, "conv3": 2}),
        rarely(CAPSNET_WORDS, ["pruning=random", "recipe.correlation_weight=0"], {"conv1": 4, "primary": 8}),
        (CAPSNET_WORDS, ["pruning=chip", "pruning.rounding=down", HALF], {"conv1": 3, "primary": 8}),
    ],
)
def test_other_networks_and_criteria(
    run: Run, plain: list[str], in_tmp: Path, model: list[str], more: list[str], widths: dict[str, int]
) -> None:
    assert run(*plain, *model, *more) == 0
    cell = the_cell(in_tmp)
    assert computed(cell) == [
        name for name in ALL_STAGES[:4] if name != "ccm" or "correlation_weight=0" not in more[-1]
    ]
    loaded = load_run(cell)
    assert loaded.module.model.widths() == widths
    assert accuracy(loaded) == pytest.approx(metrics_of(cell)["test/acc"], abs=1e-12)
    scores = {name: array for name, array in arrays_of(cell).items() if name.startswith("scores/")}
    assert scores.keys() == {f"scores/{name}" for name in widths}
    assert all(np.isfinite(array).all() for array in scores.values())


@pytest.mark.parametrize("model", [[*CAPSNET_WORDS, "pruning.granularity=capsule"], CNN_WORDS])
def test_without_renewal_pruning_is_masking(
    run: Run, plain: list[str], monkeypatch: pytest.MonkeyPatch, model: list[str]
) -> None:
    """Right behind the surgery, before anything is trained."""
    seen: list[int] = []
    real = ChannelPruning.setup

    def watched(self: ChannelPruning, trainer: Any, module: Any, stage: str) -> None:
        whole: Prunable = module.model.eval()
        images_BCHW = torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        real(self, trainer, module, stage)
        if stage != "fit":
            return
        with torch.no_grad():
            found = module.model.eval()(images_BCHW)
            for name, layer in whole.channel_layers().items():
                gone = torch.ones(whole.widths()[name], dtype=torch.bool)
                gone[self.kept[name]] = False
                assert gone.any()
                maps = whole.get_submodule(layer.maps)
                maps.register_forward_hook(lambda _, __, out, gone=gone: out.masked_fill(gone[:, None, None], 0))
            torch.testing.assert_close(found, whole(images_BCHW), rtol=0, atol=1e-5)
        module.model.train()
        seen.append(len(found))

    monkeypatch.setattr(ChannelPruning, "setup", watched)
    assert run(*plain, *model, "recipe.renew=false", "recipe.correlation_weight=0", HALF) == 0
    assert seen == [6]


def test_a_network_that_only_guesses_ends_early(run: Run, small: list[str], in_tmp: Path) -> None:
    dead = ["model.depth=2", "model.intermediate_std=1e-3", "callbacks.broken.last=2", "trainer.max_epochs=9"]
    assert run(*small, *dead, "pruning.ratio=0") == 0
    training = body_of(the_cell(in_tmp))["training"]
    assert (training["stopped"], training["broken"], training["epochs"]) == ("broken", True, 2)
    assert training["base_epochs"] == 2
    assert metrics_of(the_cell(in_tmp))["capsules/dead_share"] == 1


# -- what is loaded ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fresh_process_predicts_with_the_pruned_network(quiet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(quiet)
    cell, command = quiet_cell(quiet, 0.5), [sys.executable, str(EXAMPLES / "load_and_predict.py")]
    shown = subprocess.run([*command, str(cell)], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert f"test accuracy here        {metrics_of(cell)['test/acc']:.6f} (24 images)" in shown.stdout


def test_a_pruned_network_is_loaded_in_its_sizes(quiet: Path) -> None:
    cell = quiet_cell(quiet, 0.5)
    model: Any = load_run(cell).module.model
    assert model.widths() == {"conv1": 4, "conv2": 4, "conv3": 8, "primary": 8}
    assert model.depth == 1
    assert count_parameters(model) == body_of(cell)["params"]


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs the extra onnx")
def test_an_exported_cell_is_as_small_as_it_was_pruned(run: Run, plain: list[str], in_tmp: Path) -> None:
    from capsexp.export.cell import export_cell

    assert run(*plain, *CNN_WORDS, HALF, "recipe.correlation_weight=0") == 0
    exported, _ = export_cell(the_cell(in_tmp), None, None, batch=None, opset=None)
    expected = CNN(image_shape=(1, 28, 28), classes=4, c1=3, c2=2, c3=2)
    assert exported.parameters == count_parameters(expected) == body_of(the_cell(in_tmp))["params"]


# -- interruptions -----------------------------------------------------------------------------------------------------


def take_stages(quiet: Path, folder: Path, before: str) -> None:
    """Lay the stages that a cell of :func:`quiet` had before this one into another folder."""
    for name, stage in stages_of(quiet_cell(quiet)).items():
        if name == before:
            return
        shutil.copytree(stage, folder / "multirun" / ".stages" / stage.name)


class Epochs:
    """Remembers which epochs of which stages begin, and breaks off the second one of a stage."""

    def __init__(self, patch: pytest.MonkeyPatch, broken_off: str = "") -> None:
        self.begun: list[tuple[str, int]] = []
        real = History.on_train_epoch_start

        def watch(history: History, trainer: Any, module: Any) -> None:
            stage = Path(trainer.default_root_dir).name.partition("-")[0]
            self.begun.append((stage, trainer.current_epoch))
            if (stage, trainer.current_epoch) == (broken_off, 1):
                raise KeyboardInterrupt
            real(history, trainer, module)

        patch.setattr(History, "on_train_epoch_start", watch)


def interrupted(run: Run, arguments: list[str], folder: Path, stage: str) -> list[tuple[str, int]]:
    """Break a cell off at the start of a stage's second epoch; the epochs that began."""
    with pytest.MonkeyPatch.context() as patch:
        epochs = Epochs(patch, stage)
        assert run(*arguments, "callbacks.resume.min_interval_s=0") == 130
    status = records.read_status(the_cell(folder))
    assert status is not None
    assert status.state == "interrupted"
    (found,) = (folder / "multirun" / ".stages").glob(f"{stage}-*")
    assert (found / records.RESUME_CHECKPOINT).exists()
    assert records.read_result(found, records.STAGE) is None
    return epochs.begun


def resumed(run: Run, arguments: list[str]) -> list[tuple[str, int]]:
    """Give the command again, undisturbed; the epochs that began."""
    torch.manual_seed(99)  # whatever another process would have drawn
    with pytest.MonkeyPatch.context() as patch:
        epochs = Epochs(patch)
        assert run(*arguments, "callbacks.resume.min_interval_s=0") == 0
    return epochs.begun


def test_a_resumed_fit_does_not_choose_channels_again(run: Run, small: list[str], in_tmp: Path, quiet: Path) -> None:
    shallow = [*small, "model.depth=0"]
    take_stages(quiet, in_tmp, "pruned")
    interrupted(run, shallow, in_tmp, "pruned")
    (stage,) = (in_tmp / "multirun" / ".stages").glob("pruned-*")
    (scores,) = (in_tmp / "multirun" / ".stages").glob("scores-*")
    facts = facts_of(scores)
    reversed_scores = {name: values[::-1] for name, values in facts["scores"].items()}
    records.write_result(scores, facts | {"scores": reversed_scores}, records.STAGE)
    assert resumed(run, shallow) == [("pruned", 1)]
    expected = stages_of(quiet_cell(quiet))["pruned"]
    assert stage.name == expected.name
    assert facts_of(stage)["kept"] == facts_of(expected)["kept"]
    assert_same_weights(stage, expected)
    layers = load_run(the_cell(in_tmp)).module.model.channel_layers()
    again = {name: Selection(0.25).keep(layers[name], torch.tensor(each)) for name, each in reversed_scores.items()}
    assert any(again[name].tolist() != kept for name, kept in facts_of(stage)["kept"].items())


def test_interrupted_while_scoring_begins_that_stage_again(
    run: Run, small: list[str], in_tmp: Path, quiet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    shallow = [*small, "model.depth=0"]
    take_stages(quiet, in_tmp, "scores")
    with monkeypatch.context() as patch:
        patch.setattr(Magnitude, "scores", fail)
        assert run(*shallow) == 130
    take_stages_from(quiet, in_tmp, "pruned")
    assert run(*shallow) == 0
    assert computed(the_cell(in_tmp)) == ["scores", "scores"]
    (scores,) = (in_tmp / "multirun" / ".stages").glob("scores-*")
    assert facts_of(scores) == facts_of(stages_of(quiet_cell(quiet))["scores"])


def take_stages_from(quiet: Path, folder: Path, name: str) -> None:
    stage = stages_of(quiet_cell(quiet))[name]
    shutil.copytree(stage, folder / "multirun" / ".stages" / stage.name)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["pruning.ratio=1"], "pruning.ratio must be a number in [0, 1), got 1"),
        (["pruning.ratio=-0.1"], "pruning.ratio must be a number in [0, 1), got -0.1"),
        (["pruning.granularity=x"], "pruning.granularity must be one of channel, capsule, got 'x'"),
        (["pruning.rounding=x"], "pruning.rounding must be one of up, down, released, got 'x'"),
        (["pruning.norm=3"], "pruning.norm must be a whole number from 1 to 2, got 3"),
        (["recipe.correlation_weight=-1"], "recipe.correlation_weight must be a number in [0, inf), got -1"),
        (["recipe.score_batches=0"], "recipe.score_batches must be a whole number >= 1, got 0"),
        (["recipe.deep_epochs=0"], "recipe.deep_epochs must be a whole number >= 1, got 0"),
        (["recipe.inherit=1"], "recipe.inherit must be true or false, got 1"),
        (["model.depth=-1"], "model.depth must be a whole number from 0 to 1000, got -1"),
        (
            ["model=baseline_cnn"],
            "model must be a network whose channels can be pruned (cnn, or one with capsules), got 'BaselineCNN'",
        ),
        (["model=baseline_cnn", "recipe.inherit=false"], "model must be a network whose channels can be pruned"),
    ],
)
def test_a_bad_value_is_one_line_before_anything_is_trained(
    run: Run, tiny_npz: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    model = [] if words[0].startswith("model=") else ["model=deep_capsnet", "model.capsules=2", "model.dim=2"]
    assert run(*common(tiny_npz), *model, *words) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert line in told[0]
    assert not (in_tmp / "multirun" / ".stages").exists()


class NoNumbers(Magnitude):
    """What a criterion of a user's own might give."""

    def scores(self, layer: Layer) -> torch.Tensor:
        return super().scores(layer).fill_(torch.nan)


def test_scores_that_are_no_numbers_are_one_line(
    run: Run, small: list[str], in_tmp: Path, quiet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    take_stages(quiet, in_tmp, "scores")
    assert run(*small, f"pruning._target_={__name__}.NoNumbers") == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert re.search(r"scores.* must be finite, got 'NaN or infinity'$", told[0])


def test_a_network_without_channels_to_prune_may_be_a_base(run: Run, plain: list[str], in_tmp: Path) -> None:
    assert run(*plain, "model=baseline_cnn", "pruning.ratio=0") == 0
    assert computed(the_cell(in_tmp)) == ["base"]
    assert "base/channel_correlation" not in metrics_of(the_cell(in_tmp))
