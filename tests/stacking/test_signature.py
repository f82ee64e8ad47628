"""Which fits go together, and which go alone: asked of cells' fits at the moment when their first epoch begins."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from capsexp import build, resolvers
from capsexp.callbacks.divergence import DivergenceGuard
from capsexp.callbacks.freeze import Freeze
from capsexp.lightning_modules.base import BaseModule
from capsexp.lightning_modules.classifier import ClassifierModule
from capsexp.lightning_modules.quiet import quiet_lightning
from capsexp.models.cnn import CNN
from capsexp.recipes.networks import Networks
from capsexp.stacking.member import EpochResult, MemberEpochs
from capsexp.stacking.signature import refusal, signature
from capsexp.sweep.cells import resolved

CONF = Path(__file__).parents[2] / "conf"
Config = dict[str, Any]


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Config]:
    """By the model's name."""
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    images, labels = np.random.default_rng(0).integers(0, 256, (36, 8, 8)).astype(np.uint8), np.arange(36) % 3
    np.savez(path, x_train=images, y_train=labels, x_test=images[:3], y_test=labels[:3])
    small = {"cnn": ["model.c1=2", "model.c2=2", "model.c3=2", "model.kernels=[3,3,1]"], "autoencoder": ["model.c1=2"]}
    words = ["data=dhcd", f"data.path={path}", "augment=none", "data.batch_size=16", "trainer.accelerator=cpu"]
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        found = {name: resolved(compose("config", [f"model={name}", *words, *own])) for name, own in small.items()}
    for config in found.values():
        config["callbacks"] = {key: config["callbacks"][key] for key in ("divergence", "peak", "history")}
    return found


class AskedError(Exception):
    """What a fit said when its first epoch began."""


@dataclass
class Asking:
    """A place where a fit is asked, and ends."""

    def stacks(self, member: MemberEpochs) -> bool:
        again = signature(member)
        assert again == signature(member), "it is the same as long as nothing changes"
        raise AskedError(again, refusal(member))

    def wait(self, member: MemberEpochs) -> EpochResult:
        raise AssertionError("it has ended")

    def noise(self, device: torch.device) -> torch.Generator:
        raise AssertionError("it has ended")

    def set_noise(self, generator: torch.Generator) -> None:
        raise AssertionError("it has ended")


def asked(
    config: Config,
    tmp_path: Path,
    *callbacks: L.Callback,
    given: Config | None = None,
    change: Callable[[BaseModule], BaseModule | None] = lambda module: None,
) -> tuple[Any, str | None]:
    """Signature and refusal of a fit; ``change`` may change its module or give another one."""
    factories = build.factories(config, tmp_path)
    with quiet_lightning():
        data = factories.make_data()
        module = Networks(factories).new()
        module = change(module) or module
        trainer = factories.make_trainer(callbacks=callbacks, **(given or {}))
        trainer.fit_loop.epoch_loop = MemberEpochs(trainer, Asking(), config)
        with pytest.raises(AskedError) as said:
            trainer.fit(module, data)
    return said.value.args


def changed(config: Config, **values: Any) -> Config:
    """Another config; ``__`` stands for the dot."""
    config = copy.deepcopy(config)
    for key, value in values.items():
        *groups, last = key.split("__")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return config


@pytest.fixture(scope="module")
def plain(configs: dict[str, Config], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The signature of each config as it is."""
    found = {name: asked(config, tmp_path_factory.mktemp("plain")) for name, config in configs.items()}
    assert {why for _, why in found.values()} == {None}
    return {name: each for name, (each, _) in found.items()}


# -- who goes together ------------------------------------------------------------------------------------------------

OWN: dict[str, Config] = {
    "seed": {"seed": 3},
    "widths": {"model__c1": 3, "model__c2": 1, "model__c3": 4},
    "dropout": {"model__dropout": 0.0},
    "optimizer": {"optimizer__lr": 0.5, "optimizer__weight_decay": 0.5},
    "betas": {"optimizer__betas": [0.5, 0.9], "optimizer__eps": 1e-3},
    "length": {"trainer__max_epochs": 7, "trainer__gradient_clip_val": 0.5, "trainer__log_every_n_steps": 3},
    "patience": {"callbacks__peak__patience": 1},
    "pruning": {"pruning__norm": 2},
    "logger": {"logger__wandb__project": "another", "sweep__name": "another"},
}


@pytest.mark.parametrize("name", OWN)
def test_members_may_differ_in_widths_numbers_and_limits(
    name: str, configs: dict[str, Config], plain: dict[str, Any], tmp_path: Path
) -> None:
    assert asked(changed(configs["cnn"], **OWN[name]), tmp_path) == (plain["cnn"], None)


COMMON: dict[str, tuple[str, Config]] = {
    "kernel sizes": ("cnn", {"model__kernels": [3, 1, 1]}),
    "batch size": ("cnn", {"data__batch_size": 17}),
    "batch size for evaluation": ("cnn", {"data__eval_batch_size": 2}),
    "scaling": ("cnn", {"data__normalise": "unit"}),
    "split": ("cnn", {"data__split_seed": 1}),
    "selection": ("cnn", {"data__select_on": "test"}),
    "augmentation": ("cnn", {"augment": {"_target_": "capsexp.data.augment.Shift", "pixels": 1}}),
    "precision": ("cnn", {"trainer__precision": "64-true"}),
    "autocast": ("cnn", {"trainer__precision": "bf16-mixed"}),
    "determinism": ("cnn", {"trainer__deterministic": False}),
    "way of clipping": ("cnn", {"trainer__gradient_clip_algorithm": "value", "trainer__gradient_clip_val": 0.5}),
    "optimizer": ("cnn", {"optimizer___target_": "torch.optim.AdamW"}),
    "routing": ("cnn", {"routing": {"iterations": 2}}),
    "steps": ("cnn", {"trainer__max_steps": 1}),
    "validation": ("cnn", {"trainer__check_val_every_n_epoch": 2}),
    "weight of a loss": ("autoencoder", {"model__module__reconstruction_weight": 2.0}),
    "kernel size": ("autoencoder", {"model__kernel": 5}),
    "decoder": ("autoencoder", {"model__decoder": "shared"}),
}


@pytest.mark.parametrize("name", COMMON)
def test_members_agree_in_all_that_a_step_computes(
    name: str, configs: dict[str, Config], plain: dict[str, Any], tmp_path: Path
) -> None:
    model, values = COMMON[name]
    other, why = asked(changed(configs[model], **values), tmp_path)
    assert why is None
    assert other != plain[model]


class Other(ClassifierModule):
    """Another step, perhaps."""


def frozen_part(module: BaseModule) -> None:
    module.model.layers.conv2.requires_grad_(requires_grad=False)


def idle_dropout(module: BaseModule) -> None:
    module.model.layers.dropout2.eval()


def ceiling(module: BaseModule) -> None:
    module.model.layers.pool2 = nn.MaxPool2d(2, ceil_mode=True)


def no_bias(module: BaseModule) -> None:
    module.model.layers.conv1 = nn.Conv2d(1, 2, 3, padding=1, bias=False)


def in_double(module: BaseModule) -> None:
    module.double()


def another_module(module: BaseModule) -> BaseModule:
    return Other(module.model, module._make_optimizer, {})


@pytest.mark.parametrize("change", [frozen_part, idle_dropout, ceiling, no_bias, in_double, another_module])
def test_members_agree_in_what_their_configs_do_not_say(
    change: Callable[[BaseModule], Any], configs: dict[str, Config], plain: dict[str, Any], tmp_path: Path
) -> None:
    other, why = asked(configs["cnn"], tmp_path, change=change)
    assert why is None
    assert other != plain["cnn"]


def test_members_agree_in_what_is_frozen(configs: dict[str, Config], plain: dict[str, Any], tmp_path: Path) -> None:
    frozen = (Freeze(), Freeze(["layers.conv1.bias"]), Freeze(modules=["layers.conv1"]))
    found = [asked(configs["cnn"], tmp_path, each) for each in frozen]
    assert [why for _, why in found] == [None] * 3
    assert found[0][0] == plain["cnn"]
    assert len({each for each, _ in found}) == 3


@pytest.mark.parametrize("task", ["reconstruct", "classify"])
def test_what_an_autoencoder_is_trained_for_is_common(
    task: Any, configs: dict[str, Config], plain: dict[str, Any], tmp_path: Path
) -> None:
    other, why = asked(configs["autoencoder"], tmp_path, change=lambda module: cast("Any", module).only(task))
    assert why is None
    assert task in str(other), "the other task is another thing again"
    assert other != plain["autoencoder"]


# -- who goes alone ---------------------------------------------------------------------------------------------------


class Batches(L.Callback):
    """Hears of every batch."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Nothing."""


class Gradients(DivergenceGuard):
    """A guard of another kind: what the stack does in its place is known all the same."""


class Noisy(ClassifierModule):
    """Hears of every gradient."""

    def on_after_backward(self) -> None:
        """Nothing."""


class Moving(ClassifierModule):
    """A loss that is another one in each step."""

    @property
    def alone(self) -> str | None:
        return "the margin of the loss spread moves with every step"


class Own(ClassifierModule):
    """A step of its own."""

    def shared_step(self, batch: Any) -> Any:
        return super().shared_step(batch)


class Unpromised(CNN):
    """Does something between its layers, perhaps."""

    stackable = frozenset()


def listened_to(module: BaseModule) -> None:
    module.model.layers.conv1.register_forward_hook(lambda *_: None)


def listened_to_before(module: BaseModule) -> None:
    module.model.layers.conv1.register_forward_pre_hook(lambda *_: None)


def correlated(module: BaseModule) -> None:
    module.reward_correlation(0.1)


def strange_layer(module: BaseModule) -> None:
    module.model.layers.relu1 = nn.Sigmoid()


def unpromised(module: BaseModule) -> None:
    module.model.__class__ = Unpromised


def with_another(module: BaseModule, kind: type[BaseModule]) -> BaseModule:
    return kind(module.model, module._make_optimizer, {})


def with_a_schedule(module: BaseModule) -> None:
    optimizer = module.configure_optimizers()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    module.configure_optimizers = lambda: {"optimizer": optimizer, "lr_scheduler": schedule}


FOLDED = "CNN trained by {} cannot be folded"
OPTIMIZER = "only torch's Adam and AdamW, with one group of parameters and no schedule, are stacked"
ALONE: dict[str, tuple[dict[str, Any], str]] = {
    "accumulated gradients": (
        {"given": {"accumulate_grad_batches": 2}},
        "stacks do not know its trainer.accumulate_grad_batches",
    ),
    "fewer batches": ({"given": {"limit_train_batches": 1}}, "stacks do not know its trainer.limit_train_batches"),
    "less validation": ({"given": {"limit_val_batches": 1}}, "stacks do not know its trainer.limit_val_batches"),
    "validation within an epoch": (
        {"given": {"val_check_interval": 0.5}},
        "stacks do not know its trainer.val_check_interval",
    ),
    "validation behind each batch": (
        {"given": {"val_check_interval": 1}},
        "stacks do not know its trainer.val_check_interval",
    ),
    "loaders made anew": (
        {"given": {"reload_dataloaders_every_n_epochs": 1}},
        "stacks do not know its trainer.reload_dataloaders_every_n_epochs",
    ),
    "half precision": ({"given": {"precision": "bf16-true"}}, "stacks do not know its trainer.precision"),
    "a callback that looks at batches": ({"callback": Batches}, "Batches looks into single batches"),
    "a module that looks at gradients": (
        {"change": partial(with_another, kind=Noisy)},
        "Noisy looks into single batches",
    ),
    "a step of its own": ({"change": partial(with_another, kind=Own)}, FOLDED.format("Own")),
    "rewarded correlation": ({"change": correlated}, FOLDED.format("ClassifierModule")),
    "a layer that is not known": ({"change": strange_layer}, FOLDED.format("ClassifierModule")),
    "a model without a promise": (
        {"change": unpromised},
        "Unpromised trained by ClassifierModule cannot be folded",
    ),
    "a loss that moves": (
        {"change": partial(with_another, kind=Moving)},
        "the margin of the loss spread moves with every step",
    ),
    "a hook": ({"change": listened_to}, "something listens to what passes through the network"),
    "a hook before": ({"change": listened_to_before}, "something listens to what passes through the network"),
    "another optimizer": ({"values": {"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}}}, OPTIMIZER),
    "an optimizer's variant": ({"values": {"optimizer__amsgrad": True}}, OPTIMIZER),
    "a schedule": ({"change": with_a_schedule}, OPTIMIZER),
}


@pytest.mark.parametrize("name", ALONE)
def test_what_cannot_be_stacked_says_why(name: str, configs: dict[str, Config], tmp_path: Path) -> None:
    how, why = ALONE[name]
    config = changed(configs["cnn"], **how.get("values", {}))
    callbacks = [how["callback"]()] if "callback" in how else []
    keywords = {key: how[key] for key in ("given", "change") if key in how}
    assert asked(config, tmp_path, *callbacks, **keywords)[1] == why


def test_what_stacks_know_keeps_no_fit_alone(configs: dict[str, Config], tmp_path: Path) -> None:
    """A fit without validation, and one whose losses are looked at."""
    assert asked(configs["cnn"], tmp_path, Gradients(), given={"limit_val_batches": 0})[1] is None
