import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capsexp.callbacks.layers import convolutions
from capsexp.errors import ConfigError
from capsexp.models.base import count_parameters
from capsexp.models.capsnet import CapsNet
from capsexp.routing.dynamic import Dynamic
from capsexp.routing.max_min import MaxMin

Shape = tuple[int, int, int]


def capsnet(shape: Shape = (1, 28, 28), classes: int = 10, **options: Any) -> CapsNet:
    return CapsNet(image_shape=shape, classes=classes, routing=options.pop("routing", Dynamic), **options)


def shapes(model: CapsNet, images_BCHW: Tensor) -> dict[str, tuple[int, ...]]:
    """The output shape of every layer, by its name, without the batch."""
    found: dict[str, tuple[int, ...]] = {}

    def note(name: str, _: nn.Module, __: Any, output: Any) -> None:
        found[name] = tuple((output if isinstance(output, Tensor) else output[0]).shape[1:])

    for name, layer in model.named_modules():
        layer.register_forward_hook(functools.partial(note, name))
    with torch.inference_mode():
        model(images_BCHW)
    return found


def test_the_published_sizes_on_28x28() -> None:
    found = shapes(capsnet(), torch.rand(2, 1, 28, 28))
    assert found["conv1"] == (256, 20, 20)
    assert found["primary.conv"] == (256, 6, 6)
    assert found["primary"] == (32, 8, 6, 6)
    assert found["class_capsules"] == (10, 16)
    weight_JEDI = capsnet().class_capsules.weight
    assert weight_JEDI.shape == (10, 16, 8, 1152)


def test_the_published_sizes_on_cifar_crops() -> None:
    model = capsnet((3, 24, 24), dim=4)
    assert shapes(model, torch.rand(2, 3, 24, 24))["primary"] == (64, 4, 4, 4)
    assert model.class_capsules.weight.shape == (10, 16, 4, 1024)


def test_parameters_of_the_published_network() -> None:
    model = capsnet(classes=46, decoder=None)
    assert model.params_paper() == 6_824_448
    assert count_parameters(model) == 12_112_640


@pytest.mark.parametrize(("c1", "c2", "classes"), [(32, 32, 46), (96, 64, 10), (32, 256, 2)])
def test_the_papers_formula(c1: int, c2: int, classes: int) -> None:
    model = capsnet(classes=classes, c1=c1, c2=c2)
    assert model.params_paper() == 81 * c1 + 81 * c2 + classes * 16 * 8 * 36 * (c2 // 8)


@pytest.mark.parametrize("shape", [(1, 17, 17), (1, 18, 31), (3, 32, 32), (2, 20, 28)])
def test_any_image_size(shape: Shape) -> None:
    model = capsnet(shape, 5, c1=8, c2=16, decoder=[8])
    scores_BK = model(torch.rand(3, *shape))
    assert scores_BK.shape == (3, 5)
    assert bool(((scores_BK >= 0) & (scores_BK < 1)).all())
    poses_BKE = model.capsules(torch.rand(3, *shape)).poses_BJE
    assert model.decoder is not None
    assert model.decoder(poses_BKE, torch.tensor([0, 1, 4])).shape == (3, *shape)


def test_scores_are_lengths() -> None:
    model, images = capsnet(c1=8, c2=16), torch.rand(3, 1, 28, 28)
    poses_BKE = model.capsules(images).poses_BJE
    torch.testing.assert_close(model(images), poses_BKE.norm(dim=2))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"c2": 36}, "c2"),
        ({"c2": 0}, "c2"),
        ({"c1": 0}, "c1"),
        ({"dim": 0}, "dim"),
        ({"dim_class": 0}, "dim_class"),
        ({"kernel": 0}, "kernel"),
        ({"kernel": 15}, "image_shape"),
        ({"shape": (1, 28, 16)}, "image_shape"),
        ({"squash": "flat"}, "squash"),
        ({"decoder": []}, "decoder"),
        ({"decoder": 512}, "decoder"),
        ({"decoder": [512, 0]}, "decoder"),
    ],
)
def test_bad_sizes_are_named(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        capsnet(**options)
    assert caught.value.key == key


def test_each_routing_starts_from_its_own_scale() -> None:
    torch.manual_seed(0)
    assert capsnet(c1=8, c2=64, classes=20).class_capsules.weight.std().item() == pytest.approx(0.1, rel=0.05)
    scaled = capsnet(c1=8, c2=64, classes=20, routing=MaxMin).class_capsules.weight
    assert scaled.std().item() == pytest.approx(0.1 / 20, rel=0.05)


def test_both_convolutions_are_compared() -> None:
    assert list(convolutions(capsnet(c1=8, c2=16))) == ["conv1", "primary"]
