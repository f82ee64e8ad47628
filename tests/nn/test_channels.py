"""Which channels can be pruned, and their maps while somebody listens."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capsexp.models.backbones import Plain, ResNet
from capsexp.models.base import Classifier
from capsexp.models.baseline_cnn import BaselineCNN
from capsexp.models.capsnet import CapsNet
from capsexp.models.cnn import CNN
from capsexp.models.deep_capsnet import DeepCapsNet
from capsexp.models.layered_capsnet import LayeredCapsNet
from capsexp.nn.capsules import CapsuleLayer, capsules_of
from capsexp.nn.channels import FeatureMaps, Prunable
from capsexp.routing import Dynamic, InvertedAttention, SelfAttention, SelfRouting

SHAPE = (1, 16, 16)
MODELS: dict[str, Any] = {
    "cnn": partial(CNN, image_shape=SHAPE, classes=3),
    "capsnet": partial(
        CapsNet, image_shape=SHAPE, classes=3, routing=Dynamic, c1=6, c2=8, kernel=5, dim=4, decoder=None
    ),
    "deep_capsnet": partial(DeepCapsNet, image_shape=SHAPE, classes=3, routing=Dynamic, capsules=2, dim=4),
    "deeper": partial(DeepCapsNet, image_shape=SHAPE, classes=3, routing=Dynamic, capsules=2, dim=4, depth=2),
    "logistic": partial(
        CapsNet,
        **{"image_shape": SHAPE, "classes": 3, "routing": SelfRouting, "c1": 6, "c2": 8, "kernel": 5, "dim": 4},
        decoder=None,
        normaliser="batch_norm",
        activation="logistic",
        dim_class=0,
    ),
    "depthwise": partial(
        CapsNet, image_shape=SHAPE, classes=3, routing=SelfAttention, c1=8, c2=8, kernel=5, dim=4, depthwise=True
    ),
    "residual": partial(
        LayeredCapsNet,
        **{"image_shape": SHAPE, "classes": 3, "routing": SelfRouting, "dim_class": 0},
        backbone=partial(ResNet, channels=[4, 6], blocks=[1, 2]),
        primary={"types": 3, "dim": 4, "normaliser": "batch_norm", "activation": "logistic"},
        layers=[{"types": 2, "dim": 4, "stride": 2, "padding": 1}],
        layer_normaliser="batch_norm",
    ),
    "efficient": partial(
        LayeredCapsNet,
        **{"image_shape": SHAPE, "classes": 3, "routing": SelfAttention, "dim_class": 4},
        backbone=partial(Plain, channels=[4, 8], strides=2, norm="batch", norm_last=True),
        primary={"types": 2, "dim": 4, "kernel": None, "depthwise": True},
    ),
    "attention": partial(
        LayeredCapsNet,
        **{"image_shape": SHAPE, "classes": 3, "routing": InvertedAttention, "dim_class": 4, "matrix": True},
        backbone=partial(Plain, channels=[4, 6], strides=2, norm="instance"),
        primary={"types": 2, "dim": 4, "kernel": 1, "normaliser": "layer_norm"},
        head="linear",
    ),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


def images() -> Tensor:
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


# -- what a model says of its channels ---------------------------------------------------------------------------------


def test_all_convolutions_are_named_in_their_order(model: Prunable) -> None:
    found = [model.get_submodule(layer.conv) for layer in model.channel_layers().values()]
    going = [model.get_submodule(each.name) for layer in model.channel_layers().values() for each in layer.followers]
    added = [block for block in model.modules() if isinstance(block, ResNet)]  # sums, whose channels belong together
    kept = [] if added else [each for each in model.modules() if isinstance(each, nn.Conv2d) and each not in going]
    assert found == kept or added
    assert [model.convolution(name) for name in model.channel_layers()] == found


def test_readers_take_so_many_inputs_from_each_unit(model: Prunable) -> None:
    for name, layer in model.channel_layers().items():
        assert model.widths()[name] % layer.dim == 0
        assert layer.step % layer.dim == 0
        for reader in layer.readers:
            module: Any = model.get_submodule(reader.name)
            inputs = module.weight.shape[3 if isinstance(module, CapsuleLayer) else 1]
            assert inputs == model.widths()[name] // layer.dim * reader.places


def test_a_channel_reaches_no_layer_but_its_readers(model: Prunable) -> None:
    """With a channel's map at zero, the readers' inputs change in the places that they name and nowhere else."""
    name, layer = list(model.channel_layers().items())[-1]
    (reader,) = layer.readers
    seen: list[Tensor] = []

    def listen(module: Any, inputs: tuple[Any, ...]) -> None:
        poses = capsules_of(inputs[0]).poses
        seen.append(module.windows(poses).clone() if hasattr(module, "windows") else poses.clone())

    hook = model.get_submodule(reader.name).register_forward_pre_hook(listen)
    with torch.no_grad():
        model(images())
        silenced = model.get_submodule(layer.maps).register_forward_hook(
            lambda _, __, maps: maps.index_fill(1, torch.tensor([layer.dim]), 0)
        )
        model(images())
    hook.remove()
    silenced.remove()
    changed = seen[0] != seen[1]  # (B, inputs) of a linear layer, (B, I, D) of capsules
    others = [each for each in range(changed.dim()) if each != 1]
    places = changed.any(others).nonzero().flatten()
    assert len(places) > 0
    assert set(places.tolist()) <= set(range(reader.places, 2 * reader.places)), f"{name}: unit 1 alone"


def test_sizes_make_a_model_of_these_widths(model: Any, request: pytest.FixtureRequest) -> None:
    make = MODELS[request.node.callspec.params["model"]]
    assert make(**model.sized({})).widths() == model.widths()
    for name, layer in model.channel_layers().items():
        fewer = model.widths()[name] - max(layer.dim, 1)
        again = make(**model.sized({name: fewer}))
        assert again.widths() == model.widths() | {name: fewer}
        assert getattr(again, "depth", 0) == getattr(model, "depth", 0)
        assert again(images()).shape == (2, 3)


def test_sizes_are_plain(model: Prunable) -> None:
    def numbers(value: Any) -> list[Any]:
        if isinstance(value, dict | list):
            parts = value.values() if isinstance(value, dict) else value
            return [each for part in parts for each in numbers(part)]
        return [value]

    assert {type(each) for each in numbers(model.sized({}))} == {int}


def test_a_model_of_which_nobody_has_said_how_has_no_channels_to_prune() -> None:
    model: Classifier = BaselineCNN(image_shape=SHAPE, classes=3)
    assert (model.channel_layers(), model.widths(), model.sized({})) == ({}, {}, {})
    with FeatureMaps(model) as maps:
        model(images())
        assert maps.last == {}


# -- their maps --------------------------------------------------------------------------------------------------------


def test_maps_are_those_of_the_last_pass(model: Prunable) -> None:
    with FeatureMaps(model) as maps:
        assert maps.last == {}
        model(torch.zeros(5, *SHAPE))
        model(images())
        assert {name: found.shape[1] for name, found in maps.last.items()} == model.widths()
        assert all(found.shape[0] == 2 for found in maps.last.values())
        for name, layer in model.channel_layers().items():
            if layer.dim == 1:
                assert maps.last[name].min() >= 0, "behind the ReLU"
            else:
                assert maps.last[name].min() < 0, "before the squash"
        if isinstance(model, DeepCapsNet):
            assert torch.equal(maps.last["conv3"], model.backbone(images()))
            assert torch.equal(maps.last["primary"], model.primary.conv(maps.last["conv3"]))
    assert maps.last == {}


def test_maps_have_gradients(model: Prunable) -> None:
    with FeatureMaps(model) as maps:
        model(images())
        maps.last[next(iter(maps.last))].square().sum().backward()
    first, *others = [model.convolution(name).weight.grad for name in model.channel_layers()]
    assert first is not None
    assert first.abs().sum() > 0
    assert others == [None] * len(others)


def test_hooks_are_there_only_inside(model: Prunable) -> None:
    with FeatureMaps(model):
        assert hooks(model) == len(model.channel_layers())
    assert hooks(model) == 0
    with pytest.raises(KeyError), FeatureMaps(model):
        raise KeyError
    assert hooks(model) == 0


def test_two_may_listen_at_once() -> None:
    model = MODELS["cnn"]()
    with FeatureMaps(model) as first:
        with FeatureMaps(model) as second:
            model(images())
            assert all(first.last[name] is second.last[name] for name in first.last)
        model(images())
        assert len(first.last) == 3
        assert second.last == {}
