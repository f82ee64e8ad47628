"""Smaller networks against masked ones, and against a reference that copies slice by slice."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capsexp.errors import ConfigError
from capsexp.models.backbones import Plain, ResNet
from capsexp.models.base import Classifier
from capsexp.models.capsnet import CapsNet
from capsexp.models.cnn import CNN
from capsexp.models.deep_capsnet import DeepCapsNet
from capsexp.models.layered_capsnet import LayeredCapsNet
from capsexp.nn.capsules import capsule_layers, set_inference
from capsexp.nn.channels import Prunable
from capsexp.pruning.surgery import shrink, transplant
from capsexp.routing import EM, Dynamic, Fixed, InvertedAttention, MaxMin, SelfAttention, SelfRouting, VariationalBayes
from tests.references import surgery as reference

Make = Callable[..., Any]
Kept = dict[str, Tensor]


def index(*channels: int) -> Tensor:
    return torch.tensor(channels)


def whole(dim: int, *types: int) -> Tensor:
    """The channels of whole capsules."""
    return torch.tensor([kind * dim + component for kind in types for component in range(dim)])


def deep(**options: Any) -> Make:
    return partial(
        DeepCapsNet, **{"image_shape": (1, 15, 17), "classes": 3, "routing": Dynamic, "capsules": 4, "dim": 4} | options
    )


def caps(**options: Any) -> Make:
    return partial(
        CapsNet,
        **{"image_shape": (1, 13, 11), "classes": 3, "routing": Dynamic, "c1": 6, "c2": 16, "kernel": 3, "dim": 4}
        | {"decoder": None}
        | options,
    )


def cnn(side: int) -> Make:
    return partial(CNN, image_shape=(2, side, side + 9), classes=3, c1=5, c2=6, c3=7)


def lived_in(make: Make, seed: int = 0) -> Any:
    """A network in which every number matters: no weight, bias, scale or statistic has the value that it began with."""
    torch.manual_seed(seed)
    model = make()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn_like(value) * 0.3
            value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else value + noise)
        else:
            value.fill_(7)
    return model.eval()


def pictures(model: Any, make: Make) -> Tensor:
    shape = make.keywords["image_shape"]  # type: ignore[attr-defined]
    return torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def masked(model: Prunable, kept: Mapping[str, Tensor], images_BCHW: Tensor) -> Tensor:
    """The scores of the whole model with all other channels' maps set to zero, and capsules without them silent."""
    hooks = []
    for name, stay in kept.items():
        gone = torch.ones(model.convolution(name).out_channels, dtype=torch.bool)
        gone[stay] = False
        module = model.get_submodule(model.channel_layers()[name].maps)
        hooks.append(
            module.register_forward_hook(lambda _, __, maps, gone=gone: maps.masked_fill(gone[:, None, None], 0))
        )
        layer = model.channel_layers()[name]
        for follower in [each for each in layer.followers if "activation" in each.name][-1:]:
            silent = gone.view(-1, layer.dim)[:, 0]
            module = model.get_submodule(follower.name)
            hooks.append(
                module.register_forward_hook(
                    lambda _, __, logits, silent=silent: logits.masked_fill(silent[:, None, None], -torch.inf)
                )
            )
    scores_BK: Tensor = model(images_BCHW)
    for hook in hooks:
        hook.remove()
    return scores_BK


BACKBONE = {"conv1": index(1, 3), "conv2": index(0, 2, 5, 7), "conv3": index(1, 2, 3, 8, 11, 15)}
CAPSULES = {"primary": whole(4, 0, 2, 3)}

LOGISTIC = {"routing": SelfRouting, "normaliser": "batch_norm", "activation": "logistic"}
SOFT = partial(SelfAttention, squash="classic")
EFFICIENT = partial(
    LayeredCapsNet,
    **{"image_shape": (1, 11, 11), "classes": 3, "routing": SelfAttention, "dim_class": 4},
    backbone=partial(Plain, channels=[4, 12], norm="batch", norm_last=True),
    primary={"types": 3, "dim": 4, "kernel": None, "depthwise": True, "squash": "exponential"},
)
RESIDUAL = partial(
    LayeredCapsNet,
    **{"image_shape": (1, 9, 11), "classes": 3, "routing": SelfRouting, "dim_class": 0},
    backbone=partial(ResNet, channels=[4, 6], blocks=[1, 1]),
    primary={"types": 3, "dim": 4, "normaliser": "batch_norm", "activation": "logistic"},
    layers=[{"types": 2, "dim": 4}],
    layer_normaliser="batch_norm",
)
CONCURRENT = partial(
    LayeredCapsNet,
    **{"image_shape": (1, 9, 9), "classes": 3, "matrix": True, "dim_class": 4, "head": "linear", "concurrent": True},
    routing=partial(InvertedAttention, iterations=3),
    backbone=partial(Plain, channels=[6]),
    primary={"types": 4, "dim": 4, "kernel": 1, "normaliser": "none"},
    layers=[{"types": 3, "dim": 4, "stride": 2}],
)
GAUSSIANS = {"image_shape": (1, 9, 9), "classes": 3, "matrix": True, "dim_class": 4, "class_shared": True}
EM_NET = partial(
    LayeredCapsNet,
    **GAUSSIANS | {"class_coordinates": True, "routing": partial(EM, inverse_temperature=0.5)},
    backbone=partial(Plain, channels=[6]),
    primary={"types": 4, "dim": 4, "kernel": 1, "normaliser": "none", "activation": "logistic"},
    layers=[{"types": 3, "dim": 4, "stride": 2}],
)
VB_NET = partial(
    LayeredCapsNet,
    **GAUSSIANS | {"routing": VariationalBayes},
    backbone=partial(Plain, channels=[6], norm="batch"),
    primary={"types": 4, "dim": 4, "kernel": 1, "normaliser": "type_norm", "activation": "logistic"},
)
RESIDUAL_DEPTHWISE = partial(
    LayeredCapsNet,
    **{"image_shape": (1, 9, 11), "classes": 3, "routing": SelfAttention, "dim_class": 4},
    backbone=partial(ResNet, channels=[4, 8], blocks=[1, 1]),
    primary={"types": 2, "dim": 4, "depthwise": True},
)

CASES: dict[str, tuple[Make, Kept]] = {
    "deep, depth 0": (deep(), BACKBONE | CAPSULES),
    "deep, backbone alone": (deep(), BACKBONE),
    "deep, depth 2, backbone alone": (deep(depth=2, intermediate_std="preserving"), BACKBONE),
    "deep, max_min": (deep(routing=MaxMin), BACKBONE | CAPSULES),
    "deep, fixed": (deep(routing=Fixed), BACKBONE | CAPSULES),
    "deep, one convolution": (deep(kernels=[3], strides=[2], paddings=[0]), {"conv1": index(0, 9, 15)} | CAPSULES),
    "capsnet": (caps(), {"conv1": index(0, 1, 5)} | CAPSULES),
    "capsnet with a decoder": (caps(decoder=[8]), {"conv1": index(5)} | CAPSULES),
    "capsnet, max_min": (caps(routing=MaxMin), {"conv1": index(2, 3)} | CAPSULES),
    "capsnet, fixed": (caps(routing=Fixed), CAPSULES),
    "capsnet, one capsule": (caps(), {"primary": whole(4, 1)}),
    "capsnet, self-attention": (caps(routing=SOFT), {"conv1": index(0, 1, 5)} | CAPSULES),
    "capsnet, inverted attention": (caps(routing=InvertedAttention, head="linear"), CAPSULES),
    "capsnet, self-routing": (caps(**LOGISTIC, dim_class=0), {"conv1": index(0, 1, 5)} | CAPSULES),
    "capsnet, self-routing, no norm": (caps(**LOGISTIC | {"normaliser": "none"}), CAPSULES),
    "capsnet, depthwise": (caps(c1=16, depthwise=True), {"conv1": whole(4, 0, 2, 3)}),
    "capsnet, depthwise, batch norm": (caps(c1=16, depthwise=True, normaliser="batch_norm"), {"conv1": whole(4, 1)}),
    "deep, self-routing": (deep(**LOGISTIC), BACKBONE | CAPSULES),
    "efficient": (EFFICIENT, {"conv1": index(0, 2), "conv2": whole(4, 1, 2)}),
    "concurrent": (CONCURRENT, {"conv1": index(0, 1, 5)} | CAPSULES),
    "em": (EM_NET, {"conv1": index(0, 1, 5)} | CAPSULES),
    "variational bayes, shared matrices": (VB_NET, {"conv1": index(0, 1, 5)} | CAPSULES),
    "residual, depthwise": (RESIDUAL_DEPTHWISE, {"block1": index(1, 2), "block2": index(0, 4)}),
    "residual": (RESIDUAL, {"block1": index(1, 2), "block2": index(0, 4), "primary": whole(4, 2, 0)}),
    "cnn, 8x17": (cnn(8), {"conv1": index(0, 4), "conv2": index(1, 2, 3), "conv3": index(0, 6)}),
    "cnn, 19x28": (cnn(19), {"conv1": index(4), "conv3": index(1, 2, 5)}),
    "cnn, 24x33": (cnn(24), {"conv2": index(0)}),
}


WITHOUT_TABLE = (
    "capsnet, depthwise",
    "capsnet, depthwise, batch norm",
    "efficient",
    "residual",
    "residual, depthwise",
    "concurrent",
    "em",
    "variational bayes, shared matrices",
)
"""Cases whose numbers no table of the references lists; their scores say enough."""


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Make, Kept]:
    return CASES[request.param]


# -- cut = masked ------------------------------------------------------------------------------------------------------


def test_a_smaller_model_gives_the_masked_ones_scores(case: tuple[Make, Kept]) -> None:
    make, kept = case
    model = lived_in(make)
    images_BCHW = pictures(model, make)
    smaller = shrink(model, kept, make)
    assert smaller.widths() == model.widths() | {name: len(stay) for name, stay in kept.items()}
    expected = masked(model, kept, images_BCHW)
    with torch.no_grad():
        assert not torch.allclose(expected, model(images_BCHW), atol=1e-3), "what goes matters"
        torch.testing.assert_close(smaller.eval()(images_BCHW), expected, rtol=0, atol=1e-5)


def test_the_large_model_stays_as_it_is(case: tuple[Make, Kept]) -> None:
    make, kept = case
    model = lived_in(make)
    before = copy.deepcopy(model.state_dict())
    smaller = shrink(model, kept, make)
    with torch.no_grad():
        for value in smaller.state_dict().values():
            value.zero_()
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def table_of(model: Any) -> dict[str, reference.Cuts]:
    """The reference's table for a network whose capsules have four components."""
    if isinstance(model, CNN):
        return reference.cnn(model.layers.linear.in_features // model.widths()["conv3"])
    places = model.class_capsules.weight.shape[3] // (model.widths()["primary"] // 4)
    if isinstance(model, CapsNet):
        return reference.capsnet(places)
    return reference.deep_capsnet(places, len(model.widths()) - 1)


@pytest.mark.parametrize("name", [name for name in CASES if name not in WITHOUT_TABLE])
def test_all_numbers_are_the_references(name: str) -> None:
    make, kept = CASES[name]
    model = lived_in(make)
    lists = {name: stay.tolist() for name, stay in kept.items()}
    if "primary" in lists:
        lists["types"] = [channel // 4 for channel in lists["primary"][::4]]
    table = table_of(model)
    expected = reference.state({name: value.numpy() for name, value in model.state_dict().items()}, table, lists)
    found = shrink(model, kept, make).state_dict()
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.shape == expected[key].shape, key
        assert (value.double().numpy() == expected[key]).all(), key


@pytest.mark.parametrize("inference", ["folded", "fast"])
@pytest.mark.parametrize("make", [deep(), caps()])
def test_master_coefficients_come_along(make: Make, inference: Any) -> None:
    model = lived_in(make)
    layer = model.class_capsules
    layer.set_master(torch.rand(layer.weight.shape[0], layer.weight.shape[3]))
    set_inference(model, inference)
    smaller = shrink(model, CAPSULES, make).eval()
    set_inference(smaller, inference)
    images_BCHW = pictures(model, make)
    with torch.no_grad():
        torch.testing.assert_close(smaller(images_BCHW), masked(model, CAPSULES, images_BCHW), rtol=0, atol=1e-5)


def test_channels_in_another_order() -> None:
    """A permutation of all channels, and of whole capsules, changes no score."""
    for make, kept in (
        (deep(), {"conv1": index(3, 0, 1, 2), "conv3": torch.arange(15, -1, -1), "primary": whole(4, 2, 0, 3, 1)}),
        (caps(), {"conv1": index(5, 0, 4, 1, 3, 2), "primary": whole(4, 3, 2, 1, 0)}),
        (cnn(17), {"conv1": index(4, 0, 1, 2, 3), "conv3": index(6, 5, 0, 1, 4, 2, 3)}),
    ):
        model = lived_in(make)
        images_BCHW = pictures(model, make)
        with torch.no_grad():
            found = shrink(model, kept, make).eval()(images_BCHW)
            torch.testing.assert_close(found, model(images_BCHW), rtol=0, atol=1e-5)


def test_cut_twice_is_cut_once() -> None:
    make = deep()
    model = lived_in(make)
    once = shrink(model, {"conv2": index(1, 6), "primary": whole(4, 3)}, make)
    first = shrink(model, {"conv2": index(1, 4, 6), "primary": whole(4, 1, 3)}, make)
    again = shrink(first, {"conv2": index(0, 2), "primary": whole(4, 1)}, make)
    assert_same_state(once, again)


def assert_same_state(first: nn.Module, second: nn.Module) -> None:
    one, other = first.state_dict(), second.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# -- capsules grouped anew ---------------------------------------------------------------------------------------------

SCATTERED = index(1, 2, 3, 4, 6, 9, 12, 15)


def fresh(make: Make, **sizes: Any) -> Any:
    torch.manual_seed(5)
    return make(**sizes)


@pytest.mark.parametrize("make", [deep(), caps(), deep(depth=2)])
def test_survivors_of_single_channels_are_grouped_in_their_order_behind_new_matrices(make: Make) -> None:
    model = lived_in(make)
    smaller = shrink(model, {"primary": SCATTERED}, partial(fresh, make))
    new = fresh(make, **model.sized({"primary": len(SCATTERED)}))
    for number, channel in enumerate(SCATTERED.tolist()):
        assert torch.equal(smaller.primary.conv.weight[number], model.primary.conv.weight[channel])
        assert smaller.primary.conv.bias[number] == model.primary.conv.bias[channel]
    for name, layer in capsule_layers(smaller).items():
        assert torch.equal(layer.weight, new.get_submodule(name).weight), f"{name} is new"
    others = {name: value for name, value in smaller.state_dict().items() if "capsules" not in name}
    whole_state = model.state_dict()
    for name, value in others.items():
        if not name.startswith(("primary", "intermediate")):
            assert torch.equal(value, whole_state[name]), name


def test_masters_of_removed_capsules_are_dropped() -> None:
    model = lived_in(deep())
    model.class_capsules.set_master(torch.rand(3, model.class_capsules.weight.shape[3]))
    assert shrink(model, {"primary": SCATTERED}, deep()).class_capsules.master_JI is None


def test_intermediate_layers_between_fewer_types_are_new() -> None:
    """Their children can be carried over, but not their parents: there are fewer of those too."""
    make = deep(depth=2)
    model = lived_in(make)
    smaller = shrink(model, CAPSULES, partial(fresh, make))
    new = fresh(make, **model.sized({"primary": 12}))
    assert list(smaller.intermediate) == ["layer1", "layer2"]
    for name, layer in capsule_layers(smaller).items():
        assert torch.equal(layer.weight, new.get_submodule(name).weight), name


@pytest.mark.parametrize("make", [deep(), deep(depth=1), caps()])
def test_renewed_capsule_layers_are_new_and_nothing_else_is(make: Make) -> None:
    model = lived_in(make)
    smaller = shrink(model, {"conv1": index(0, 2)}, partial(fresh, make), renew=True)
    kept = shrink(model, {"conv1": index(0, 2)}, partial(fresh, make))
    new = fresh(make, **model.sized({"conv1": 2}))
    own = tuple(f"{name}." for name in capsule_layers(smaller))
    expected = {name: (new if name.startswith(own) else kept).state_dict()[name] for name in smaller.state_dict()}
    assert all(torch.equal(value, expected[name]) for name, value in smaller.state_dict().items())
    assert not torch.equal(smaller.class_capsules.weight, kept.class_capsules.weight)


# -- transplants -------------------------------------------------------------------------------------------------------


def test_a_transplant_takes_convolutions_and_their_statistics_and_nothing_else() -> None:
    model, other = lived_in(deep(), seed=0), lived_in(deep(depth=2), seed=1)
    before = copy.deepcopy(other.state_dict())
    given = copy.deepcopy(model.state_dict())
    transplant(model, other)
    carried = 0
    for name, value in other.state_dict().items():
        taken = name.startswith(("backbone.", "primary.conv."))
        carried += taken
        assert torch.equal(value, (given if taken else before)[name]), name
        if value.is_floating_point() and taken:
            assert not torch.equal(value, before[name])
    assert carried == 3 * (1 + 5) + 2
    assert all(torch.equal(value, given[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        other.primary.conv.weight.zero_()
    assert torch.equal(model.primary.conv.weight, given["primary.conv.weight"]), "a copy"


def test_a_transplant_from_a_pruned_model_into_a_deeper_one_of_its_widths() -> None:
    model = shrink(lived_in(deep()), BACKBONE | {"primary": SCATTERED}, deep())
    deeper = deep()(**model.sized({}) | {"depth": 1})
    transplant(model, deeper)
    images_BCHW = torch.randn(2, 1, 15, 17)
    with torch.no_grad():
        found, expected = (each.eval().backbone(images_BCHW) for each in (deeper, model))
        assert torch.equal(deeper.primary(found).poses, model.primary(expected).poses)


def test_a_transplant_takes_normalisations_after_an_activation() -> None:
    model, other = lived_in(EFFICIENT), lived_in(EFFICIENT, seed=1)
    transplant(model, other)
    images_BCHW = pictures(model, EFFICIENT)
    with torch.no_grad():
        assert torch.equal(other.primary(other.backbone(images_BCHW))[0], model.primary(model.backbone(images_BCHW))[0])


@pytest.mark.parametrize("options", [LOGISTIC, {"normaliser": "layer_norm"}])
def test_a_transplant_takes_all_of_the_primary_capsules(options: dict[str, Any]) -> None:
    model, deeper = lived_in(deep(**options)), lived_in(deep(**options, depth=1), seed=1)
    transplant(model, deeper)
    maps_BCHW = torch.rand(2, 16, 8, 9)
    with torch.no_grad():
        for found, expected in zip(deeper.primary(maps_BCHW), model.primary(maps_BCHW), strict=True):
            assert (found is None and expected is None) or torch.equal(found, expected)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "kept", "line"),
    [
        (
            deep(),
            {"conv9": index(0)},
            "kept.conv9 must name one of the layers conv1, conv2, conv3, primary, got 'conv9'",
        ),
        (deep(), {"conv1": index(0, 4)}, "kept.conv1 must hold indices from 0 to 3, at least one, got [0, 4]"),
        (deep(), {"conv1": index(-1)}, "kept.conv1 must hold indices from 0 to 3, at least one, got [-1]"),
        (
            caps(),
            {"conv1": torch.tensor([], dtype=torch.int64)},
            "kept.conv1 must hold indices from 0 to 5, at least one, got []",
        ),
        (cnn(8), {"conv2": index(2, 3, 2)}, "kept.conv2 must name each channel once, got [2, 3, 2]"),
        (
            caps(),
            {"primary": index(0, 1, 2)},
            "kept.primary must be a multiple of 4 channels, so that they make whole capsules, got 3",
        ),
    ],
)
def test_what_cannot_be_cut_is_one_line(make: Make, kept: Kept, line: str) -> None:
    model: Classifier = make()
    with pytest.raises(ConfigError) as caught:
        shrink(model, kept, make)
    assert str(caught.value) == line
