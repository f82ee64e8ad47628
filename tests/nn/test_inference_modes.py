"""Capsule layers with a coupling for all images: both forms against loops, gradients, checkpoints, copies."""

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from capsexp.errors import ConfigError
from capsexp.nn import capsules
from capsexp.nn.capsules import CapsuleLayer, ClassCapsules, ConvCapsules, capsule_layers, set_inference
from capsexp.nn.functional import squash
from capsexp.routing.dynamic import Dynamic
from capsexp.routing.fixed import Fixed
from capsexp.routing.max_min import MaxMin
from capsexp.routing.uniform import Uniform

B, I, J, D, E = 3, 7, 4, 5, 6  # noqa: E741 - the legend's letter for children
ROUTINGS = (Dynamic, MaxMin, Uniform, Fixed)
SHARED = ("fast", "folded")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def class_layer(routing: Any = MaxMin, seed: int = 1, master: bool = True) -> ClassCapsules:
    layer = ClassCapsules(I, J, D, E, routing).double()
    with torch.no_grad():
        layer.weight.copy_(normal(J, E, D, I, seed=seed))
    if master:
        layer.set_master(normal(J, I, seed=seed + 1))
    return layer.eval()


def by_hand(layer: CapsuleLayer, poses_BID: Tensor, master_JI: Tensor) -> Tensor:
    """The votes, weighed and squashed: poses (B, J, E)."""
    votes_BJIE = torch.einsum("jedi,bid->bjie", layer.weight, poses_BID)
    sums_BJE = torch.einsum("ji,bjie->bje", master_JI, votes_BJIE)
    squares = sums_BJE.square().sum(2, keepdim=True)
    return squares / (1 + squares) * sums_BJE / squares.sqrt()


class Two(nn.Module):
    """A layer in a layer's place, for what goes over a whole model."""

    def __init__(self, masters: bool = False) -> None:
        super().__init__()
        self.first, self.second = class_layer(MaxMin, 1, masters), class_layer(Dynamic, 5, masters)


# -- the forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inference", SHARED)
@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_both_forms_are_votes_weighed_by_the_master(
    inference: Any, routing: Any, dtype: torch.dtype, tolerance: float
) -> None:
    layer, poses_BID = class_layer(routing).to(dtype), normal(B, I, D).to(dtype)
    routed = layer(poses_BID)
    set_inference(layer, inference)
    for mode in (True, False):
        layer.train(mode)
        poses_BJE, lengths_BJ, coupling_BJI = layer(poses_BID)
        assert poses_BJE.dtype == lengths_BJ.dtype == dtype
        expected_BJE = by_hand(layer, poses_BID, normal(J, I, seed=2).to(dtype))
        torch.testing.assert_close(poses_BJE, expected_BJE, rtol=0, atol=tolerance)
        torch.testing.assert_close(lengths_BJ, expected_BJE.norm(dim=2), rtol=0, atol=tolerance)
        assert torch.equal(coupling_BJI, normal(J, I, seed=2).to(dtype).expand(B, J, I))
        assert not torch.allclose(routed.poses_BJE, poses_BJE, atol=1e-2)
    set_inference(layer, "dynamic")
    assert torch.equal(layer(poses_BID).poses_BJE, routed.poses_BJE)


@pytest.mark.parametrize("inference", SHARED)
def test_both_forms_equal_a_layer_of_fixed_routing(inference: Any) -> None:
    layer, poses_BID = class_layer(), normal(B, I, D)
    fixed = class_layer(Fixed, master=False)
    fixed.routing.set_coupling(normal(J, I, seed=2))  # type: ignore[operator]
    set_inference(layer, inference)
    for found, expected in zip(layer(poses_BID), fixed(poses_BID), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("inference", SHARED)
def test_the_routings_own_squash_is_used(inference: Any) -> None:
    layer, poses_BID = class_layer(partial(MaxMin, squash="linear")), normal(B, I, D)
    set_inference(layer, inference)
    assert not torch.allclose(layer(poses_BID).poses_BJE, by_hand(layer, poses_BID, normal(J, I, seed=2)), atol=1e-3)


def test_each_form_does_what_its_name_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folded builds no votes; the paper's form builds them; neither asks the routing algorithm."""
    layer, built, routed = class_layer(), [], []
    real = capsules.LinearVotes.materialise
    monkeypatch.setattr(capsules.LinearVotes, "materialise", lambda self: (built.append(1), real(self))[1])
    layer.routing.register_forward_hook(lambda *_: routed.append(1))
    for inference, expected in (("folded", 0), ("fast", 1)):
        set_inference(layer, inference)  # type: ignore[arg-type]
        layer(normal(B, I, D))
        assert len(built) == expected
    assert routed == []


@pytest.mark.parametrize("inference", SHARED)
@pytest.mark.parametrize("mode", [True, False])
def test_gradients_are_those_of_the_loops(inference: Any, mode: bool) -> None:
    layer, poses_BID, toward_BJE = class_layer().train(mode), normal(B, I, D).requires_grad_(), normal(B, J, E, seed=9)
    set_inference(layer, inference)
    sources = (layer.weight, poses_BID)
    expected = torch.autograd.grad((by_hand(layer, poses_BID, normal(J, I, seed=2)) * toward_BJE).sum(), sources)
    (layer(poses_BID).poses_BJE * toward_BJE).sum().backward()
    for source, gradient in zip(sources, expected, strict=True):
        assert gradient.abs().max() > 1e-2
        torch.testing.assert_close(source.grad, gradient, rtol=0, atol=1e-12)


def test_the_master_is_not_trained() -> None:
    layer = class_layer().train()
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    assert layer.master_JI is not None
    assert not layer.master_JI.requires_grad


# -- windows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inference", SHARED)
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1)])
def test_windows_share_one_master(inference: Any, stride: int, padding: int) -> None:
    types, kernel, height, width = 2, 3, 4, 5
    layer = ConvCapsules(types, J, D, E, Dynamic, kernel=kernel, stride=stride, padding=padding).double().eval()
    children = types * kernel**2
    with torch.no_grad():
        layer.weight.copy_(normal(J, E, D, children, seed=1))
    master_JI = normal(J, children, seed=2)
    layer.set_master(master_JI)
    set_inference(layer, inference)
    poses_BTDHW = normal(B, types, D, height, width)
    found_BJEHW, lengths_BJHW, coupling_BLJI = layer(poses_BTDHW)

    rows = range(-padding, height + padding - kernel + 1, stride)
    columns = range(-padding, width + padding - kernel + 1, stride)
    assert found_BJEHW.shape == (B, J, E, len(rows), len(columns))
    assert coupling_BLJI.shape == (B, len(rows) * len(columns), J, children)
    for row, top in enumerate(rows):
        for column, left in enumerate(columns):
            poses_BID = torch.zeros(B, children, D, dtype=torch.float64)
            for i, (t, y, x) in enumerate(np.ndindex(types, kernel, kernel)):
                if 0 <= top + y < height and 0 <= left + x < width:
                    poses_BID[:, i] = poses_BTDHW[:, t, :, top + y, left + x]
            expected_BJE = by_hand(layer, poses_BID, master_JI)
            torch.testing.assert_close(found_BJEHW[..., row, column], expected_BJE, rtol=0, atol=1e-12)
            torch.testing.assert_close(lengths_BJHW[..., row, column], expected_BJE.norm(dim=2), rtol=0, atol=1e-12)


# -- setting -----------------------------------------------------------------------------------------------------------


def test_a_master_is_a_copy_of_the_weights_type() -> None:
    layer, given_JI = class_layer(master=False).float(), normal(J, I)
    expected_JI = given_JI.float()
    layer.set_master(given_JI)
    given_JI.zero_()
    assert layer.master_JI is not None
    assert layer.master_JI.dtype == torch.float32
    assert torch.equal(layer.master_JI, expected_JI)
    same_type_JI = normal(J, I).float()
    layer.set_master(same_type_JI)
    same_type_JI.zero_()
    assert torch.equal(layer.master_JI, expected_JI)


@pytest.mark.parametrize("shape", [(J, I + 1), (I, J), (J,), (1, J, I)])
def test_a_master_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    layer = class_layer(master=False)
    message = rf"^master must have the shape \(parents, children\) = \({J}, {I}\), got "
    with pytest.raises(ConfigError, match=message):
        layer.set_master(torch.ones(shape))
    assert layer.master_JI is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_master_that_is_not_finite_is_refused(bad: float) -> None:
    layer, master_JI = class_layer(), normal(J, I)
    master_JI[1, 2] = bad
    with pytest.raises(ConfigError, match=r"^master must hold finite numbers, got"):
        layer.set_master(master_JI)
    assert layer.master_JI is not None
    assert layer.master_JI.isfinite().all()


@pytest.mark.parametrize("inference", SHARED)
def test_without_a_master_there_is_only_routing(inference: Any) -> None:
    model = Two()
    with pytest.raises(ConfigError, match=f"^inference must be dynamic: first has no master.*, got '{inference}'$"):
        set_inference(model, inference)
    model.first.set_master(normal(J, I))
    with pytest.raises(ConfigError, match="second has no master"):
        set_inference(model, inference)
    assert [layer.inference for layer in capsule_layers(model).values()] == ["dynamic", "dynamic"]
    set_inference(model, "dynamic")


def test_an_inference_that_does_not_exist_is_refused() -> None:
    model = Two(masters=True)
    with pytest.raises(ConfigError, match=r"^inference must be one of dynamic, fast, folded, got 'fold'$"):
        set_inference(model, "fold")  # type: ignore[arg-type]


def test_every_layer_is_switched() -> None:
    model = Two(masters=True)
    set_inference(model, "folded")
    assert [layer.inference for layer in capsule_layers(model).values()] == ["folded", "folded"]


# -- the folded weight follows the master ------------------------------------------------------------------------------


def again(layer: CapsuleLayer) -> None:
    layer.set_master(normal(J, I, seed=40))


def in_place(layer: CapsuleLayer) -> None:
    assert layer.master_JI is not None
    layer.master_JI.mul_(-2)


def load(layer: CapsuleLayer) -> None:
    layer.load_state_dict(class_layer(seed=30).state_dict())


@pytest.mark.parametrize("change", [again, in_place, load], ids=lambda each: each.__name__)
@torch.no_grad()
def test_evaluation_follows_a_new_master(change: Callable[[CapsuleLayer], None]) -> None:
    layer, poses_BID = class_layer(), normal(B, I, D)
    set_inference(layer, "folded")
    first_BJE = layer(poses_BID).poses_BJE
    for _ in range(2):
        change(layer)
        assert layer.master_JI is not None
        for _ in range(2):
            found_BJE = layer(poses_BID).poses_BJE
            expected_BJE = by_hand(layer, poses_BID, layer.master_JI)
            torch.testing.assert_close(found_BJE, expected_BJE, rtol=0, atol=1e-12)
            assert not torch.allclose(found_BJE, first_BJE, atol=1e-3)


@torch.no_grad()
def test_many_masters_one_after_the_other() -> None:
    """Each may lie in memory where one before it lay."""
    layer, poses_BID = class_layer(), normal(B, I, D)
    set_inference(layer, "folded")
    for seed in range(40):
        layer.set_master(normal(J, I, seed=seed))
        expected_BJE = by_hand(layer, poses_BID, normal(J, I, seed=seed))
        torch.testing.assert_close(layer(poses_BID).poses_BJE, expected_BJE, rtol=0, atol=1e-12)


# -- checkpoints and copies --------------------------------------------------------------------------------------------


def test_a_checkpoint_carries_the_master_or_none() -> None:
    for saved, target in ((True, False), (True, True), (False, True), (False, False)):
        source, fresh = class_layer(seed=3, master=saved), class_layer(seed=8, master=target)
        stream = io.BytesIO()
        torch.save(source.state_dict(), stream)
        stream.seek(0)
        fresh.load_state_dict(torch.load(stream, weights_only=True), strict=True)
        assert torch.equal(fresh.weight, source.weight)
        assert (fresh.master_JI is not None) == saved == ("master_JI" in source.state_dict())
        if saved:
            assert fresh.master_JI is not None
            assert torch.equal(fresh.master_JI, normal(J, I, seed=4))
            assert dict(fresh.named_buffers())["master_JI"] is fresh.master_JI


def test_a_checkpoint_of_a_model_of_which_one_layer_has_a_master() -> None:
    source, fresh = Two(), Two(masters=True)
    source.second.set_master(normal(J, I, seed=20))
    fresh.load_state_dict(source.state_dict(), strict=True)
    assert fresh.first.master_JI is None
    assert fresh.second.master_JI is not None
    assert torch.equal(fresh.second.master_JI, normal(J, I, seed=20))


def test_loading_copies_the_master() -> None:
    source, fresh = class_layer(seed=3), class_layer(seed=8, master=False)
    state = source.state_dict()
    fresh.load_state_dict(state)
    state["master_JI"].zero_()
    assert fresh.master_JI is not None
    assert torch.equal(fresh.master_JI, normal(J, I, seed=4))


def test_a_checkpoint_of_another_type_takes_the_layers_own() -> None:
    """As the weight does, so that both fit together."""
    source, fresh, poses_BID = class_layer(), class_layer(master=False).float(), normal(B, I, D).float()
    fresh.load_state_dict(source.state_dict())
    assert fresh.master_JI is not None
    assert fresh.master_JI.dtype == fresh.weight.dtype == torch.float32
    for inference in SHARED:
        set_inference(fresh, inference)  # type: ignore[arg-type]
        assert fresh(poses_BID).poses_BJE.dtype == torch.float32


def to_single(layer: ClassCapsules) -> ClassCapsules:
    return copy.deepcopy(layer).to(torch.float32)


def pickled(layer: ClassCapsules) -> ClassCapsules:
    made: ClassCapsules = pickle.loads(pickle.dumps(layer))
    return made


@pytest.mark.parametrize("carry", [to_single, copy.deepcopy, pickled])
@pytest.mark.parametrize("inference", SHARED)
@torch.no_grad()
def test_the_master_travels_with_its_layer(carry: Callable[[ClassCapsules], ClassCapsules], inference: Any) -> None:
    layer, poses_BID = class_layer(), normal(B, I, D)
    set_inference(layer, inference)
    expected_BJE = layer(poses_BID).poses_BJE
    other = carry(layer)
    assert other.inference == inference
    assert other.master_JI is not None
    assert other.master_JI.dtype == other.weight.dtype
    found_BJE = other(poses_BID.to(other.weight.dtype)).poses_BJE.double()
    torch.testing.assert_close(found_BJE, expected_BJE, rtol=0, atol=1e-5 if carry is to_single else 1e-12)
    other.set_master(torch.zeros(J, I))
    assert not other(poses_BID.to(other.weight.dtype)).poses_BJE.any()
    assert torch.equal(layer(poses_BID).poses_BJE, expected_BJE), "the copy's master is its own"


def test_the_reference_squashes_as_the_layers_do() -> None:
    layer, poses_BID = class_layer(), normal(B, I, D)
    sums_BJE = torch.einsum("ji,jedi,bid->bje", normal(J, I, seed=2), layer.weight, poses_BID)
    torch.testing.assert_close(by_hand(layer, poses_BID, normal(J, I, seed=2)), squash(sums_BJE), rtol=0, atol=1e-12)
