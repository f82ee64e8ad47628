"""Class layers whose places share their matrices, and whose votes have coordinates."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import capsexp
from capsexp.errors import ConfigError
from capsexp.models.backbones import Plain
from capsexp.models.layered_capsnet import LayeredCapsNet
from capsexp.nn.capsules import ClassCapsules, set_inference
from capsexp.nn.votes import GivenVotes
from capsexp.routing import EM, Dynamic, MaxMin, SelfRouting, Uniform
from capsexp.types import Capsules

B, TYPES, GRID, J, D = 3, 2, (2, 3), 4, 9
I = TYPES * GRID[0] * GRID[1]  # noqa: E741 - the legend's letter for children


def layer(routing: Any, *, shared: bool = True, coordinates: bool = False, matrix: bool = True) -> ClassCapsules:
    torch.manual_seed(3)
    options = {"shared": shared, "coordinates": coordinates, "matrix": matrix}
    return ClassCapsules(I, J, D, D if matrix else 5, routing, grid=GRID, **options).double().eval()


def capsules() -> Capsules:
    generator = torch.Generator().manual_seed(4)
    poses_BID = torch.randn(B, I, D, generator=generator, dtype=torch.float64)
    return Capsules(poses_BID, torch.rand(B, I, generator=generator, dtype=torch.float64))


def votes_by_hand(made: ClassCapsules, poses_BID: Tensor, *, coordinates: bool) -> Tensor:
    """Votes (B, J, E, I), child by child, with the centre of its place at two components."""
    votes = []
    for child in range(I):
        weight_JED = made.weight[..., child // (GRID[0] * GRID[1])]
        if made.matrix:
            pose_BRX = poses_BID[:, child].view(B, 3, 3)
            vote_BJE = torch.einsum("brx,jcx->bjrc", pose_BRX, weight_JED).flatten(2)
        else:
            vote_BJE = torch.einsum("jed,bd->bje", weight_JED, poses_BID[:, child])
        if coordinates:
            row, column = divmod(child % (GRID[0] * GRID[1]), GRID[1])
            offset = torch.zeros(vote_BJE.shape[2])  # the layer's coordinates are float32
            offset[2 if made.matrix else 0], offset[5 if made.matrix else 1] = (row + 0.5) / 2, (column + 0.5) / 3
            vote_BJE = vote_BJE + offset
        votes.append(vote_BJE)
    return torch.stack(votes, 3)


@pytest.mark.parametrize("matrix", [True, False])
@pytest.mark.parametrize("coordinates", [True, False])
@pytest.mark.parametrize("routing", [Dynamic, Uniform, partial(EM, inverse_temperature=0.5)])
def test_routes_these_votes(routing: Any, coordinates: bool, matrix: bool) -> None:
    made, (poses_BID, activations_BI) = layer(routing, coordinates=coordinates, matrix=matrix), capsules()
    votes = GivenVotes(votes_by_hand(made, poses_BID, coordinates=coordinates))
    expected = made.routing(votes, activations_BI) if made.routing.needs_activations else made.routing(votes)
    found = made(Capsules(poses_BID, activations_BI))
    gradients = []
    for output in (found, expected):
        for part, other in zip(output, expected, strict=True):
            torch.testing.assert_close(part, other, rtol=1e-10, atol=1e-10)
        (gradient,) = torch.autograd.grad((output.poses_BJE * torch.arange(J)[:, None]).sum(), made.weight)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)
    assert made.weight.shape[3] == TYPES


@pytest.mark.parametrize("inference", ["fast", "folded"])
@pytest.mark.parametrize("coordinates", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_a_master_weighs_the_votes_with_their_coordinates(inference: Any, coordinates: bool, shared: bool) -> None:
    made, (poses_BID, _) = layer(MaxMin, coordinates=coordinates, shared=True), capsules()
    if not shared:
        whole = layer(MaxMin, coordinates=coordinates, shared=False)
        whole.weight.data = made.weight.data.repeat_interleave(I // TYPES, 3)
    master_JI = torch.rand(J, I, dtype=torch.float64)
    sums_BJE = (votes_by_hand(made, poses_BID, coordinates=coordinates) * master_JI[:, None]).sum(3)
    used = made if shared else whole
    used.set_master(master_JI)
    set_inference(used, inference)
    torch.testing.assert_close(used(poses_BID).poses_BJE, used.routing.finish(sums_BJE), rtol=1e-10, atol=1e-10)


def test_a_checkpoint_has_the_master_of_every_child_and_no_coordinates() -> None:
    made, other = layer(Dynamic, coordinates=True), layer(Dynamic, coordinates=True)
    made.set_master(torch.rand(J, I))
    assert set(made.state_dict()) == {"weight", "master_JI"}
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.master_JI, made.master_JI)  # type: ignore[arg-type]


def test_couplings_of_every_child_are_accumulated() -> None:
    torch.manual_seed(0)
    model = LayeredCapsNet(
        image_shape=(1, 8, 8),
        classes=3,
        routing=MaxMin,
        backbone=partial(Plain, channels=[4]),
        primary={"types": 2, "dim": 4, "stride": 2},
        class_shared=True,
    )
    images_BCHW, labels_B = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    capsexp.accumulate(model, [(images_BCHW, labels_B)])
    assert model.class_capsules.master_JI is not None
    assert model.class_capsules.master_JI.shape == (3, 8)  # of 2 types at 4 places


@pytest.mark.parametrize(
    ("sizes", "options", "line"),
    [
        (
            (I, J, 8, 8),
            {"shared": True, "routing": SelfRouting},
            "shared must be false: SelfRouting has parameters of e",
        ),
        ((I, J, 8, 1), {"coordinates": True}, "coordinates must be false: votes need 2 components for them, got True"),
        ((I, J, 1, 1), {"coordinates": True, "matrix": True}, "coordinates must be false: votes need 2 rows for them"),
        ((I + 1, J, 8, 8), {}, "grid must have a number of places that divides the children, 13, got (2, 3)"),
        ((I, J, 8, 8), {"grid": (0, 3)}, "grid must have a number of places that divides the children, 12, got (0, 3)"),
        ((I, J, 8, 8), {"grid": None, "shared": True}, "grid must be given for shared and coordinates, got None"),
        ((I, J, 8, 8), {"grid": None, "coordinates": True}, "grid must be given for shared and coordinates, got None"),
    ],
)
def test_what_does_not_fit_is_refused(sizes: tuple[int, ...], options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ClassCapsules(*sizes, **{"routing": Dynamic, "grid": GRID} | options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(line)
