"""Shares of dead capsules in a Trainer's validations and tests, against all poses at once."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from capsexp.callbacks.dead_capsules import DeadCapsuleLogger, grid_layers
from capsexp.data.augment import Crop
from capsexp.data.base import ImageDataModule
from capsexp.errors import ConfigError
from capsexp.lightning_modules.classifier import ClassifierModule
from capsexp.metrics.dead_capsules import DeadCapsules
from capsexp.models.cnn import CNN
from capsexp.nn.capsules import ClassCapsules, ConvCapsules, as_children
from capsexp.nn.primary import PrimaryCapsules
from capsexp.routing import EM, Dynamic, SelfRouting
from capsexp.types import Capsules, RoutingOutput
from tests.references import dead_capsules as reference

pytestmark = pytest.mark.filterwarnings("ignore:.*(treespec, LeafSpec|does not have many workers|logging interval).*")

THRESHOLD = 0.25
RULES = ("dead", "silent", "dead_types")


class Net(nn.Module):
    """Primary capsules, capsule layers of 3 and then 2 types, class capsules; poses about as long as the threshold."""

    def __init__(self, types: tuple[int, ...] = (3, 2)) -> None:
        super().__init__()
        self.primary = PrimaryCapsules(1, 6, 3, kernel=9, stride=6)
        sizes = [2, *types]
        self.intermediate = nn.ModuleDict(
            {
                f"layer{number}": ConvCapsules(before, after, 3, 3, Dynamic, weight_std=0.5)
                for number, (before, after) in enumerate(zip(sizes, types, strict=False), 1)
            }
        )
        self.class_capsules = ClassCapsules(sizes[-1] * 16, 4, 3, 4, Dynamic)

    def poses(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Those of every layer on a grid."""
        found = {"primary": cast("Tensor", self.primary(images_BCHW).poses)}
        for name, layer in self.intermediate.items():
            found[name] = cast("RoutingOutput", layer(list(found.values())[-1])).poses_BJE
        return found

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Class scores (B, K)."""
        poses_BTDHW = list(self.poses(images_BCHW).values())[-1]
        output: RoutingOutput = self.class_capsules(as_children(poses_BTDHW))
        return output.activations_BJ


class Setting:
    """A network, its data, and one trainer with the callback and all that it logs."""

    def __init__(self, folder: Path, npz: Path, model: nn.Module | None = None) -> None:
        torch.manual_seed(0)
        self.npz, self.callback = npz, DeadCapsuleLogger(THRESHOLD)
        self.module = Module(model=model or Net(), make_optimizer=torch.optim.Adam, sizes={})
        self.watch = Watch()
        self.trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[self.callback, self.watch],
        )
        self.data = self.images(9)

    @property
    def model(self) -> Any:
        return self.module.model

    def images(self, eval_batch_size: int = 1000) -> ImageDataModule:
        settings: dict[str, Any] = {"batch_size": 16, "eval_batch_size": eval_batch_size}
        return ImageDataModule(path=str(self.npz), augment=Crop(28), **settings)

    def fit(self) -> None:
        self.trainer.fit(self.module, self.data)

    def test(self) -> None:
        self.trainer.test(self.module, self.data, verbose=False)

    @torch.no_grad()
    def expected(self, part: str) -> dict[str, dict[str, np.ndarray]]:
        """The reference's findings for every layer with the present weights."""
        self.module.eval()
        data = self.images()
        (batch,) = data.val_dataloader() if part == "val" else data.test_dataloader()
        poses = self.model.poses(batch.images_BCHW)
        return {name: reference.activity(each.double().numpy(), THRESHOLD) for name, each in poses.items()}

    def shares(self, part: str) -> dict[str, float]:
        """What the expected shares are called."""
        found, layers = {}, self.expected(part)
        for name, findings in layers.items():
            found |= {f"capsules/{name}/{rule}_share": float(findings[rule].mean()) for rule in RULES}
        intermediate = [findings for name, findings in layers.items() if name != "primary"]
        for rule in RULES if intermediate else ():
            verdicts = np.concatenate([findings[rule].ravel() for findings in intermediate])
            found[f"capsules/{rule}_share"] = float(verdicts.mean())
        return found


class Module(ClassifierModule):
    """Fails in a validation or test when it is told to."""

    bad = ""

    def _step(self, batch: Any, split: str) -> Tensor:
        loss = super()._step(batch, split)
        if self.bad == split:
            raise ArithmeticError(split)
        return loss


class Watch(L.Callback):
    """Keeps what is logged of capsules epoch by epoch, and counts hooks in training."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self.hooks: set[int] = set()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.hooks.add(hooks(pl_module.model))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        metrics = trainer.callback_metrics.items()
        self.epochs.append({name: float(value) for name, value in metrics if name.startswith("capsules/")})


def hooks(model: nn.Module) -> int:
    return sum(len(each._forward_hooks) for each in model.modules())


@pytest.fixture
def setting(tmp_path: Path, tiny_npz: Path) -> Any:
    return lambda model=None: Setting(tmp_path, tiny_npz, model)


def test_every_epoch_logs_the_shares_of_the_selection_split(setting: Any) -> None:
    made = setting()
    made.fit()
    expected = made.shares("val")
    assert len(made.watch.epochs) == 2
    assert made.watch.epochs[-1] == pytest.approx(expected, abs=1e-6)
    assert set(made.watch.epochs[0]) == set(expected)
    assert 0 < expected["capsules/silent_share"] < expected["capsules/dead_share"] < 1
    assert len(set(expected.values())) > 4


def test_each_epoch_begins_again(setting: Any) -> None:
    made = setting()
    made.fit()
    made.module.model = Net()
    made.trainer.fit_loop.max_epochs = 3
    made.fit()
    assert made.watch.epochs[-1] == pytest.approx(made.shares("val"), abs=1e-6)


def test_the_result_is_that_of_the_test_part(setting: Any) -> None:
    made = setting()
    made.test()
    expected = made.shares("test")
    assert made.callback.result_metrics(made.module) == pytest.approx(expected, abs=1e-12)
    arrays = made.callback.result_arrays(made.module)
    assert {name: array.shape for name, array in arrays.items()} == {
        "activity/primary": (2, 4, 4),
        "activity/layer1": (3, 4, 4),
        "activity/layer2": (2, 4, 4),
    }
    for name, findings in made.expected("test").items():
        assert arrays[f"activity/{name}"].dtype == np.float32
        np.testing.assert_allclose(arrays[f"activity/{name}"], findings["length_of_mean"], rtol=0, atol=1e-6)


def test_the_result_is_that_of_the_last_test(setting: Any) -> None:
    made = setting()
    made.test()
    first = made.callback.result_arrays(made.module)
    made.module.model = Net((5,))  # surgery
    made.test()
    assert set(made.callback.result_arrays(made.module)) == {"activity/primary", "activity/layer1"}
    assert made.callback.result_metrics(made.module) == pytest.approx(made.shares("test"), abs=1e-12)
    assert not np.array_equal(first["activity/primary"], made.callback.result_arrays(made.module)["activity/primary"])


def test_a_fit_leaves_the_result_of_a_test_alone(setting: Any) -> None:
    made = setting()
    assert (made.callback.result_metrics(made.module), made.callback.result_arrays(made.module)) == ({}, {})
    made.test()
    tested = made.callback.result_metrics(made.module)
    made.fit()
    assert made.callback.result_metrics(made.module) == tested != made.shares("test")


def test_listens_only_in_validation_and_test(setting: Any) -> None:
    made = setting()
    made.fit()
    made.test()
    assert made.watch.hooks == {0}
    assert hooks(made.model) == 0


@pytest.mark.parametrize("split", ["val", "test"])
def test_stops_listening_when_something_fails(setting: Any, split: str) -> None:
    made = setting()
    made.test()
    made.module.bad = split
    with pytest.raises(ArithmeticError, match=split):
        made.fit() if split == "val" else made.test()
    assert hooks(made.model) == 0
    assert bool(made.callback.result_metrics(made.module)) == (split == "val")  # a test that failed found nothing


def test_hooks_are_there_while_it_listens_and_only_once() -> None:
    callback, module = DeadCapsuleLogger(), fake(Net())
    callback.on_validation_start(RUNNING, module)
    callback.on_validation_start(RUNNING, module)
    assert hooks(module.model) == 3
    module.model(torch.rand(2, 1, 28, 28))
    assert float(callback._metrics["layer2"].count) == 2
    callback.on_validation_end(RUNNING, module)
    assert hooks(module.model) == 0


RUNNING: Any = SimpleNamespace(sanity_checking=False)


def fake(model: nn.Module, **parts: Any) -> Any:
    logged: dict[str, float] = {}
    module = SimpleNamespace(model=model, device=torch.device("cpu"), logged=logged, log=logged.__setitem__)
    return SimpleNamespace(**vars(module) | parts)


def validated(callback: DeadCapsuleLogger, module: Any, trainer: Any = RUNNING) -> dict[str, float]:
    """What is logged in one validation of three images."""
    callback.on_validation_start(trainer, module)
    with torch.no_grad():
        module.model(torch.rand(3, 1, 28, 28))
    callback.on_validation_epoch_end(trainer, module)
    callback.on_validation_end(trainer, module)
    logged: dict[str, float] = module.logged
    return logged


def test_a_sanity_check_is_no_epoch() -> None:
    callback, module = DeadCapsuleLogger(), fake(Net())
    assert validated(callback, module, SimpleNamespace(sanity_checking=True)) == {}
    assert callback._metrics == {}


def test_a_dead_network_and_the_threshold() -> None:
    model = Net()
    nn.init.zeros_(cast("ConvCapsules", model.intermediate["layer2"]).weight)
    found = validated(DeadCapsuleLogger(1e-9), fake(model))
    assert found["capsules/layer2/dead_share"] == found["capsules/layer2/silent_share"] == 1
    assert found["capsules/layer1/dead_share"] == 0
    assert found["capsules/dead_share"] == pytest.approx(2 / 5)  # of 3 + 2 types
    assert validated(DeadCapsuleLogger(2), fake(model))["capsules/dead_share"] == 1


def test_without_capsule_layers_between_there_is_no_share_of_all() -> None:
    found = validated(DeadCapsuleLogger(), fake(Net(())))
    assert set(found) == {f"capsules/primary/{rule}_share" for rule in RULES}


def test_a_network_without_capsules_is_left_alone(setting: Any) -> None:
    made = setting(CNN(image_shape=(1, 28, 28), classes=4, c1=2, c2=2, c3=2))
    made.fit()
    made.test()
    assert made.watch.epochs == [{}, {}]
    assert (made.callback.result_metrics(made.module), made.callback.result_arrays(made.module)) == ({}, {})


def test_one_capsule_keeps_its_grid() -> None:
    callback, module = DeadCapsuleLogger(), fake(nn.Sequential(PrimaryCapsules(1, 3, 3, kernel=28)))
    callback.on_test_start(RUNNING, module)
    module.model(torch.rand(3, 1, 28, 28))
    callback.on_test_end(RUNNING, module)
    assert callback.result_arrays(module)["activity/0"].shape == (1, 1, 1)


def test_metrics_lie_where_the_module_is() -> None:
    callback = DeadCapsuleLogger()
    callback.on_test_start(RUNNING, fake(Net(), device=torch.device("meta")))
    assert {metric.poses_TDHW.device.type for metric in callback._metrics.values()} == {"meta"}


def test_no_batch_waits_for_the_device() -> None:
    """Nothing of an update reads a number: on the meta device there is none to read."""
    callback, model = DeadCapsuleLogger(), PrimaryCapsules(1, 6, 3, kernel=9, stride=6).to("meta")
    module = fake(nn.ModuleDict({"primary": model}), device=torch.device("meta"))
    callback.on_validation_start(RUNNING, module)
    model(torch.empty(3, 1, 28, 28, device="meta"))
    metric: DeadCapsules = callback._metrics["primary"]
    assert metric.poses_TDHW.shape == (2, 3, 4, 4)


def test_layers_by_their_last_name_or_all_of_it() -> None:
    assert list(grid_layers(Net())) == ["primary", "layer1", "layer2"]
    twins = nn.ModuleDict({side: nn.ModuleDict({"primary": PrimaryCapsules(1, 3, 3, kernel=9)}) for side in "lr"})
    assert list(grid_layers(twins)) == ["l.primary", "r.primary"]


@pytest.mark.parametrize("threshold", [0, -1, None])
def test_threshold_is_checked(threshold: Any) -> None:
    with pytest.raises(ConfigError, match=r"^threshold must be a number in \(0, inf\], got"):
        DeadCapsuleLogger(threshold)


def test_activations_that_are_no_lengths_stand_for_them() -> None:
    """Logistic ones as they are, shares times the number of parents: here a silent type, and shares of a third."""
    primary = PrimaryCapsules(1, 6, 3, kernel=9, stride=6, activation="logistic")
    layer = ConvCapsules(2, 3, 3, 3, SelfRouting)
    with torch.no_grad():
        assert primary.activation_conv is not None
        primary.activation_conv.weight.zero_()
        primary.activation_conv.bias.copy_(torch.tensor([-20.0, 0.0]))  # type: ignore[union-attr]
    callback, module = DeadCapsuleLogger(), fake(nn.ModuleDict({"primary": primary, "layer1": layer}))
    callback.on_test_start(RUNNING, module)
    layer(primary(torch.rand(3, 1, 28, 28)))
    callback.on_test_end(RUNNING, module)
    arrays = callback.result_arrays(module)
    assert arrays["activity/primary"].mean((1, 2)).tolist() == pytest.approx([0, 0.5], abs=1e-6)
    assert arrays["activity/layer1"] == pytest.approx(np.ones((3, 4, 4)), abs=1e-6)
    assert callback.result_metrics(module)["capsules/primary/dead_share"] == 0.5
    assert callback.result_metrics(module)["capsules/layer1/dead_share"] == 0


def test_probabilities_stand_for_lengths() -> None:
    """A parent that costs too much is dead, whatever the length of its pose."""
    layer = ConvCapsules(2, 3, 4, 4, partial(EM, iterations=1))
    with torch.no_grad():
        layer.routing.beta_a_J.copy_(torch.tensor([-1e6, 1e6, 1e6]))  # type: ignore[operator,union-attr]
    callback, module = DeadCapsuleLogger(), fake(nn.ModuleDict({"layer1": layer}))
    callback.on_test_start(RUNNING, module)
    output = layer(Capsules(torch.rand(3, 2, 4, 5, 5), torch.rand(3, 2, 5, 5)))
    callback.on_test_end(RUNNING, module)
    assert float(output.poses_BJE[:, 0].detach().norm(dim=1).min()) > 0.01
    assert callback.result_arrays(module)["activity/layer1"] == pytest.approx(output.activations_BJ.mean(0).detach())
    assert callback.result_metrics(module)["capsules/layer1/dead_share"] == pytest.approx(1 / 3)
