"""Pruning by hand, step by step and in one call, and what is said of a network that cannot be pruned."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capsexp.errors import ConfigError
from capsexp.models import CNN, BaselineCNN, CapsNet, DeepCapsNet
from capsexp.nn import ChannelLayer, FeatureMaps, Reader
from capsexp.pruning import (
    Chip,
    Cosine,
    Fewer,
    Layer,
    Magnitude,
    Random,
    Selection,
    check_network,
    find_partners,
    partners,
    prune,
    score,
    select,
    shrink,
)
from capsexp.routing import Dynamic

make = partial(CNN, image_shape=(1, 8, 8), classes=5, c1=4, c2=6, c3=4)
IMAGES = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> CNN:
    torch.manual_seed(0)
    return make()


class Own(nn.Module):
    """A network with the two methods of the contract, which inherits nothing of capsexp."""

    def __init__(self, first: int = 6, other: int = 3) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, first, 3), nn.BatchNorm2d(first)
        self.relu, self.linear, self.more = nn.ReLU(), nn.Linear(first * 36, 5), nn.Linear(1, other)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        scores_BK: Tensor = self.linear(self.relu(self.norm(self.conv(images_BCHW))).flatten(1))
        return scores_BK

    def channel_layers(self) -> Mapping[str, ChannelLayer]:
        return {"first": ChannelLayer("conv", "relu", (Reader("linear", places=36),), norm="norm")}

    def sized(self, widths: Mapping[str, int]) -> Mapping[str, Any]:
        return {"first": self.conv.out_channels, **widths}


# -- the steps ---------------------------------------------------------------------------------------------------------


def test_scores_are_the_mean_over_images_of_any_batches(model: CNN) -> None:
    with torch.no_grad(), FeatureMaps(model.eval()) as maps:
        model(IMAGES)
        expected = {
            name: Chip().scores(Layer(name, model.convolution(name).weight, maps.last[name])) for name in maps.last
        }
    model.train()
    model.layers.conv1.eval()  # type: ignore[union-attr, operator]
    found = score(model, Chip(), [(IMAGES[:3], "labels"), [IMAGES[3:]]])
    torch.testing.assert_close(found, expected)
    assert model.training
    assert not model.layers.conv1.training  # type: ignore[union-attr]
    torch.testing.assert_close(score(model, Chip(), [IMAGES], layers=["conv2"]), {"conv2": expected["conv2"]})


def test_scores_of_weights_need_no_images(model: CNN) -> None:
    found = score(model, Magnitude())
    for name, scores_O in found.items():
        torch.testing.assert_close(scores_O, Magnitude().scores(Layer(name, model.convolution(name).weight)))


def test_one_call_does_what_the_steps_do(model: CNN) -> None:
    selection = Selection(0.5, merge=True)
    with torch.random.fork_rng():
        smaller, kept, scores = prune(model.eval(), Cosine(), selection, make=make)
    torch.testing.assert_close(scores, score(model, Cosine()))
    torch.testing.assert_close(kept, select(model, scores, selection))
    by_hand = shrink(model, kept, make, into=find_partners(model, kept))
    torch.testing.assert_close(smaller.state_dict(), by_hand.state_dict())
    unmerged = prune(model, Cosine(), 0.5, make=make).model
    torch.testing.assert_close(unmerged.state_dict(), shrink(model, kept, make).state_dict())
    assert not torch.equal(unmerged.layers.linear.weight, smaller.layers.linear.weight)  # type: ignore[union-attr]
    assert smaller.widths() == {"conv1": 2, "conv2": 3, "conv3": 2}
    assert (smaller.training, model.widths()) == (False, {"conv1": 4, "conv2": 6, "conv3": 4})


def test_a_smaller_network_has_the_type_of_the_whole_one(model: CNN) -> None:
    smaller = prune(model.double(), Magnitude(), Fewer(1), make=make, layers=["conv2"]).model
    assert smaller.widths() == {"conv1": 4, "conv2": 5, "conv3": 4}
    assert smaller(IMAGES.double()).dtype == torch.float64
    assert smaller.training


def test_the_scores_of_a_pruned_capsule_network_are_those_of_the_masked_one() -> None:
    torch.manual_seed(0)
    sizes = {"image_shape": (1, 8, 8), "classes": 3, "kernel": 3, "dim": 2, "decoder": None}
    caps = partial(CapsNet, **sizes, routing=Dynamic)  # type: ignore[arg-type]
    whole = caps(c1=6, c2=8).eval()
    pruned = prune(whole, Chip(), Selection(0.5, granularity="capsule"), [IMAGES], make=caps)
    keeps = [
        whole.get_submodule(layer.maps).register_forward_hook(
            lambda _, __, maps, kept=pruned.kept[name]: torch.zeros_like(maps).index_copy(1, kept, maps[:, kept])
        )
        for name, layer in whole.channel_layers().items()
    ]
    torch.testing.assert_close(pruned.model(IMAGES), whole(IMAGES), rtol=0, atol=1e-6)
    assert len(keeps) == 2


def test_a_network_that_inherits_nothing_can_be_pruned() -> None:
    torch.manual_seed(0)
    own = Own().eval()
    smaller = prune(own, Chip(), 0.5, [IMAGES]).model
    assert smaller.conv.out_channels == 3
    assert smaller.linear.in_features == 108
    twins = Own().eval()
    with torch.no_grad():
        twins.conv.weight[1], twins.conv.bias[1] = 2 * twins.conv.weight[0], 2 * twins.conv.bias[0]  # type: ignore[index]
    merged = prune(twins, Cosine(), Selection(1 / 6, merge=True))
    assert merged.kept["first"].tolist() == [1, 2, 3, 4, 5]
    torch.testing.assert_close(merged.model(IMAGES), twins(IMAGES), rtol=0, atol=1e-5)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((Chip(), 0.5), "batches must hold images, since Chip scores feature maps, got None"),
        ((Chip(), 0.5, []), "batches must hold images, since Chip scores feature maps, got 'none'"),
        (
            (Chip(), 0.5, ["a"]),
            "batches must hold tensors of images (B, C, H, W), or sequences that begin with one, got 'str'",
        ),
        (("chip", 0.5), "criterion must be a criterion, such as capsexp.pruning.Chip(), got 'chip'"),
        ((Magnitude(), 1.0), "ratio must be a number in [0, 1), got 1.0"),
        ((Magnitude(), "half"), "ratio must be a number in [0, 1), or a Selection or Fewer, got 'half'"),
        ((Magnitude(), Fewer(4)), "channels must leave one of the 4 channels, got 4"),
    ],
)
def test_wrong_arguments_are_one_line(model: CNN, arguments: Any, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prune(model, *arguments, make=make)
    assert str(caught.value) == line


def test_layers_that_are_not_there_are_named(model: CNN) -> None:
    for call in (
        lambda: score(model, Magnitude(), layers=["conv9"]),
        lambda: select(model, {"conv9": torch.ones(4)}, 0.5),
        lambda: partners(model, "conv9", torch.tensor([0])),
    ):
        with pytest.raises(ConfigError, match=r"conv1, conv2, conv3, got 'conv9'$"):
            call()
    with pytest.raises(
        ConfigError, match=r"^scores.conv1 must have the shape \(4,\), one number per channel, got \(3,\)"
    ):
        select(model, {"conv1": torch.ones(3)}, 0.5)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (lambda **_: make(), r"^make must make a network of the widths .* sized\(\) of CNN returns, got .*'conv1': 4"),
        (
            lambda **widths: Other(**{"first": 6, **widths}),
            r"^make must make the architecture of the model, with its other arguments, got 'a difference in late.bias",
        ),
        (lambda **_: nn.Linear(1, 1), r"^model must have a method channel_layers\(\), .* got 'Linear'$"),
    ],
    ids=["widths", "modules", "no network"],
)
def test_a_constructor_of_another_architecture_is_refused(wrong: Any, line: str) -> None:
    whole: Any = Own() if "difference" in line else make()
    with pytest.raises(ConfigError, match=line):
        prune(whole, Random(), 0.5, make=wrong)


def test_what_a_constructor_takes_and_makes_is_checked() -> None:
    sizes: dict[str, Any] = {"image_shape": (1, 8, 8), "classes": 3, "kernel": 3, "dim": 2, "decoder": None}
    caps = partial(CapsNet, **sizes, routing=Dynamic)
    whole = caps(c1=6, c2=8)
    for wrong, line in (
        (None, r"take what sized\(\) of CapsNet returns \(c1, c2\) and need no more \(missing .*\), got 'CapsNet'$"),
        (lambda c1: caps(c1=c1), r"take what sized\(\) .*unexpected keyword argument 'c2'\), got '<lambda>'$"),
        (partial(caps, classes=4), r"make the architecture of the model, .*a difference in class_capsules.weight'$"),
        (partial(caps, dim_class=4), r"make the architecture of the model, .*a difference in class_capsules.weight'$"),
        (
            partial(caps, image_shape=(3, 8, 8)),
            r"make the architecture of the model, .*a difference in conv1.weight'$",
        ),
    ):
        with pytest.raises(ConfigError, match=f"^make must {line}"):
            prune(whole, Random(), 0.5, make=wrong)


class Other(Own):
    def __init__(self, first: int = 6) -> None:
        super().__init__(first)
        self.late = nn.Linear(1, 1)


def with_layer(**changes: Any) -> Own:
    """A network one of whose statements about itself is wrong."""
    own = Own()
    layer = {"conv": "conv", "maps": "relu", "readers": (Reader("linear", places=36),), "norm": "norm"} | changes
    own.channel_layers = lambda: {"first": ChannelLayer(**layer)}  # type: ignore[method-assign]
    return own


def instead(**methods: Any) -> Own:
    own = Own()
    for name, value in methods.items():
        setattr(own, name, value)
    return own


KEY = r"Own\.channel_layers\(\)\['first'\]"


@pytest.mark.parametrize(
    ("network", "line"),
    [
        ("text", r"^model must be a torch\.nn\.Module, got 'str'$"),
        (nn.ReLU(), r"^model must have a method channel_layers\(\), which returns a dict of .*, got 'ReLU'$"),
        (instead(sized=None), r"^model must have a method sized\(widths\), which returns a dict of .*, got 'Own'$"),
        (
            instead(channel_layers=lambda: ["conv"]),
            r"^Own.channel_layers\(\) must return a dict of .*, got \['conv'\]$",
        ),
        (
            BaselineCNN(image_shape=(1, 12, 12), classes=2),
            r"^BaselineCNN.channel_layers\(\) must return .*one, got {}$",
        ),
        (
            instead(sized=lambda _: {}),
            r"^Own.sized\(\{\}\) must return a dict of the constructor's arguments .*got \{\}$",
        ),
        (with_layer(conv="cnov"), rf"^{KEY}\.conv must be the dotted name of a module of the network, got 'cnov'$"),
        (with_layer(conv="linear"), rf"^{KEY}\.conv must name a Conv2d without groups, got 'linear'$"),
        (with_layer(maps="conv.9"), rf"^{KEY}\.maps must be the dotted name of a module of the network, got 'conv.9'$"),
        (with_layer(norm="relu"), rf"^{KEY}\.norm must be None or name a BatchNorm2d of 6 channels, got 'relu'$"),
        (with_layer(dim=4), rf"^{KEY}\.dim must divide the 6 channels of conv, got 4$"),
        (with_layer(readers=()), rf"^{KEY}\.readers must name the layers that take the channels as input, got \(\)$"),
        (with_layer(readers=(Reader("relu"),)), rf"^{KEY}\.readers must name layers with a weight, got 'relu'$"),
        (
            with_layer(readers=(Reader("linear", 35),)),
            rf"^{KEY}\.readers must name a layer of 210 inputs, 6 x places 35 \(linear\), got 216$",
        ),
    ],
)
def test_what_a_network_lacks_is_one_line(network: Any, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        check_network(network)
    with pytest.raises(ConfigError, match=line):
        prune(network, Magnitude(), 0.5)


def test_maps_that_no_forward_pass_makes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^first\.maps must name a module that each forward pass calls, got 'more'$"):
        score(with_layer(maps="more"), Chip(), [IMAGES])


@pytest.mark.parametrize("depth", [0, 2])
def test_our_networks_meet_the_contract(depth: int) -> None:
    check_network(DeepCapsNet(image_shape=(3, 16, 16), classes=2, routing=Dynamic, capsules=2, dim=4, depth=depth))
