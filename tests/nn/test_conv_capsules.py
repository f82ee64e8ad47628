"""Convolutional capsules against nested loops over places, window offsets and types."""

import importlib
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.nn.capsules import ClassCapsules, ConvCapsules, as_children
from capsexp.nn.votes import Votes
from capsexp.routing.dynamic import Dynamic
from capsexp.routing.em import EM
from capsexp.routing.fixed import Fixed
from capsexp.routing.max_min import MaxMin
from capsexp.routing.uniform import Uniform
from capsexp.routing.variational_bayes import VariationalBayes
from capsexp.types import Capsules, RoutingOutput
from tests.references.votes import Scalars, scalars, stacked, vote

B, T, D, J, E, H, W = 2, 2, 2, 2, 3, 3, 4
AGREEMENT = {"iterations": 2, "gradient": "full"}
ROUTINGS: dict[str, tuple[type, dict[str, Any]]] = {
    "dynamic": (Dynamic, AGREEMENT),
    "max_min": (MaxMin, {**AGREEMENT, "lower": 0.1, "upper": 0.9}),
    "uniform": (Uniform, AGREEMENT),
    "fixed": (Fixed, {}),
}
WINDOWS = [
    pytest.param(*each, id="kernel {} stride {} padding {}".format(*each)) for each in product((1, 3), (1, 2), (0, 1))
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(name: str, kernel: int, stride: int, padding: int) -> ConvCapsules:
    make, options = ROUTINGS[name]
    made = ConvCapsules(T, J, D, E, partial(make, **options), kernel=kernel, stride=stride, padding=padding).double()
    with torch.no_grad():
        made.weight.copy_(normal(*made.weight.shape, seed=1))
        for value in made.routing.state_dict().values():
            value.copy_(normal(*value.shape, seed=2))
    return made


def children_at(poses_TDHW: Scalars, top: int, left: int, kernel: int) -> dict[int, Scalars]:
    """The children of the window that begins at this row and column, by their number; none outside the grid."""
    found = {}
    for t in range(T):
        for row in range(kernel):
            for column in range(kernel):
                h, w = top + row, left + column
                if 0 <= h < H and 0 <= w < W:
                    found[(t * kernel + row) * kernel + column] = [poses_TDHW[t][d][h][w] for d in range(D)]
    return found


def loops(
    name: str, made: ConvCapsules, poses_BTDHW: Tensor, kernel: int, stride: int, padding: int
) -> tuple[Tensor, Tensor, dict[tuple[int, int], list[int]]]:
    """Poses (B, J, E, H', W'), coupling (B, L, J, I), zero outside the grid, and the children of every window."""
    route = importlib.import_module(f"tests.references.{name}").route
    weight_JIED = scalars(made.weight.permute(0, 3, 1, 2))
    tops = range(-padding, H + padding - kernel + 1, stride)
    lefts = range(-padding, W + padding - kernel + 1, stride)
    coupling_BLJI = torch.zeros(B, len(tops) * len(lefts), J, T * kernel**2, dtype=torch.float64)
    poses: list[Any] = []
    there: dict[tuple[int, int], list[int]] = {}
    for b, poses_TDHW in enumerate(scalars(poses_BTDHW)):
        for place, (top, left) in enumerate(product(tops, lefts)):
            children = children_at(poses_TDHW, top, left, kernel)
            there[b, place] = list(children)
            votes_JIE = [[vote(pose, weight_IED[i]) for i, pose in children.items()] for weight_IED in weight_JIED]
            options = {**ROUTINGS[name][1], "squash": "classic"}
            for key, value in made.routing.state_dict().items():
                options[key] = scalars(value[:, list(children)])
            if children:
                (poses_JE,), (coupling_JI,) = route([votes_JIE], **options)
                coupling_BLJI[b, place][:, list(children)] = stacked(coupling_JI).detach()
            else:
                poses_JE = [[torch.zeros((), dtype=torch.float64)] * E] * J
            poses.append(poses_JE)
    poses_BHWJE = stacked(poses).view(B, len(tops), len(lefts), J, E)
    return poses_BHWJE.permute(0, 3, 4, 1, 2), coupling_BLJI, there


@pytest.mark.parametrize("name", ROUTINGS)
@pytest.mark.parametrize(("kernel", "stride", "padding"), WINDOWS)
def test_equals_the_nested_loops(name: str, kernel: int, stride: int, padding: int) -> None:
    made, poses_BTDHW = layer(name, kernel, stride, padding), normal(B, T, D, H, W).requires_grad_()
    found = made(poses_BTDHW)
    poses, coupling, there = loops(name, made, poses_BTDHW, kernel, stride, padding)

    assert found.poses_BJE.shape == (B, J, E, *poses.shape[3:])
    assert found.activations_BJ.shape == (B, J, *poses.shape[3:])
    assert found.coupling_BJI.shape == coupling.shape == (B, poses[0, 0, 0].numel(), J, T * kernel**2)
    torch.testing.assert_close(found.poses_BJE, poses, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.activations_BJ, poses.norm(dim=2), rtol=1e-10, atol=1e-10)
    for (b, place), children in there.items():
        torch.testing.assert_close(
            found.coupling_BJI[b, place][:, children], coupling[b, place][:, children], rtol=1e-10, atol=1e-10
        )

    factors = normal(*poses.shape, seed=3)
    inputs = (poses_BTDHW, made.weight)
    expected_grads = torch.autograd.grad((poses * factors).sum(), inputs)
    grads = torch.autograd.grad((found.poses_BJE * factors).sum(), inputs)
    for grad, expected in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-10)


class Listening(Uniform):
    """A routing that keeps the votes it was given."""

    def __init__(self, **sizes: int) -> None:
        super().__init__(**sizes)
        self.heard: list[Votes] = []

    def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
        self.heard.append(votes)
        return super().forward(votes)


@pytest.mark.parametrize(("kernel", "stride", "padding"), WINDOWS)
def test_the_mask_leaves_out_the_padding_and_nothing_else(kernel: int, stride: int, padding: int) -> None:
    made = ConvCapsules(T, J, D, E, Listening, kernel=kernel, stride=stride, padding=padding).double()
    poses_BTDHW = normal(B, T, D, H, W)
    # A capsule that is there stays there when it is zero.
    poses_BTDHW[0, 1, :, 1, 2] = 0
    made(poses_BTDHW)
    (votes,) = made.routing.heard
    tops = range(-padding, H + padding - kernel + 1, stride)
    lefts = range(-padding, W + padding - kernel + 1, stride)
    expected = torch.zeros(B, len(tops) * len(lefts), T * kernel**2, dtype=torch.bool)
    for b, poses_TDHW in enumerate(scalars(poses_BTDHW)):
        for place, (top, left) in enumerate(product(tops, lefts)):
            expected[b, place, list(children_at(poses_TDHW, top, left, kernel))] = True
    if votes.mask_BI is None:
        assert expected.all()
    else:
        assert torch.equal(votes.mask_BI.view_as(expected), expected)
        # Outside there is nothing to vote.
        assert (votes.materialise().movedim(3, 1)[~votes.mask_BI] == 0).all()
    assert padding == 0 or votes.mask_BI is not None


@pytest.mark.parametrize("name", ROUTINGS)
def test_one_window_over_the_whole_grid_is_the_class_layer(name: str) -> None:
    conv = layer(name, 3, 1, 0)
    make, options = ROUTINGS[name]
    classes = ClassCapsules(T * 9, J, D, E, partial(make, **options)).double()
    classes.load_state_dict(conv.state_dict())
    poses_BTDHW = normal(B, T, D, 3, 3)
    windowed, listed = conv(poses_BTDHW), classes(as_children(poses_BTDHW))
    assert windowed.poses_BJE.shape == (B, J, E, 1, 1)
    torch.testing.assert_close(windowed.poses_BJE[..., 0, 0], listed.poses_BJE, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(windowed.activations_BJ[..., 0, 0], listed.activations_BJ, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(windowed.coupling_BJI[:, 0], listed.coupling_BJI, rtol=1e-12, atol=1e-12)


def test_shifting_the_capsules_shifts_the_result() -> None:
    made = layer("dynamic", 3, 1, 1)
    poses_BTDHW = torch.zeros(B, T, D, 5, 8, dtype=torch.float64)
    poses_BTDHW[..., 1:4, 1:4] = normal(B, T, D, 3, 3)
    shifted = made(poses_BTDHW.roll(2, 4)).poses_BJE
    torch.testing.assert_close(shifted[..., 2:], made(poses_BTDHW).poses_BJE[..., :-2], rtol=1e-12, atol=1e-12)


def test_a_window_larger_than_the_grid_is_refused() -> None:
    layer = ConvCapsules(T, J, D, E, Uniform, kernel=5, padding=0)
    with pytest.raises(ConfigError) as caught:
        layer(normal(B, T, D, 4, 6))
    assert caught.value.key == "kernel"


def test_poses_are_normalised_over_images_and_places() -> None:
    made = ConvCapsules(T, J, D, E, Uniform, normaliser="batch_norm").double().train()
    plain = ConvCapsules(T, J, D, E, Uniform).double()
    plain.load_state_dict({"weight": made.weight.detach()})
    poses_BTDHW = normal(B, T, D, H, W)
    raw = plain(poses_BTDHW).poses_BJE
    centred = raw - raw.mean((0, 3, 4), keepdim=True)
    expected = centred / (centred.square().mean((0, 3, 4), keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(made(poses_BTDHW).poses_BJE, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("kernel", "stride", "padding"), WINDOWS)
@pytest.mark.parametrize("own", [True, False])
def test_activations_go_with_the_poses_of_their_windows(kernel: int, stride: int, padding: int, own: bool) -> None:
    """Those that are given, or the lengths of poses; none in the padding."""
    heard: list[Tensor] = []

    class Hearing(Uniform):
        needs_activations = True

        def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
            assert activations_BI is not None
            heard.append(activations_BI)
            return super().forward(votes)

    made = ConvCapsules(T, J, D, E, Hearing, kernel=kernel, stride=stride, padding=padding).double()
    poses_BTDHW = normal(B, T, D, H, W)
    activations_BTHW = normal(B, T, H, W, seed=4).sigmoid() if own else poses_BTDHW.norm(dim=2)
    made(Capsules(poses_BTDHW, activations_BTHW if own else None))
    padded = F.pad(activations_BTHW, (padding,) * 4)
    places = [
        padded[:, :, row : row + kernel, column : column + kernel].flatten(1)
        for row in range(0, H + 2 * padding - kernel + 1, stride)
        for column in range(0, W + 2 * padding - kernel + 1, stride)
    ]
    expected = torch.stack(places, 1).flatten(0, 1)
    torch.testing.assert_close(heard[0], expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(heard[0] == 0, expected == 0), "who is not there is not active at all"


def test_trains_after_an_evaluation_in_inference_mode() -> None:
    """The field is made once, by whichever comes first."""
    layer = ConvCapsules(2, 3, 4, 4, EM)
    children = Capsules(torch.rand(2, 2, 4, 5, 5), torch.rand(2, 2, 5, 5))
    with torch.inference_mode():
        layer(children)
    layer(children).poses_BJE.sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("routing", [Dynamic, EM, VariationalBayes])
@pytest.mark.parametrize("train", [True, False])
def test_an_empty_batch(routing: type, train: bool) -> None:
    made = ConvCapsules(T, J, D, E, routing, kernel=3, stride=1, padding=1).train(train)
    output = made(Capsules(torch.rand(0, T, D, H, W), torch.rand(0, T, H, W)))
    assert output.poses_BJE.shape == (0, J, E, H, W)
    assert output.activations_BJ.shape == (0, J, H, W)
    assert output.coupling_BJI.shape == (0, H * W, J, T * 9)
    assert all(value.isfinite().all() for value in made.state_dict().values())
