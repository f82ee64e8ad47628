"""Primary capsules, the list of children, class capsules and how weights begin."""

from functools import partial

import pytest
import torch
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.nn.capsules import ClassCapsules, ConvCapsules, as_children
from capsexp.nn.functional import SQUASHES, squash
from capsexp.nn.primary import PrimaryCapsules
from capsexp.nn.votes import LinearVotes
from capsexp.routing.dynamic import Dynamic
from capsexp.routing.fixed import Fixed
from capsexp.routing.max_min import MaxMin
from capsexp.routing.self_routing import SelfRouting
from capsexp.routing.uniform import Uniform
from capsexp.types import Capsules
from tests.references import squash as reference

B, T, D, H, W = 2, 3, 4, 3, 2


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- primary capsules -------------------------------------------------------------------------------------------------


def known_maps() -> Tensor:
    """Channel c at row h and column w of image b is the number 1 + b + 0.1 c + 0.01 h + 0.001 w."""
    steps = [torch.arange(size, dtype=torch.float64) for size in (B, T * D, H, W)]
    b, c, h, w = torch.meshgrid(*steps, indexing="ij")
    return 1 + b + 0.1 * c + 0.01 * h + 0.001 * w


def identity(name: str = "classic") -> PrimaryCapsules:
    """Capsules whose convolution gives the maps as they come."""
    made = PrimaryCapsules(T * D, T * D, D, kernel=1, squash=name).double()
    with torch.no_grad():
        made.conv.weight.copy_(torch.eye(T * D)[:, :, None, None])
        assert made.conv.bias is not None
        made.conv.bias.zero_()
    return made


@pytest.mark.parametrize("name", SQUASHES)
def test_a_capsule_is_neighbouring_channels_at_one_place(name: str) -> None:
    maps_BCHW = known_maps()
    poses_BTDHW = identity(name)(maps_BCHW).poses
    assert poses_BTDHW.shape == (B, T, D, H, W)
    children_BID = as_children(poses_BTDHW).poses
    assert children_BID.shape == (B, T * H * W, D)
    for b in range(B):
        for t in range(T):
            for h in range(H):
                for w in range(W):
                    values = [1 + b + 0.1 * (t * D + d) + 0.01 * h + 0.001 * w for d in range(D)]
                    pose = reference.SQUASHES[name]([torch.tensor(value, dtype=torch.float64) for value in values])
                    expected_D = torch.stack(pose)
                    torch.testing.assert_close(poses_BTDHW[b, t, :, h, w], expected_D, rtol=0, atol=1e-12)
                    i = (t * H + h) * W + w
                    torch.testing.assert_close(children_BID[b, i], expected_D, rtol=0, atol=1e-12)


def test_capsules_are_not_the_maps_cut_up_as_they_lie_in_memory() -> None:
    scrambled_BID = squash(known_maps().view(B, -1, D))
    children_BID = as_children(identity()(known_maps())).poses
    assert children_BID.shape == scrambled_BID.shape
    assert not torch.isclose(children_BID, scrambled_BID).all(2).any(), "no capsule is the same in both"


def test_the_convolution_is_configured() -> None:
    made = PrimaryCapsules(2, 6, 3, kernel=3, stride=2, padding=1)
    poses_BTDHW = made(torch.randn(4, 2, 7, 9)).poses
    assert poses_BTDHW.shape == (4, 2, 3, 4, 5)
    assert made.conv.weight.shape == (6, 2, 3, 3)
    assert (poses_BTDHW.norm(dim=2) < 1).all()


def test_poses_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert identity().float()(known_maps().float()).poses.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 10, "dim": 4}, r"^channels must be a multiple of the capsules' dimension, 4, got 10$"),
        ({"channels": 8, "dim": 0}, r"^dim must be a whole number >= 1, got 0$"),
        (
            {"channels": 8, "dim": 4, "squash": "foo"},
            r"^squash must be one of classic, linear, exponential, got 'foo'$",
        ),
    ],
)
def test_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrimaryCapsules(3, kernel=1, **options)  # type: ignore[arg-type]


# -- class capsules ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Dynamic, MaxMin, Uniform, Fixed])
def test_class_capsules_route_the_votes_of_their_weight(make: type) -> None:
    layer = ClassCapsules(5, 3, 4, 2, make).double()
    poses_BID = normal(2, 5, 4)
    expected = layer.routing(LinearVotes(poses_BID, layer.weight, form="factored"))
    for mode in (True, False):
        for found, part in zip(layer.train(mode)(poses_BID), expected, strict=True):
            torch.testing.assert_close(found, part, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [Dynamic, MaxMin, Uniform, Fixed])
def test_a_child_votes_the_same_wherever_its_components_lie(make: type) -> None:
    layer = ClassCapsules(T * H * W, 3, D, 2, make).double()
    children_BID = as_children(normal(B, T, D, H, W)).poses
    for found, expected in zip(layer(children_BID), layer(children_BID.contiguous()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [Dynamic, MaxMin, Uniform, Fixed])
def test_under_autocast_a_layer_gives_float32(make: type) -> None:
    layer = ClassCapsules(40, 4, 8, 6, make)
    poses_BID = normal(3, 40, 8).float()
    for mode in (True, False):
        with torch.no_grad():
            plain = layer.train(mode)(poses_BID)
            with torch.autocast("cpu", torch.bfloat16):
                half = layer(poses_BID)
        assert {part.dtype for part in half} == {torch.float32}
        assert not torch.equal(half.poses_BJE, plain.poses_BJE)
        torch.testing.assert_close(half.poses_BJE, plain.poses_BJE, rtol=0, atol=0.04)


# -- how weights begin ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "std"), [(Dynamic, 0.1), (Uniform, 0.1), (Fixed, 0.1), (MaxMin, 0.1 / 7)])
def test_weights_begin_as_wide_as_the_routing_says(make: type, std: float) -> None:
    torch.manual_seed(0)
    weight_JEDI = ClassCapsules(50, 7, 8, 16, make).weight
    assert weight_JEDI.shape == (7, 16, 8, 50)
    assert weight_JEDI.std().item() == pytest.approx(std, rel=0.02)
    assert weight_JEDI.mean().item() == pytest.approx(0, abs=0.02 * std)


@pytest.mark.parametrize("make", [Dynamic, MaxMin])
def test_how_wide_weights_begin_may_be_said(make: type) -> None:
    torch.manual_seed(0)
    assert ClassCapsules(50, 7, 8, 16, make, weight_std=0.3).weight.std().item() == pytest.approx(0.3, rel=0.02)
    conv = ConvCapsules(8, 7, 8, 16, make, weight_std=0.3)
    assert conv.weight.shape == (7, 16, 8, 72)
    assert conv.weight.std().item() == pytest.approx(0.3, rel=0.02)
    assert not ClassCapsules(5, 7, 8, 16, make, weight_std=0.0).weight.any()


def test_same_seed_same_weights() -> None:
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(ClassCapsules(5, 3, 4, 2, partial(Dynamic, iterations=2)).weight)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_each_layer_makes_a_routing_of_its_own() -> None:
    made: list[dict[str, int]] = []

    def routing(**sizes: int) -> Fixed:
        made.append(sizes)
        return Fixed(**sizes)

    first, second = ClassCapsules(5, 3, 4, 2, routing), ConvCapsules(2, 3, 4, 6, routing, kernel=3)
    assert first.routing is not second.routing
    assert made == [
        {"children": 5, "parents": 3, "dim_in": 4, "dim_out": 2},
        {"children": 18, "parents": 3, "dim_in": 4, "dim_out": 6},
    ]


@pytest.mark.parametrize("shape", [(2, 1), (2, 11), (1, 12), (2, 12, 1)])
def test_activations_of_another_shape_than_the_poses_are_refused(shape: tuple[int, ...]) -> None:
    rule = r"activations must have the shape \(2, 12\) of the poses without their components, got"
    with pytest.raises(ValueError, match=rule):
        ClassCapsules(12, 3, 4, 5, SelfRouting)(Capsules(torch.rand(2, 12, 4), torch.rand(shape)))
    grid = Capsules(torch.rand(2, 3, 4, 2, 2), torch.rand(2, 3, 4))
    with pytest.raises(ValueError, match=r"activations must have the shape \(2, 3, 2, 2\)"):
        ConvCapsules(3, 2, 4, 5, SelfRouting, kernel=2)(grid)
