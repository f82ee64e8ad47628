"""Scores over batches, the moment when channels go, and how alike the channels of a test are."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from capsexp import records
from capsexp.callbacks.channel_correlation import ChannelCorrelation
from capsexp.callbacks.channel_pruning import ChannelPruning
from capsexp.callbacks.channel_scores import ChannelScores
from capsexp.callbacks.resume import ResumeCheckpoint
from capsexp.errors import ConfigError
from capsexp.lightning_modules.capsnet import CapsNetModule
from capsexp.models.deep_capsnet import DeepCapsNet
from capsexp.nn.channels import FeatureMaps
from capsexp.pruning.base import Criterion, Layer
from capsexp.pruning.magnitude import Magnitude
from capsexp.pruning.selection import Selection
from capsexp.pruning.surgery import shrink
from capsexp.routing.dynamic import Dynamic
from capsexp.types import Batch
from tests.references import ccm as reference

# Hints, which `build` keeps away from cells.
pytestmark = pytest.mark.filterwarnings("ignore:.*(treespec, LeafSpec|does not have many workers).*")

SHAPE = (1, 9, 9)
SIZES = (5, 5, 2, 4, 1, 3, 5)
"""Images of each batch."""


class MeanOfMaps(Criterion):
    """Remembers how large the batches were."""

    needs: ClassVar[Literal["weights", "maps"]] = "maps"

    def __init__(self, fail_at: int = 0) -> None:
        self.seen: list[tuple[str, int]] = []
        self.fail_at = fail_at

    def scores(self, layer: Layer) -> Tensor:
        assert layer.maps_BCHW is not None
        self.seen.append((layer.name, len(layer.maps_BCHW)))
        if len(self.seen) == self.fail_at:
            raise RuntimeError("broken")
        return layer.maps_BCHW.double().mean((0, 2, 3))


class Batches:
    """A loader of batches of these sizes."""

    def __init__(self, sizes: tuple[int, ...] = SIZES) -> None:
        generator = torch.Generator().manual_seed(0)
        images_BCHW = torch.randn(sum(sizes), *SHAPE, generator=generator)
        labels_B = torch.arange(sum(sizes)) % 3
        parts = zip(images_BCHW.split(sizes), labels_B.split(sizes), strict=True)
        self.batches = [Batch(images, labels, images) for images, labels in parts]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def make_model(**sizes: Any) -> DeepCapsNet:
    torch.manual_seed(3)
    given = {"image_shape": SHAPE, "classes": 3, "capsules": 4, "dim": 2, "dim_class": 4}
    return DeepCapsNet(**{**given, "routing": Dynamic, **sizes})


def made() -> CapsNetModule:
    known = {"image_shape": list(SHAPE), "classes": 3}
    return CapsNetModule(model=make_model(), make_optimizer=partial(torch.optim.SGD, lr=0.1), sizes=known)


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., L.Trainer]:
    def make(*callbacks: L.Callback, **options: Any) -> L.Trainer:
        quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        quiet |= {"num_sanity_val_steps": 0, "log_every_n_steps": 1, "accelerator": "cpu"}
        return L.Trainer(callbacks=list(callbacks), default_root_dir=tmp_path, **quiet, **options)

    return make


def hooks(module: nn.Module) -> int:
    return sum(len(each._forward_hooks) for each in module.modules())


# -- scores ------------------------------------------------------------------------------------------------------------


def predicted(trainer: Callable[..., L.Trainer], module: CapsNetModule, listener: ChannelScores) -> dict[str, Tensor]:
    trainer(listener).predict(module, Batches(), return_predictions=False)
    return listener.scores


def at_once(module: CapsNetModule, chosen: list[int]) -> dict[str, Tensor]:
    """The scores of these batches' images as one batch."""
    images_BCHW = torch.cat([batch.images_BCHW for number, batch in enumerate(Batches()) if number in chosen])
    with torch.no_grad(), FeatureMaps(module.model.eval()) as maps:
        module(images_BCHW)
        return {name: found.double().mean((0, 2, 3)) for name, found in maps.last.items()}


@pytest.mark.parametrize(
    ("batches", "chosen"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6]),
        (7, [0, 1, 2, 3, 4, 5, 6]),
        (100, [0, 1, 2, 3, 4, 5, 6]),
        (3, [0, 3, 6]),
        (4, [0, 2, 4, 6]),
        (2, [0, 6]),
        (1, [0]),
    ],
)
def test_scores_are_the_mean_over_the_images_of_evenly_spread_batches(
    trainer: Callable[..., L.Trainer], batches: int | None, chosen: list[int]
) -> None:
    module, criterion = made(), MeanOfMaps()
    found = predicted(trainer, module, ChannelScores(criterion, batches))
    assert [images for name, images in criterion.seen if name == "conv1"] == [SIZES[number] for number in chosen]
    expected = at_once(module, chosen)
    assert list(found) == ["conv1", "conv2", "conv3", "primary"]
    for name, scores in found.items():
        assert scores.dtype == torch.float64
        torch.testing.assert_close(scores, expected[name], rtol=1e-5, atol=1e-7)
    assert hooks(module) == 0


def test_scores_begin_anew_with_each_prediction(trainer: Callable[..., L.Trainer]) -> None:
    module, listener = made(), ChannelScores(MeanOfMaps(), 2)
    first = predicted(trainer, module, listener)
    second = predicted(trainer, module, listener)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_criterion_that_fails_leaves_the_model_as_it_was(trainer: Callable[..., L.Trainer]) -> None:
    module = made()
    with pytest.raises(RuntimeError, match="broken"):
        predicted(trainer, module, ChannelScores(MeanOfMaps(fail_at=6)))
    assert hooks(module) == 0


def test_weights_are_scored_without_images() -> None:
    model = make_model()
    found = ChannelScores(Magnitude()).of_weights(model)
    for name, scores in found.items():
        assert torch.equal(scores, Magnitude().scores(Layer(name, model.convolution(name).weight)))
    assert list(found) == list(model.channel_layers())


@pytest.mark.parametrize("batches", [0, -1, 1.5, True])
def test_the_number_of_batches_is_checked(batches: Any) -> None:
    with pytest.raises(ConfigError, match=r"^batches must be a whole number >= 1, got"):
        ChannelScores(Magnitude(), batches)


# -- pruning -----------------------------------------------------------------------------------------------------------


def scores(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    widths = make_model().widths()
    return {name: torch.rand(width, generator=generator, dtype=torch.float64) for name, width in widths.items()}


def fitted(trainer: Callable[..., L.Trainer], module: CapsNetModule, *callbacks: L.Callback) -> None:
    trainer(*callbacks, max_epochs=1).fit(module, Batches(), Batches())


def test_channels_go_before_there_is_an_optimizer(
    trainer: Callable[..., L.Trainer], caplog: pytest.LogCaptureFixture
) -> None:
    module, chosen = made(), Selection(0.5)
    whole = module.model
    pruning = ChannelPruning(chosen, scores(), make_model)
    seen: list[dict[str, int]] = []

    class Watch(L.Callback):
        def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            seen.append(pl_module.model.widths())
            (group,) = trainer.optimizers[0].param_groups
            assert [id(each) for each in group["params"]] == [id(each) for each in pl_module.parameters()]

    with caplog.at_level(logging.INFO, "capsexp"):
        fitted(trainer, module, pruning, Watch())
    assert seen == [{"conv1": 2, "conv2": 2, "conv3": 4, "primary": 4}] == [module.model.widths()]
    assert whole.widths() == {"conv1": 2, "conv2": 4, "conv3": 8, "primary": 8}
    assert "pruned: conv1 2 to 2, conv2 4 to 2, conv3 8 to 4, primary 8 to 4" in caplog.messages
    layers = whole.channel_layers()
    assert pruning.kept.keys() == layers.keys()
    for name, stay in pruning.kept.items():
        assert torch.equal(stay, chosen.keep(layers[name], scores()[name]))


def test_sizes_travel_with_the_module() -> None:
    module = made()
    ChannelPruning(Selection(0.5), scores(), make_model).setup(L.Trainer(**QUIET), module, "fit")
    sizes = {"image_shape": [1, 9, 9], "classes": 3, "primary": 4, "backbone": [2, 2, 4], "depth": 0}
    assert module.hparams["sizes"] == sizes
    assert make_model(**sizes).load_state_dict(module.model.state_dict())


QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "accelerator": "cpu",
}


@pytest.mark.parametrize("stage", ["test", "validate", "predict"])
def test_only_a_fit_prunes(stage: str) -> None:
    module = made()
    before, pruning = module.model, ChannelPruning(Selection(0.5), scores(), make_model)
    pruning.setup(L.Trainer(**QUIET), module, stage)
    assert module.model is before
    assert pruning.kept == {}


@pytest.mark.parametrize("renew", [True, False])
def test_what_stays_is_what_surgery_leaves(renew: bool) -> None:
    module = made()
    whole = module.model
    pruning = ChannelPruning(Selection(0.5, "capsule"), scores(), make_model, renew=renew)
    pruning.setup(L.Trainer(**QUIET), module, "fit")
    expected = shrink(whole, pruning.kept, make_model, renew=renew).state_dict()
    found = module.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    types = pruning.kept["primary"][::2] // 2
    children = (types[:, None] * 4 + torch.arange(4)).flatten()  # the grid has 2x2 places
    carried = whole.class_capsules.weight[..., children]
    assert torch.equal(found["class_capsules.weight"], carried) != renew


def test_a_resumed_fit_keeps_the_channels_that_it_had(trainer: Callable[..., L.Trainer], tmp_path: Path) -> None:
    """Whatever the scores say now."""
    first = ChannelPruning(Selection(0.5), scores(0), make_model)
    fitted(trainer, made(), first, ResumeCheckpoint(0))
    assert (tmp_path / records.RESUME_CHECKPOINT).exists()
    for change in ({"scores": scores(1)}, {"selection": Selection(0.25)}):
        again = ChannelPruning(**{"selection": Selection(0.5), "scores": scores(0), "make_model": make_model} | change)
        module = made()
        again.setup(trainer(again, ResumeCheckpoint(0)), module, "fit")
        assert all(torch.equal(first.kept[name], stay) for name, stay in again.kept.items())
        assert again.kept.keys() == first.kept.keys()
        assert module.model.widths() == {"conv1": 2, "conv2": 2, "conv3": 4, "primary": 4}
    other = ChannelPruning(Selection(0.5), scores(1), make_model)
    other.setup(trainer(other), made(), "fit")  # it could not go on
    assert any(not torch.equal(first.kept[name], stay) for name, stay in other.kept.items())


# -- correlation -------------------------------------------------------------------------------------------------------


def test_correlations_of_a_test_are_the_mean_over_its_images(trainer: Callable[..., L.Trainer]) -> None:
    module, listener = made(), ChannelCorrelation()
    assert listener.result_metrics(module) == {}
    for _ in range(2):  # the second begins anew
        trainer(listener).test(module, Batches(), verbose=False)
    expected: dict[str, float] = {}
    for batch in Batches():
        for name, value in correlations(module, batch).items():
            expected[name] = expected.get(name, 0) + value * len(batch.labels_B) / sum(SIZES)
    found = listener.result_metrics(module)
    assert found.keys() == {"channel_correlation", *(f"channel_correlation/{name}" for name in expected)}
    for name, value in expected.items():
        assert found[f"channel_correlation/{name}"] == pytest.approx(value, abs=1e-5)
    assert found["channel_correlation"] == pytest.approx(sum(expected.values()) / 4, abs=1e-5)
    assert hooks(module) == 0


def correlations(module: CapsNetModule, batch: Batch) -> dict[str, float]:
    with torch.no_grad(), FeatureMaps(module.model.eval()) as maps:
        module(batch.images_BCHW)
        return {name: reference.channel_correlation(found.double().numpy()) for name, found in maps.last.items()}


def test_a_test_that_fails_leaves_the_model_as_it_was(trainer: Callable[..., L.Trainer]) -> None:
    module = made()

    class Fail(L.Callback):
        def on_test_batch_start(self, *_: Any) -> None:
            assert hooks(module) == 4
            raise KeyError

    with pytest.raises(KeyError):
        trainer(ChannelCorrelation(), Fail()).test(module, Batches(), verbose=False)
    assert hooks(module) == 0
