"""The reward for correlated channels: loss, gradient, and what is logged of it."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from capsexp.lightning_modules.base import BaseModule
from capsexp.lightning_modules.capsnet import CapsNetModule
from capsexp.lightning_modules.classifier import ClassifierModule
from capsexp.losses.ccm import channel_correlation
from capsexp.losses.margin import margin_loss
from capsexp.memory_estimate import training_step_bytes
from capsexp.models.capsnet import CapsNet
from capsexp.models.cnn import CNN
from capsexp.models.deep_capsnet import DeepCapsNet
from capsexp.nn.channels import Prunable
from capsexp.routing.dynamic import Dynamic
from capsexp.types import Batch
from tests.references import ccm as reference

SHAPE = (1, 17, 17)
SIZES: dict[str, Any] = {"image_shape": SHAPE, "classes": 3}


def deep() -> Prunable:
    return DeepCapsNet(**SIZES, routing=Dynamic, capsules=2, dim=4, depth=1)


def capsnet() -> Prunable:
    return CapsNet(**SIZES, routing=Dynamic, c1=6, c2=8, kernel=3, dim=4, decoder=[8])


def cnn() -> Prunable:
    return CNN(**SIZES, c1=4, c2=5, c3=6, dropout=0)


def made(make: Any, weight: float = 0.0) -> BaseModule:
    torch.manual_seed(0)
    kind: Any = ClassifierModule if make is cnn else CapsNetModule
    module: BaseModule = kind(model=make(), make_optimizer=partial(torch.optim.Adam, lr=1e-3), sizes={})
    if weight:
        module.reward_correlation(weight)
    return module


def batch(count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels_BCHW = torch.randint(256, (count, *SHAPE), generator=generator, dtype=torch.uint8)
    return Batch(pixels_BCHW / 127.5 - 1, torch.arange(count) % 3, pixels_BCHW)


def deep_maps(model: Any, images_BCHW: Tensor) -> list[Tensor]:
    """By hand: what each ReLU gives, and the primary capsules' convolution before the squash."""
    found, maps_BCHW = [], images_BCHW
    for number in (1, 2, 3):
        maps_BCHW = getattr(model.backbone, f"conv{number}")(maps_BCHW)
        maps_BCHW = getattr(model.backbone, f"norm{number}")(maps_BCHW).relu()
        found.append(maps_BCHW)
    return [*found, model.primary.conv(maps_BCHW)]


def gradients(module: BaseModule) -> dict[str, Tensor]:
    return {name: value.grad for name, value in module.named_parameters() if value.grad is not None}


def test_the_loss_is_the_margin_less_alpha_times_the_sum_over_the_layers() -> None:
    given = batch()
    loss, scores_BK, terms = made(deep, 0.3).step(given)
    plain = made(deep)
    margin = margin_loss(plain.model(given.images_BCHW), given.labels_B)
    expected = sum(
        reference.channel_correlation(maps.detach().double().numpy())
        for maps in deep_maps(made(deep).model, given.images_BCHW)
    )
    assert 0.5 < expected <= 4
    assert terms["correlation"].item() == pytest.approx(expected, rel=1e-4)
    assert loss.item() == pytest.approx(margin.item() - 0.3 * expected, rel=1e-4)
    assert torch.equal(scores_BK, made(deep).model(given.images_BCHW))


def test_its_gradient_is_that_of_the_sum_by_hand() -> None:
    given, alpha = batch(), 0.3
    module, by_hand = made(deep, alpha), made(deep)
    module.step(given).loss.backward()
    margin = margin_loss(by_hand.model(given.images_BCHW), given.labels_B)
    sums = torch.stack([channel_correlation(maps) for maps in deep_maps(by_hand.model, given.images_BCHW)]).sum()
    (margin - alpha * sums).backward()
    expected = gradients(by_hand)
    assert gradients(module).keys() == expected.keys()
    for name, gradient in gradients(module).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("make", [deep, capsnet, cnn])
def test_the_reward_reaches_every_convolution(make: Any) -> None:
    found = []
    for weight in (0.0, 0.5):
        module = made(make, weight)
        module.step(batch()).loss.backward()
        found.append(gradients(module))
    for layer in made(make).model.channel_layers().values():
        plain, rewarded = (each[f"model.{layer.conv}.weight"] for each in found)
        assert (plain - rewarded).abs().max() > 1e-4, layer.conv


def test_following_it_raises_the_correlation() -> None:
    module, given = made(deep, 10.0), batch()
    before = module.step(given).terms["correlation"].item()
    optimizer = module.configure_optimizers()
    for _ in range(8):
        optimizer.zero_grad()
        module.step(given).loss.backward()
        optimizer.step()
    assert module.step(given).terms["correlation"].item() > before + 0.1


@pytest.mark.parametrize("make", [deep, capsnet, cnn])
def test_without_a_reward_nothing_changes(make: Any) -> None:
    module, given = made(make), batch()
    found, expected = module.step(given), module.shared_step(given)
    assert torch.equal(found.loss, expected.loss)
    assert "correlation" not in found.terms
    assert not any(each._forward_hooks for each in module.modules())


def test_other_terms_stay_beside_it() -> None:
    module = made(capsnet, 0.1)
    terms = module.step(batch()).terms
    assert set(terms) == {"margin", "reconstruction", "correlation"}
    assert not any(each._forward_hooks for each in module.modules())


def logged(module: BaseModule, split: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    found: dict[str, float] = {}
    monkeypatch.setattr(module, "log", lambda name, value: found.update({name: float(value)}))
    name = {"train": "training", "val": "validation", "test": "test"}[split]
    with torch.set_grad_enabled(split == "train"):
        getattr(module, f"{name}_step")(batch(6), 0)
        getattr(module, f"{name}_step")(batch(2), 1)
    {"train": module.on_train_epoch_end, "val": module.on_validation_epoch_end, "test": module.on_test_epoch_end}[
        split
    ]()
    return found


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_it_is_logged_as_a_mean_over_the_images(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = made(deep, 0.1).eval()
    found = logged(module, split, monkeypatch)
    assert found.keys() == {f"{split}/loss", f"{split}/acc", f"{split}/correlation"}
    with torch.no_grad():
        each = [(module.step(batch(count)).terms["correlation"].item(), count) for count in (6, 2)]
    assert found[f"{split}/correlation"] == pytest.approx(sum(value * count for value, count in each) / 8, rel=1e-6)
    assert f"{split}/correlation" not in logged(made(deep), split, monkeypatch)


def test_what_a_checkpoint_holds_does_not_change() -> None:
    assert made(deep, 0.1).state_dict().keys() == made(deep).state_dict().keys()


def test_the_memory_of_a_step_counts_what_the_reward_takes() -> None:
    """Copies of the maps, divided and centred, are kept for the backward pass."""
    plain, rewarded = (training_step_bytes(made(deep, weight), batch(64)) for weight in (0.0, 0.1))
    assert plain < rewarded < 3 * plain


def test_a_model_takes_the_place_of_another() -> None:
    module, other = made(cnn), made(cnn).model
    module.set_model(other, {"classes": 9})
    assert module.model is other
    assert module.hparams["sizes"] == {"classes": 9}
    own = {id(value) for value in module.parameters()}
    assert own == {id(value) for value in other.parameters()}
    assert other.layers.conv2.weight.is_contiguous(memory_format=torch.channels_last)
