"""The deep capsule network: its sizes by hand, its intermediate layers, and what recomputing saves and keeps."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capsexp.errors import ConfigError
from capsexp.lightning_modules.capsnet import CapsNetModule
from capsexp.losses.margin import margin_loss
from capsexp.models.base import count_parameters
from capsexp.models.deep_capsnet import DeepCapsNet, preserving_std
from capsexp.nn.capsules import ConvCapsules
from capsexp.nn.primary import PrimaryCapsules
from capsexp.routing.dynamic import Dynamic
from capsexp.routing.max_min import MaxMin
from capsexp.types import Batch, Capsules

CIFAR = (3, 32, 32)


def made(**options: Any) -> DeepCapsNet:
    torch.manual_seed(0)
    return DeepCapsNet(**{"image_shape": CIFAR, "classes": 10, "routing": Dynamic, "capsules": 2, "dim": 4} | options)


def images(count: int = 2, shape: tuple[int, int, int] = CIFAR) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


# -- sizes -------------------------------------------------------------------------------------------------------------

TABLE_1 = {
    (10, 8): [20, 40, 80, 80],
    (20, 8): [40, 80, 160, 160],
    (32, 8): [64, 128, 256, 256],
    (16, 6): [24, 48, 96, 96],
    (16, 12): [48, 96, 192, 192],
    (8, 12): [24, 48, 96, 96],
}


@pytest.mark.parametrize(("capsules", "dim"), TABLE_1)
def test_widths_of_the_papers_networks(capsules: int, dim: int) -> None:
    with torch.device("meta"):
        model = made(capsules=capsules, dim=dim)
    assert model.widths() == dict(zip(["conv1", "conv2", "conv3", "primary"], TABLE_1[capsules, dim], strict=True))
    assert model.class_capsules.weight.shape == (10, 16, dim, capsules * 49)
    assert {layer.step for layer in model.channel_layers().values()} == {dim}
    assert [layer.dim for layer in model.channel_layers().values()] == [1, 1, 1, dim]


def shape_of(found: Tensor | Capsules) -> tuple[int, ...]:
    """Of one image, of maps or of poses."""
    return tuple((found if isinstance(found, Tensor) else found.poses).shape[1:])


def test_maps_and_grid_of_the_base() -> None:
    model, shapes = made(capsules=3), {}
    for name in ("backbone.relu1", "backbone.relu2", "backbone.relu3", "primary"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _, __, found, name=name: shapes.update({name: shape_of(found)}))
    assert model(images()).shape == (2, 10)
    assert shapes == {
        "backbone.relu1": (3, 32, 32),
        "backbone.relu2": (6, 16, 16),
        "backbone.relu3": (12, 16, 16),
        "primary": (3, 4, 7, 7),
    }
    assert model.grid == (7, 7)


def test_grid_of_table_4() -> None:
    """Kernels of 5 without padding, all strides 1: 32, 28, 24, 20, 16."""
    shape = {"kernels": [5] * 3, "strides": [1] * 3, "paddings": [0] * 3}
    model = made(**shape, primary_kernel=5, primary_stride=1, primary_padding=0)
    assert model.grid == (16, 16)
    assert model(images()).shape == (2, 10)
    assert model.class_capsules.weight.shape[3] == 2 * 16 * 16


def test_parameters_counted_by_hand() -> None:
    """C10D8: 9 * inputs * outputs of each convolution, two numbers a normalised channel, biases of the last alone."""
    backbone = 9 * (3 * 20 + 20 * 40 + 40 * 80) + 2 * (20 + 40 + 80)
    primary = 9 * 80 * 80 + 80
    classes = 10 * 16 * 8 * (10 * 7 * 7)
    intermediate = 10 * 8 * 8 * (10 * 3 * 3)  # parents, their components, the children's, children of a window
    for depth in (0, 1, 3):
        model = made(capsules=10, dim=8, depth=depth)
        assert count_parameters(model) == backbone + primary + classes + depth * intermediate
        assert model.params_paper() == count_parameters(model)
    assert (backbone + primary + classes, intermediate) == (721_700, 57_600)


def test_widths_that_are_given_take_the_place_of_the_papers() -> None:
    model = made(depth=1, backbone=[5, 1, 7], primary=12)
    assert list(model.widths().values()) == [5, 1, 7, 12]
    assert model(images()).shape == (2, 10)
    again = made(**model.sized({"conv2": 6}))
    assert (list(again.widths().values()), again.depth) == ([5, 6, 7, 12], 1)
    assert model.sized({"primary": 8}) == {"primary": 8, "backbone": [5, 1, 7], "depth": 1}


def test_any_number_of_convolutions() -> None:
    model = made(kernels=[3], strides=[2], paddings=[1])
    assert model.widths() == {"conv1": 8, "primary": 8}
    assert made(kernels=[3] * 4, strides=[1] * 4, paddings=[1] * 4).widths()["conv1"] == 1
    assert model(images()).shape == (2, 10)


def test_a_map_of_the_backbone_is_batch_normalised() -> None:
    model = made().train()
    with torch.no_grad():
        maps_BCHW = model.backbone[:2](images(8))
    torch.testing.assert_close(maps_BCHW.mean((0, 2, 3)), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(maps_BCHW.std((0, 2, 3)), torch.ones(2), rtol=0, atol=1e-3)
    assert [type(layer) for layer in model.backbone] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 3
    assert all(layer.bias is None for layer in model.backbone if isinstance(layer, nn.Conv2d))


# -- intermediate layers -----------------------------------------------------------------------------------------------


def lengths(model: DeepCapsNet) -> list[float]:
    """Mean length of the primary capsules' poses and of each layer behind them."""
    found: list[float] = []

    def listen(_: nn.Module, __: Any, output: tuple[Tensor, ...]) -> None:
        poses_BTDHW = output[0]
        found.append(poses_BTDHW.norm(dim=2).mean().item())

    layers = [layer for layer in model.modules() if isinstance(layer, PrimaryCapsules | ConvCapsules)]
    hooks = [layer.register_forward_hook(listen) for layer in layers]
    with torch.no_grad():
        model(images(4))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(("capsules", "dim"), [(4, 4), (8, 8), (5, 12)])
def test_preserved_lengths_neither_fade_nor_leave_the_range_over_twelve_layers(capsules: int, dim: int) -> None:
    found = lengths(made(capsules=capsules, dim=dim, depth=12, intermediate_std="preserving"))
    assert len(found) == 13
    assert all(0.25 < each < 0.995 for each in found)
    assert max(found[9:]) - min(found[9:]) < 0.05, "they settle"


@pytest.mark.parametrize(("capsules", "dim"), [(4, 4), (8, 8)])
def test_small_matrices_let_lengths_fade(capsules: int, dim: int) -> None:
    found = lengths(made(capsules=capsules, dim=dim, depth=6, intermediate_std=0.1))
    assert found[0] > 0.1
    assert found[6] < 1e-3


def test_the_scale_that_preserves_is_that_of_the_first_iteration() -> None:
    """Of children of length |u| a parent is 2 |u| long before it is squashed, on average and with uniform coupling."""
    children, parents, dim = 360, 40, 8
    std = preserving_std(children, parents, dim)
    generator = torch.Generator().manual_seed(0)
    weight_JEDI = torch.randn(parents, dim, dim, children, generator=generator) * std
    poses_BDI = nn.functional.normalize(torch.randn(50, dim, children, generator=generator), dim=1) * 0.3
    sums_BJE = torch.einsum("jedi,bdi->bje", weight_JEDI, poses_BDI) / parents
    assert sums_BJE.square().sum(2).mean().sqrt().item() == pytest.approx(2 * 0.3, rel=0.02)
    scaled = made(capsules=40, dim=8, depth=1, intermediate_std="preserving").intermediate["layer1"].weight
    assert scaled.std().item() == pytest.approx(std, rel=0.01)
    assert made(depth=1, intermediate_std=0.25, capsules=20).intermediate[
        "layer1"
    ].weight.std().item() == pytest.approx(0.25, rel=0.02)


def test_every_layer_has_its_own_matrices_and_keeps_the_grid() -> None:
    model = made(depth=3, image_shape=(1, 15, 21))
    layers = list(model.intermediate.values())
    assert list(model.intermediate) == ["layer1", "layer2", "layer3"]
    assert len({layer.weight.data_ptr() for layer in layers}) == 3
    assert not torch.equal(layers[0].weight, layers[1].weight)
    shapes = []
    for layer in layers:
        layer.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.poses_BJE.shape)))
    model(images(shape=(1, 15, 21)))
    assert shapes == [(2, 2, 4, *model.grid)] * 3
    assert model.grid == (3, 5)


def test_the_window_of_an_intermediate_capsule_is_an_option() -> None:
    model = made(depth=1, intermediate_kernel=1)
    assert model.intermediate["layer1"].weight.shape == (2, 4, 4, 2)
    assert model(images()).shape == (2, 10)


def test_routing_and_squashes_are_options() -> None:
    model = made(depth=1, routing=partial(MaxMin, iterations=1), squash="linear")
    assert isinstance(model.intermediate["layer1"].routing, MaxMin)
    assert model(images()).shape == (2, 10)
    plain = made(depth=1)
    found, other = (each.primary(each.backbone(images())).poses for each in (model, plain))
    assert not torch.equal(found, other)


# -- recomputing -------------------------------------------------------------------------------------------------------


def trained_step(recompute: bool, mode: bool = True) -> tuple[Tensor, list[Tensor]]:
    model = made(depth=3, intermediate_std="preserving", capsules=3, recompute=recompute).train(mode)
    loss = margin_loss(model(images(4)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("mode", [True, False])
def test_recomputing_gives_the_same_loss_and_gradients_to_the_last_digit(mode: bool) -> None:
    (loss, gradients), (expected, wanted) = trained_step(True, mode), trained_step(False, mode)
    assert torch.equal(loss, expected)
    assert len(gradients) == len(wanted) == 3 + 6 + 2 + 3 + 1
    for found, reference in zip(gradients, wanted, strict=True):
        assert torch.equal(found, reference)
        assert not mode or reference.any()


def kept_for_backward(recompute: bool, depth: int) -> int:
    """Bytes of all tensors that the graph holds, weights left out."""
    model = made(depth=depth, capsules=4, recompute=recompute)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    held = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held.append(model(images(4)))
    return sum(storages.values())


def test_recomputing_keeps_less() -> None:
    each, fewer = (kept_for_backward(way, 4) - kept_for_backward(way, 1) for way in (False, True))
    assert fewer < each / 4


def test_recomputing_happens_in_backward_alone() -> None:
    model, calls = made(depth=2, recompute=True), []
    model.intermediate["layer2"].routing.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    with torch.no_grad():
        model(images())
    assert calls == [False]
    scores_BK = model(images())
    assert len(calls) == 2
    scores_BK.sum().backward()
    assert len(calls) == 3


@pytest.mark.parametrize("recompute", [False, True])
def test_five_layers_train_a_step(recompute: bool) -> None:
    model = made(depth=5, intermediate_std="preserving", recompute=recompute)
    module = CapsNetModule(model=model, make_optimizer=partial(torch.optim.Adam, lr=1e-3), sizes={})
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = module.configure_optimizers()
    batch = Batch(images(4), torch.arange(4), torch.zeros(4, *CIFAR, dtype=torch.uint8))
    module.step(batch).loss.backward()
    optimizer.step()
    for name, value in model.named_parameters():
        assert value.isfinite().all(), name
        assert not torch.equal(value, before[name]), f"{name} learns"


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"capsules": 0}, "capsules must be a whole number >= 1, got 0"),
        ({"dim": 0}, "dim must be a whole number >= 1, got 0"),
        ({"dim_class": 1.5}, "dim_class must be a whole number >= 0, got 1.5"),
        ({"depth": -1}, "depth must be a whole number from 0 to 1000, got -1"),
        ({"depth": 1001}, "depth must be a whole number from 0 to 1000, got 1001"),
        ({"kernels": []}, "kernels must hold one size per convolution, got []"),
        ({"strides": [1, 2]}, "strides must hold 3 numbers, as many as kernels, got [1, 2]"),
        ({"paddings": [1] * 4}, "paddings must hold 3 numbers, as many as kernels, got [1, 1, 1, 1]"),
        ({"kernels": [3, 0, 3]}, "kernels must be a whole number >= 1, got 0"),
        ({"paddings": [1, -1, 1]}, "paddings must be a whole number >= 0, got -1"),
        ({"primary_stride": 0}, "primary_stride must be a whole number >= 1, got 0"),
        ({"primary_kernel": 0}, "primary_kernel must be a whole number >= 1, got 0"),
        ({"intermediate_kernel": 2}, "intermediate_kernel must be odd, so that a padding keeps the grid, got 2"),
        ({"intermediate_kernel": 0}, "intermediate_kernel must be a whole number >= 1, got 0"),
        ({"intermediate_std": "kept"}, "intermediate_std must be a number above 0, preserving, or null, got 'kept'"),
        ({"intermediate_std": 0}, "intermediate_std must be a number in (0, inf], got 0"),
        ({"intermediate_normaliser": "x"}, "intermediate_normaliser must be one of none, batch_norm, got 'x'"),
        (
            {"intermediate_normaliser": "batch_norm", "recompute": True},
            "recompute must be false with intermediate_normaliser=batch_norm, whose statistics would count twice, "
            "got True",
        ),
        ({"recompute": 1}, "recompute must be true or false, got 1"),
        ({"squash": "x"}, "squash must be one of classic, linear, exponential, got 'x'"),
        ({"backbone": [1, 2]}, "backbone must hold 3 numbers, as many as kernels, got [1, 2]"),
        ({"backbone": [1, 2, 0]}, "backbone must be a whole number >= 1, got 0"),
        ({"primary": 6}, "primary must be a multiple of dim (4), got 6"),
        ({"image_shape": (1, 3, 9)}, "image_shape must be large enough for this model's convolutions, got (1, 3, 9)"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(**options)
    assert str(caught.value) == line
