"""Networks of a backbone and capsule layers: sizes as the papers count them, and refusals that name the part."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from capsexp import build, resolvers
from capsexp.errors import ConfigError
from capsexp.models.backbones import Backbone, Plain, ResNet
from capsexp.models.base import count_parameters
from capsexp.models.layered_capsnet import PRIMARY, LayeredCapsNet
from capsexp.routing import Dynamic, SelfRouting
from capsexp.sweep.cells import resolved

CONF = Path(__file__).parents[2] / "conf"
SR_2 = "model.layers=[{types:32,dim:16,kernel:3,stride:2,padding:1}]"


def parameters(overrides: list[str], image_shape: tuple[int, int, int]) -> int:
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = resolved(compose("config", overrides))
    with torch.device("meta"):
        return count_parameters(build.make_model(config, image_shape=image_shape, classes=10))


@pytest.mark.parametrize(
    ("overrides", "image_shape", "expected"),
    [
        (["model=efficient_capsnet", "model.decoder=null"], (1, 28, 28), 161_824),
        (["model=sr_capsnet"], (3, 32, 32), 931_664),
        (["model=sr_capsnet", SR_2], (3, 32, 32), 3_187_536),
    ],
)
def test_parameters_of_the_papers_networks(
    overrides: list[str], image_shape: tuple[int, int, int], expected: int
) -> None:
    """Mazzia et al. say 161 thousand, Hahn et al. .93 and 3.19 million; to the last one by the layers' formulas."""
    assert parameters(overrides, image_shape) == expected


def made(**options: Any) -> LayeredCapsNet:
    given: dict[str, Any] = {"image_shape": (1, 12, 14), "classes": 3, "routing": Dynamic}
    given |= {"backbone": partial(Plain, channels=[4]), "primary": {"types": 2, "dim": 4, "stride": 2}}
    return LayeredCapsNet(**given | options)


@pytest.mark.parametrize("model", ["attention_capsnet", "efficient_capsnet", "sr_capsnet"])
def test_every_key_of_the_primary_capsules_is_there_to_be_changed(model: str) -> None:
    listed = OmegaConf.load(CONF / "model" / f"{model}.yaml")
    assert tuple(listed.primary) == PRIMARY
    assert "layer_normaliser" in listed


def test_every_layer_has_the_sizes_that_it_was_given() -> None:
    layers = [{"types": 3, "dim": 6, "stride": 2}, {"types": 5, "dim": 2, "kernel": 1, "padding": 1}]
    model = made(layers=layers, dim_class=7).eval()
    assert model.grid == (3, 4)  # 12x14, 10x12, 4x5, 1x2 (windows of 3, stride 2), 3x4 (a border of one place)
    assert [layer.weight.shape for layer in model.layers.values()] == [(3, 6, 4, 18), (5, 2, 6, 3)]
    assert model.class_capsules.weight.shape == (3, 7, 2, 60)
    assert model(torch.rand(2, 1, 12, 14)).shape == (2, 3)


def test_no_kernel_is_the_whole_map() -> None:
    model = made(image_shape=(1, 12, 12), primary={"types": 2, "dim": 4, "kernel": None})
    assert (model.primary.conv.kernel_size, model.grid) == ((10, 10), (1, 1))
    deeper = made(image_shape=(1, 12, 12), layers=[{"types": 4, "dim": 4, "kernel": None}])
    assert (deeper.layers["layer1"].kernel, deeper.grid) == (4, (1, 1))


def test_a_network_is_made_without_a_change_to_its_statistics_or_its_mode() -> None:
    model = made(backbone=partial(ResNet, channels=[4], blocks=[1]))
    assert model.backbone.training
    assert not model.backbone.norm.running_mean.any()  # type: ignore[union-attr,operator]


class Pool(Backbone):
    """It has no parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return F.avg_pool2d(images_BCHW, 2)


def test_a_backbone_may_have_no_parameters() -> None:
    sizes: dict[str, Any] = {"image_shape": (2, 12, 12), "classes": 3, "primary": {"types": 2, "dim": 4}}
    model = LayeredCapsNet(routing=Dynamic, backbone=Pool, **sizes)
    assert (model.grid, model(torch.rand(2, 2, 12, 12)).shape) == ((4, 4), (2, 3))


@pytest.mark.parametrize("shortcut", ["pad", "convolution"])
def test_a_residual_block_adds_its_input(shortcut: str) -> None:
    backbone = ResNet(1, channels=[2, 4], blocks=[1, 1], shortcut=shortcut).eval()
    with torch.no_grad():
        for block in backbone.blocks:
            block.norm2.weight.zero_()  # type: ignore[union-attr,operator]
        images = torch.rand(2, 1, 6, 6)
        before = backbone.norm(backbone.conv(images)).relu()
        found = backbone(images)
    assert found.shape == (2, 4, 3, 3)
    if shortcut == "pad":  # two channels of zeros on either side of every second place
        assert torch.equal(found[:, 1:3], before[:, :, ::2, ::2])
        assert not found[:, [0, 3]].any()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"primary": {"types": 2}}, "primary.dim must be a whole number >= 1, got None"),
        ({"primary": {"dim": 2}}, "primary.types must be a whole number >= 1, got None"),
        ({"primary": [2]}, "primary must be a mapping with the keys types, dim, kernel"),
        ({"primary": {"types": 2, "dim": 4, "knl": 3}}, "primary must have the keys types, dim, kernel"),
        (
            {"primary": {"types": 2, "dim": 4, "normaliser": "x"}},
            "primary.normaliser must be one of squash, bat",
        ),
        ({"primary": {"types": 2, "dim": 4, "kernel": 11}}, "primary.kernel must be at most the side of the maps"),
        (
            {"primary": {"types": 2, "dim": 4, "kernel": None}},
            "primary.kernel must be a number where maps are",
        ),
        (
            {"layers": [{"types": 2, "dim": 4, "kernel": 9}]},
            "layers[0].kernel must be at most the side of the maps and",
        ),
        ({"layers": None}, "layers must be a list of mappings with the keys types, dim, kernel, stride, padding, got"),
        (
            {"primary": {"types": 2, "dim": 4, "activation": "logistic"}},
            "primary.activation must be length: Dynamic does",
        ),
        ({"layers": [{"types": 2}]}, "layers[0].dim must be a whole number >= 1, got None"),
        (
            {"layers": [{"types": 2, "dim": 4, "depth": 2}]},
            "layers[0] must have the keys types, dim, kernel, stri",
        ),
        (
            {"layer_normaliser": "x", "layers": [{"types": 2, "dim": 4}]},
            "layer_normaliser must be one of none, batch_norm",
        ),
        ({"image_shape": (1, 2, 2)}, "image_shape must be large enough for this model's backbone"),
        ({"matrix": True}, "matrix must be false: matrices need a square number of components, and as many after (16)"),
        (
            {"backbone": 3},
            "backbone must be the constructor of a backbone, such as capsexp.models.backbones.Plain, got",
        ),
        ({"matrix": 1}, "matrix must be true or false, got 1"),
        ({"dim_class": 0}, "dim_class must be at least 1: Dynamic gives no activations without poses, got 0"),
        (
            {"dim_class": 0, "routing": SelfRouting, "decoder": [8]},
            "decoder must be null where class capsules have no poses (dim_class=0)",
        ),
        ({"backbone": partial(Plain, channels=[])}, "backbone.channels must name the channels of at"),
        ({"backbone": partial(Plain, channels=8)}, "backbone.channels must name the channels of at"),
        ({"backbone": partial(ResNet, channels=8)}, "backbone.channels must name the channels of at"),
        (
            {"backbone": partial(Plain, channels=[4], kernels=[3, 3])},
            "backbone.kernels must hold 1 numbers",
        ),
        ({"backbone": partial(ResNet, shortcut="x")}, "backbone.shortcut must be one of pad, convolution, got 'x'"),
        ({"backbone": partial(ResNet, channels=[4, 2], blocks=[1, 1])}, "backbone.channels must not fall from stage"),
    ],
)
def test_a_part_that_does_not_fit_is_named(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(**options)
    assert str(caught.value).startswith(line)
