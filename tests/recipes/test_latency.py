"""Clocks of the ways of inference: which form is timed, and that the network is left as it was."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from capsexp.data.augment import Augment
from capsexp.data.base import ImageDataModule
from capsexp.nn.capsules import ClassCapsules, capsule_layers
from capsexp.recipes import latency
from capsexp.routing.max_min import MaxMin
from capsexp.types import Batch


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = ClassCapsules(8, 3, 2, 4, MaxMin)
        self.layer.set_master(torch.rand(3, 8))
        self.seen: list[tuple[str, int, bool, bool]] = []

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self.seen.append((self.layer.inference, len(images_BCHW), self.training, torch.is_inference_mode_enabled()))
        return cast("Tensor", self.layer(images_BCHW.view(-1, 8, 2)).activations_BJ)


class Module(nn.Module):
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.model = Net()


class Data:
    def test_dataloader(self) -> list[Batch]:
        images = torch.rand(50, 1, 4, 4)
        return [Batch(images, torch.zeros(50, dtype=torch.int64), images)]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "ROUNDS", 3)


def test_every_way_is_timed_in_its_own_form() -> None:
    module = Module()
    found = latency.latencies(cast("Any", module), cast("ImageDataModule", Data()))
    names = {f"{way}_batch{size}_ms" for way in ("dynamic", "fast", "folded") for size in (1, 128)}
    assert found.keys() == names
    assert all(0 < milliseconds < 5000 for milliseconds in found.values())
    forms = {(inference, size) for inference, size, _, _ in module.model.seen}
    assert forms == {(form, size) for form in ("dynamic", "fast", "folded") for size in (1, 128)}
    assert not any(training for *_, training, _ in module.model.seen)
    assert all(inferring for *_, inferring in module.model.seen)


def test_times_are_milliseconds_and_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(10**6))
    # Each pass asks the clock when it starts, when it ends and whether time is up; here it takes 1 s.
    monkeypatch.setattr(latency.time, "perf_counter", lambda: float(next(moments)))
    monkeypatch.setattr(latency, "SECONDS", 10**7)
    found = latency.latencies(cast("Any", Module()), cast("ImageDataModule", Data()))
    assert set(found.values()) == {1000.0}


def test_a_slow_network_is_not_timed_ten_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "SECONDS", 0)
    module = Module()
    latency.latencies(cast("Any", module), cast("ImageDataModule", Data()))
    assert len(module.model.seen) == 6 * 2  # the first pass of each is not timed


@pytest.mark.parametrize("inference", ["dynamic", "fast", "folded"])
@pytest.mark.parametrize("mode", [True, False])
def test_the_network_is_left_as_it_was(inference: Any, mode: bool) -> None:
    module = Module().train(mode)
    module.model.layer.inference = inference
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    latency.latencies(cast("Any", module), cast("ImageDataModule", Data()))
    assert {layer.inference for layer in capsule_layers(module).values()} == {inference}
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    assert {each.training for each in module.modules()} == {mode}


def test_few_test_images_are_repeated() -> None:
    class Few:
        def test_dataloader(self) -> list[Batch]:
            images = torch.arange(3.0).view(3, 1, 1, 1)
            return [Batch(images, torch.zeros(3, dtype=torch.int64), images)]

    images = latency._images(cast("ImageDataModule", Few()), 7)
    assert images.flatten().tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_images_of_a_data_module_are_enough(tmp_path: Any, tiny_npz: Any) -> None:
    data = ImageDataModule(path=str(tiny_npz), augment=Augment(), batch_size=8, eval_batch_size=10)
    assert latency._images(data, 128).shape == (128, 1, 32, 32)
