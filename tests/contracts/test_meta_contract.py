"""No step waits for the device: every part of one runs on ``meta``, where there is no number to read.

Models, routings, augmentations and criteria are those of ``conf/``, losses, metrics and callbacks those of their
packages; new ones join in.  A metric needs a line in ``UPDATES`` (``parts.py``) and a callback one in ``CALLBACKS``.
"""

import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, get_args

import lightning as L
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor
from torchmetrics import Metric

import capsexp.callbacks
import capsexp.lightning_modules
import capsexp.losses
import capsexp.metrics
from capsexp import build, rng
from capsexp.callbacks.activity_vectors import ActivityVectors
from capsexp.callbacks.base import ResultCallback
from capsexp.callbacks.channel_correlation import ChannelCorrelation
from capsexp.callbacks.channel_pruning import ChannelPruning
from capsexp.callbacks.channel_scores import ChannelScores
from capsexp.callbacks.collapse import CollapseGuard
from capsexp.callbacks.coupling_analysis import CouplingAnalysis
from capsexp.callbacks.criterion_scores import CriterionScores
from capsexp.callbacks.dead_capsules import DeadCapsuleLogger
from capsexp.callbacks.divergence import DivergenceGuard
from capsexp.callbacks.freeze import Freeze
from capsexp.callbacks.history import History
from capsexp.callbacks.kernel_similarity import KernelSimilarityLogger
from capsexp.callbacks.lr_decay import LearningRateDecay
from capsexp.callbacks.master_coefficients import MasterCoefficients
from capsexp.callbacks.memory_check import MemoryCheck
from capsexp.callbacks.peak import Peak
from capsexp.callbacks.progress import ProgressFile
from capsexp.callbacks.reconstructions import Reconstructions
from capsexp.callbacks.resume import ResumeCheckpoint
from capsexp.callbacks.vanishing import VanishingLogger
from capsexp.data.arrays import Arrays
from capsexp.data.augment import SCHEMES, Augment
from capsexp.data.base import ImageDataModule
from capsexp.data.loaders import EvalLoader, Part, TrainLoader
from capsexp.lightning_modules.base import BaseModule
from capsexp.nn import votes
from capsexp.nn.capsules import Inference, capsule_layers, set_inference
from capsexp.pruning.base import Layer
from capsexp.pruning.chip import Chip, channel_independence, quadrature
from capsexp.pruning.magnitude import Magnitude
from capsexp.pruning.selection import Selection
from capsexp.stacking.convolutions import Impl
from capsexp.stacking.folding import foldable
from capsexp.stacking.stack import Stack
from capsexp.stacking.streams import StackBatch
from capsexp.types import Batch
from tests.contracts.meta import Draw, Watch, empty, labels
from tests.contracts.parts import (
    BATCH,
    CLASSES,
    META,
    SHAPE,
    SIZES,
    UPDATES,
    Case,
    cases,
    classes_of,
    composed,
    criterion,
    modules_of,
    names,
)

READS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        # -- callbacks: behind an epoch's batches -------------------------------------------------------------------
        "CollapseGuard": {"on_validation_end": "the epoch's accuracy decides whether the fit goes on"},
        "DeadCapsuleLogger": {
            "on_validation_epoch_end": "the epoch's shares are logged as numbers",
            "on_test_end": "the test's shares and lengths go into the result",
        },
        "CouplingDynamics": {"compute": "the figures of a layer are numbers; once an epoch"},
        "DivergenceGuard": {
            "on_validation_start": "the note of a bad step decides whether the epoch's weights are judged",
            "on_train_epoch_end": "the same where an epoch has no validation",
        },
        "History": {"on_train_epoch_end": "an epoch's metrics become a row of metrics.csv"},
        "KernelSimilarityLogger": {"on_train_epoch_end": "the epoch's similarities are logged as numbers"},
        "Peak": {"on_validation_end": "the epoch's measures decide what the peak is and whether the fit goes on"},
        "ResumeCheckpoint": {"on_train_epoch_end": "a checkpoint is a file; one in min_interval_s at most"},
        "VanishingLogger": {
            "on_train_start": "the values of the untrained network are numbers; once in a fit",
            "on_validation_epoch_end": "the epoch's values are logged as numbers",
        },
        # -- callbacks: behind a pass over a finished network -------------------------------------------------------
        "ChannelScores": {"on_predict_batch_end": "a criterion's scores come to the CPU; a pass without training"},
        "MasterCoefficients": {"teardown": "behind the last pass: is there a class without images, is all finite?"},
        # -- criteria: once a layer and a batch of a scoring pass ---------------------------------------------------
        "Layer": {"__post_init__": "weights that are not finite are refused before anything is scored"},
        "Chip": {"scores": "maps that are not finite are refused, and scores come to the CPU"},
        "Cosine": {"scores": "filters are eliminated one by one, on the CPU"},
        "Magnitude": {"scores": "scores come to the CPU"},
        "channel_independence of no more channels than places": {
            "score": "how many eigenvalues are doubtful decides how many are computed anew"
        },
        # -- stacks: between epochs ---------------------------------------------------------------------------------
        "Stack": {
            "on_train_epoch_end": "each member is told its first bad step",
            "on_train_epoch_start": "each member's count of steps decides which arithmetic all of them share",
        },
    }
)
"""What reads from the device, by method, and why; nothing here is a part of a training step."""


def test_everything_on_the_list_is_there() -> None:
    parts = [*classes_of(capsexp.callbacks, L.Callback), *classes_of(capsexp.metrics, Metric)]
    known = {each.__name__ for each in parts} | {type(criterion(name)).__name__ for name in names("pruning")}
    known |= {"Layer", "Stack", "channel_independence of no more channels than places"}
    assert set(READS) <= known, "a part that does not exist cannot read; take it out of READS"


@pytest.fixture(autouse=True)
def _meta_is_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch lacks on ``meta`` and a step needs.

    Its fused Adam has a kernel, but asks for a device that computes; there are no generators; and ``is_set_to``, which
    compares addresses on the host, has no kernel.
    """
    adam = importlib.import_module("torch.optim.adam")  # torch.optim deletes the name of its module
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_, **__: None)
    monkeypatch.setattr(rng, "stream", lambda _: torch.Generator())
    monkeypatch.setattr(votes, "_same_memory", _same_storage)


def _same_storage(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage()._cdata == other.untyped_storage()._cdata


# -- networks: every model x routing x loss ---------------------------------------------------------------------------


def some_batch(images: int = BATCH) -> Batch:
    return Batch(empty(images, *SHAPE), labels(images), empty(images, *SHAPE, dtype=torch.uint8))


def train(module: BaseModule, watch: Watch, optimizer: Any) -> None:
    def step() -> None:
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    batch = some_batch()
    module.train()
    watch.step("training_step", step)


def evaluate(module: BaseModule, watch: Watch) -> None:
    module.eval()
    batch = some_batch()
    with torch.inference_mode():
        for step in (module.validation_step, module.predict_step):  # tests are among the passes of callbacks
            if step != module.predict_step or "acc" in module.measures:  # what draws alone has no scores
                watch.step("an evaluation step", partial(step, batch, 0))


@pytest.mark.parametrize("model", names("model"))
def test_steps_of_a_network(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in cases(model):
        module, watch = case.build(), Watch(str(case), READS)
        train(module, watch, module.configure_optimizers())
        if not case.correlated:  # its reward is the same function in training
            evaluate(module, watch)
        logged: list[str] = []
        monkeypatch.setattr(module, "log", lambda name, _, logged=logged: logged.append(name))
        for split, end in (("train", "train"), ("val", "validation"))[: 1 if case.correlated else 2]:
            watch.once(f"on_{end}_epoch_end", getattr(module, f"on_{end}_epoch_end"))
            assert f"{split}/loss" in logged
        watch.done()


@pytest.mark.parametrize("model", [name for name in names("model") if "caps" in name])
def test_evaluation_with_master_coefficients(model: str) -> None:
    case = next(each for each in cases(model) if each.routing == "dynamic")
    module = case.build()
    for layer in capsule_layers(module.model).values():
        layer.master_JI = empty(layer.weight.shape[0], layer.child_count)
    for inference in get_args(Inference):
        set_inference(module.model, inference)
        evaluate(module, Watch(f"{case} with inference {inference}", READS))


def test_every_loss_is_one_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {
        function
        for module in modules_of(capsexp.losses)
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
    }
    used: set[Any] = set()

    def noted(loss: Any) -> Any:
        return lambda *given, **options: used.add(loss) or loss(*given, **options)  # type: ignore[func-returns-value]

    for module in modules_of(capsexp.lightning_modules):
        for name, value in list(vars(module).items()):
            if inspect.isfunction(value) and value in losses:
                monkeypatch.setattr(module, name, noted(value))
    for model in names("model"):
        first = cases(model)[0].routing
        for case in cases(model):
            if case.routing in (first, "self_routing", "em"):
                case.build().step(some_batch())
    missing = sorted(loss.__name__ for loss in losses - used)
    assert not missing, f"no step of a module has the loss {', '.join(missing)}"


# -- metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", classes_of(capsexp.metrics, Metric))
def test_a_metric(kind: type[Metric]) -> None:
    assert kind in UPDATES, f"{kind.__name__} needs a line in UPDATES: how is it made, and what is an update given?"
    make, updates = UPDATES[kind]
    for given in updates:
        metric, watch = make().to(META), Watch(kind.__name__, READS)
        for _ in range(3):
            watch.step("update", lambda metric=metric, given=given: metric.update(*given(Draw())))
        watch.once("compute", metric.compute)
        watch.once("reset", metric.reset)
        watch.done()


# -- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names("augment"))
def test_batches(name: str) -> None:
    augment = instantiate(composed(f"augment={name}")["augment"])
    assert isinstance(augment, Augment)
    part = Part(empty(3 * BATCH - 1, 3, 32, 32, dtype=torch.uint8), labels(3 * BATCH - 1))
    for scheme in SCHEMES:
        for loader in (
            TrainLoader(part, augment, scheme, BATCH, torch.Generator()),
            EvalLoader(part, augment, scheme, BATCH),
        ):
            watch = Watch(name, READS)
            for _ in range(2):
                batches = iter(loader)
                batch = watch.once("the first batch, with the epoch's random numbers", batches.__next__)
                for _ in range(len(loader) - 1):
                    batch = watch.step("a batch", batches.__next__)
                assert {each.device for each in batch} == {META}


# -- criteria ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names("pruning"))
def test_a_criterion(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight_OCHW, maps_BCHW = empty(8, 3, 3, 3), empty(BATCH, 8, 5, 5)
    layers = Watch("Layer", READS)
    layers.once("__post_init__", lambda: Layer("conv", weight_OCHW, maps_BCHW))
    layers.done()
    monkeypatch.setattr(Layer, "__post_init__", lambda _: None)
    made = criterion(name)
    watch = Watch(type(made).__name__, READS)
    watch.once("scores", lambda: made.scores(Layer("conv", weight_OCHW, maps_BCHW)))
    watch.done()


@pytest.mark.parametrize(("channels", "more"), [(6, "no more channels than places"), (12, "more channels than places")])
def test_the_arithmetic_of_chip(channels: int, more: str) -> None:
    rule, watch = quadrature(48).on(META), Watch(f"channel_independence of {more}", READS)
    for _ in range(2):
        watch.step("score", lambda: channel_independence(empty(BATCH, channels, 9), rule))
    watch.done()


# -- callbacks --------------------------------------------------------------------------------------------------------

CALLBACKS: Mapping[type[L.Callback], tuple[Callable[[], L.Callback], str]] = {
    ActivityVectors: (ActivityVectors, "capsnet"),
    CollapseGuard: (CollapseGuard, "cnn"),
    ChannelCorrelation: (ChannelCorrelation, "deep_capsnet"),
    ChannelPruning: (
        lambda: ChannelPruning(Selection(0.25), {"conv2": torch.arange(16.0)}, make_narrower),
        "cnn",
    ),
    ChannelScores: (lambda: ChannelScores(Chip()), "cnn"),
    CouplingAnalysis: (lambda: CouplingAnalysis(correlated=BATCH + 1, shown=BATCH + 1), "capsnet"),
    CriterionScores: (lambda: CriterionScores(Magnitude()), "cnn"),
    DeadCapsuleLogger: (DeadCapsuleLogger, "deep_capsnet"),
    DivergenceGuard: (DivergenceGuard, "cnn"),
    Freeze: (lambda: Freeze(parameters=["layers.conv1.*"], modules=["layers.conv2"]), "cnn"),
    History: (History, "cnn"),
    KernelSimilarityLogger: (KernelSimilarityLogger, "cnn"),
    LearningRateDecay: (lambda: LearningRateDecay(warmup=1), "cnn"),
    MasterCoefficients: (MasterCoefficients, "deep_capsnet"),
    MemoryCheck: (MemoryCheck, "cnn"),
    Peak: (Peak, "cnn"),
    ProgressFile: (lambda: ProgressFile(Path(os.devnull), "", History()), "cnn"),
    Reconstructions: (Reconstructions, "autoencoder"),
    ResumeCheckpoint: (lambda: ResumeCheckpoint(min_interval_s=0), "cnn"),
    VanishingLogger: (VanishingLogger, "deep_capsnet"),
}
"""How each callback is made, and the model that it is for."""


def make_narrower(**sizes: Any) -> Any:
    with META:
        return build.make_model(Case("cnn").config, **(SIZES | sizes))


ELSEWHERE = frozenset({"on_exception", "on_save_checkpoint", "on_load_checkpoint"})
"""Hooks of Lightning that belong to no pass over the images."""


class Passes:
    """A fit with its validation, a test and a prediction, hook by hook, as Lightning calls a callback."""

    def __init__(self, kind: type[L.Callback], folder: Path) -> None:
        make, model = CALLBACKS[kind]
        self.callback, self.module = make(), Case(model).build()
        self.watch = Watch(kind.__name__, READS)
        self.heard: set[str] = set()
        self.module.log = lambda name, value: None  # type: ignore[assignment, method-assign]
        measures: dict[str, Tensor] = {"val/acc": empty(), "val/loss": empty(), "train/loss": empty()}
        self.trainer: Any = SimpleNamespace(
            callback_metrics=measures,
            callbacks=[self.callback],
            current_epoch=0,
            datamodule=some_data(seed=0),
            default_root_dir=str(folder),
            global_step=0,
            interrupted=False,
            max_epochs=1,
            num_predict_batches=[2],
            optimizers=[],
            precision_plugin=Precision(),
            sanity_checking=False,
            save_checkpoint=lambda path: torch.save([each.cpu() for each in self.module.parameters()], path),
            should_stop=False,
            state=SimpleNamespace(fn="fit"),
        )

    def hear(self, hook: str, *given: Any) -> None:
        """The callback's hook; those of batches are parts of a step."""
        self.heard.add(hook)
        part = self.watch.step if "_batch_" in hook or hook in STEP else self.watch.once
        part(hook, lambda: getattr(self.callback, hook)(self.trainer, self.module, *given))

    def fit(self) -> None:
        self.hear("setup", "fit")
        (optimizer,) = self.trainer.optimizers = [self.module.configure_optimizers()]
        for hook in ("on_fit_start", "on_train_start", "on_train_epoch_start"):
            self.hear(hook)
        self.module.train()
        for number in range(2):
            batch = some_batch()
            self.hear("on_train_batch_start", batch, number)
            loss = self.watch.step("forward", partial(self.module.training_step, batch, number))
            self.hear("on_before_zero_grad", optimizer)
            optimizer.zero_grad()
            self.hear("on_before_backward", loss)
            self.watch.step("backward", loss.backward)
            self.hear("on_after_backward")
            self.hear("on_before_optimizer_step", optimizer)
            self.watch.step("optimizer_step", optimizer.step)
            self.trainer.global_step += 1
            self.hear("on_train_batch_end", loss, batch, number)
        self.batches("validation", self.module.validation_step)
        for hook in ("on_train_epoch_end", "on_train_end", "on_fit_end"):
            self.hear(hook)
        self.hear("teardown", "fit")

    def examine(self, stage: str) -> None:
        self.trainer.state.fn = stage
        self.hear("setup", stage)
        self.batches(stage, getattr(self.module, f"{stage}_step"))
        self.hear("teardown", stage)

    def batches(self, stage: str, step: Callable[[Batch, int], Any]) -> None:
        self.module.eval()
        with torch.inference_mode():
            self.hear(f"on_{stage}_start")
            self.hear(f"on_{stage}_epoch_start")
            for number in range(2):
                batch = some_batch()
                self.hear(f"on_{stage}_batch_start", batch, number)
                output = self.watch.step("forward", partial(step, batch, number))
                self.hear(f"on_{stage}_batch_end", output, batch, number)
            self.hear(f"on_{stage}_epoch_end")
            self.hear(f"on_{stage}_end")


STEP = frozenset({"on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"})
"""Hooks of a training step whose names do not say so."""


@pytest.mark.parametrize("kind", [each for each in classes_of(capsexp.callbacks, L.Callback) if each != ResultCallback])
def test_a_callback(kind: type[L.Callback], tmp_path: Path) -> None:
    assert kind in CALLBACKS, f"{kind.__name__} needs a line in CALLBACKS: how is it made, and which model is it for?"
    passes = Passes(kind, tmp_path)
    passes.fit()
    passes.examine("test")
    passes.examine("predict")
    hooks = [name for name in dir(L.Callback) if name.startswith("on_") or name in ("setup", "teardown")]
    own = {name for name in hooks if getattr(kind, name) is not getattr(L.Callback, name)}
    assert own <= passes.heard | ELSEWHERE, f"{kind.__name__}: this test does not call {own - passes.heard - ELSEWHERE}"
    passes.watch.done()


# -- stacks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noise:
    """Images of all classes."""

    def key(self) -> str:
        return "noise on meta"

    def load(self) -> Arrays:
        images, classes = np.zeros((60, 1, 32, 32), np.uint8), np.arange(60) % CLASSES
        return Arrays(images, classes, images[:20], classes[:20], "noise", "embedded")


def some_data(seed: int) -> ImageDataModule:
    augment = instantiate(composed("augment=crop28")["augment"])
    data = ImageDataModule(source=Noise(), augment=augment, batch_size=25, val_share=0.2, seed=seed)
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=META))  # type: ignore[assignment]
    data.setup()
    return data


@dataclass(frozen=True)
class FusedAdam:
    """What the members of a stack may differ in."""

    impl: Impl
    seeds: tuple[int, ...] = (0, 0)
    rates: tuple[float, ...] = (0.1, 0.1)
    limits: tuple[float | None, ...] = (None, None)
    clipping: str = "norm"


SETTINGS = (
    FusedAdam("loop", limits=(0.5, 0.5), clipping="value"),
    FusedAdam("grouped", seeds=(0, 1, 1), rates=(0.1, 0.2, 0.1), limits=(0.5, None, 1.0)),
    FusedAdam("unfold", seeds=(0, 1)),
    FusedAdam("vmap", seeds=(0, 1)),
)


def stacked(case: Case, how: FusedAdam) -> None:
    members = []
    for seed, rate, limit in zip(how.seeds, how.rates, how.limits, strict=True):
        module = case.build()
        (optimizer,) = optimizers = [module.configure_optimizers()]
        optimizer.param_groups[0]["lr"] = rate
        trainer = SimpleNamespace(optimizers=optimizers, callbacks=[], gradient_clip_val=limit)
        context = SimpleNamespace(noise=rng.stream, set_noise=lambda _: None)
        members.append(SimpleNamespace(module=module, data=some_data(seed), trainer=trainer, context=context))
    watch = Watch("Stack", READS)
    stack: Any = Stack(members, how.impl, lambda _: True)  # type: ignore[arg-type]
    stack.to(META)

    def step(batch: StackBatch) -> None:
        loss = stack.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        stack.configure_gradient_clipping(optimizer, None, how.clipping)
        optimizer.step()

    optimizer = stack.configure_optimizers()
    stack.train()
    watch.once("the first epoch's start", stack.on_train_epoch_start)
    first, second = stack.train_loader
    if any(how.limits):
        watch.once("the first step, with limits that are sent to the device", partial(step, first))
    watch.step("training_step", partial(step, second))
    stack.eval()
    with torch.inference_mode():
        for batch in stack.val_loader:
            watch.step("validation_step", partial(stack.validation_step, batch, 0))
    watch.once("on_train_epoch_end", stack.on_train_epoch_end)
    watch.once("on_train_epoch_start", stack.on_train_epoch_start)
    watch.done()


@pytest.mark.parametrize("model", names("model"))
def test_steps_of_a_stack(model: str) -> None:
    assert {each.impl for each in SETTINGS} == set(get_args(Impl)), "a impl of the convolutions has no stack here"
    every = [case for case in cases(model) if not case.correlated]
    alike = [case for case in every if foldable(case.build().model)]
    promised = bool(every[0].build().model.stackable)  # type: ignore[arg-type]
    assert bool(alike) or not promised, f"{model} says that it can be stacked, but no stack of it was made"
    for number, case in enumerate(alike if promised else []):
        several = SETTINGS[:2] if case.routing else SETTINGS  # the impls are those of networks without capsules too
        for how in several if number == 0 else SETTINGS[-1:]:
            stacked(case, how)
