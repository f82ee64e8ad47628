"""A layer whose coupling is fixed keeps the folded weight in evaluation, and notices every change."""

import copy
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from capsexp.nn import votes
from capsexp.nn.capsules import ClassCapsules
from capsexp.nn.votes import FoldCache, LinearVotes, fold
from capsexp.routing.fixed import Fixed

B, I, J, D, E = 3, 7, 4, 5, 6  # noqa: E741 - the legend's letter for children


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(dtype: torch.dtype = torch.float32, seed: int = 0) -> ClassCapsules:
    made = ClassCapsules(I, J, D, E, partial(Fixed, coupling=normal(J, I, seed=seed)))
    with torch.no_grad():
        made.weight.copy_(normal(J, E, D, I, seed=seed + 1))
    return made.to(dtype).eval()


def unfolded(made: ClassCapsules, poses_BID: Tensor) -> Tensor:
    coupling_BJI = made.routing.coupling_JI.expand(len(poses_BID), J, I)
    linear = LinearVotes(poses_BID, made.weight.detach(), form="factored")
    return made.routing.finish(linear.weighted_sum(coupling_BJI))


@torch.no_grad()
def check(made: ClassCapsules, poses_BID: Tensor, tolerance: float = 1e-6) -> None:
    expected = unfolded(made, poses_BID)
    torch.testing.assert_close(made(poses_BID).poses_BJE, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
def test_folded_equals_unfolded(dtype: torch.dtype, tolerance: float) -> None:
    made, poses_BID = layer(dtype), normal(B, I, D).to(dtype)
    for _ in range(2):
        check(made, poses_BID, tolerance)
    with torch.inference_mode():
        torch.testing.assert_close(made(poses_BID).poses_BJE, unfolded(made, poses_BID), rtol=tolerance, atol=tolerance)
    check(made, poses_BID, tolerance)


def test_the_second_call_gives_the_same_tensor() -> None:
    cache, weight_JEDI, coupling_JI = FoldCache(), normal(J, E, D, I), normal(J, I)
    with torch.no_grad():
        first = cache.get(weight_JEDI, coupling_JI)
        assert cache.get(weight_JEDI, coupling_JI) is first
        assert LinearVotes(normal(B, I, D), weight_JEDI, folds=cache).fold(coupling_JI) is first
        assert torch.equal(first, fold(weight_JEDI, coupling_JI))
        cache.clear()
        assert cache.get(weight_JEDI, coupling_JI) is not first


@pytest.mark.parametrize("changed", [0, 1], ids=["weight", "coupling"])
def test_a_change_in_place_is_noticed(changed: int) -> None:
    cache, parts = FoldCache(), (normal(J, E, D, I), normal(J, I))
    with torch.no_grad():
        first = cache.get(*parts)
        parts[changed].mul_(2)
        second = cache.get(*parts)
        assert second is not first
        torch.testing.assert_close(second, 2 * first)


@torch.inference_mode()
def test_what_does_not_count_its_changes_is_folded_again() -> None:
    cache, weight_JEDI, coupling_JI = FoldCache(), normal(J, E, D, I), normal(J, I)
    for _ in range(2):
        assert torch.equal(cache.get(weight_JEDI, coupling_JI), fold(weight_JEDI, coupling_JI))
        coupling_JI.mul_(2)


def test_under_grad_nothing_is_kept() -> None:
    cache, weight_JEDI, coupling_JI = FoldCache(), normal(J, E, D, I).requires_grad_(), normal(J, I)
    first = cache.get(weight_JEDI, coupling_JI)
    assert first.requires_grad
    assert cache.get(weight_JEDI, coupling_JI) is not first
    with torch.no_grad():
        kept = cache.get(weight_JEDI, coupling_JI)
    assert cache.get(weight_JEDI, coupling_JI) is not kept
    assert cache.get(weight_JEDI, coupling_JI).requires_grad


def test_a_layer_in_evaluation_still_gives_gradients() -> None:
    made, poses_BID = layer(), normal(B, I, D).requires_grad_()
    check(made, poses_BID.detach())
    made(poses_BID).poses_BJE.sum().backward()
    for each in (made.weight, poses_BID):
        assert each.grad is not None
        assert each.grad.abs().sum() > 0


def step(made: ClassCapsules) -> None:
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    made.weight.grad = normal(*made.weight.shape, seed=9)
    optimizer.step()


def load(made: ClassCapsules) -> None:
    made.load_state_dict(layer(seed=20).state_dict())


def assign(made: ClassCapsules) -> None:
    made.load_state_dict(layer(seed=20).state_dict(), assign=True)


def couple(made: ClassCapsules) -> None:
    made.routing.set_coupling(normal(J, I, seed=30))


def fill_in_place(made: ClassCapsules) -> None:
    made.routing.coupling_JI.mul_(-1)


def replace_weight(made: ClassCapsules) -> None:
    made.weight.data = made.weight.data * 2


@pytest.mark.parametrize(
    "change", [step, load, assign, couple, fill_in_place, replace_weight], ids=lambda f: f.__name__
)
def test_a_layer_notices(change: Callable[[ClassCapsules], None]) -> None:
    made, poses_BID = layer(), normal(B, I, D)
    check(made, poses_BID)
    with torch.no_grad():
        before = made(poses_BID).poses_BJE
    for _ in range(3):
        change(made)
        check(made, poses_BID)
    with torch.no_grad():
        assert not torch.allclose(made(poses_BID).poses_BJE, before)


@torch.no_grad()
def test_a_new_coupling_is_noticed_even_where_an_old_one_lay() -> None:
    cache, weight_JEDI = FoldCache(), normal(J, E, D, I)
    for _ in range(20):
        old_JI = torch.full((J, I), 1.0)
        address = old_JI.data_ptr()
        cache.get(weight_JEDI, old_JI)
        del old_JI
        # New ones, until one takes the memory of the old one, where that is free.
        new = [torch.full((J, I), 2.0) for _ in range(20)]
        for new_JI in new:
            if new_JI.data_ptr() == address:
                assert torch.equal(cache.get(weight_JEDI, new_JI), fold(weight_JEDI, new_JI))


def test_a_layer_notices_that_it_was_trained_or_copied() -> None:
    made, poses_BID = layer(), normal(B, I, D)
    check(made, poses_BID)
    other = copy.deepcopy(made)
    step(other)
    check(other, poses_BID)
    check(made, poses_BID)
    made.train()
    step(made)
    check(made, poses_BID)
    check(made.eval(), poses_BID)
    check(made.double(), poses_BID.double(), 1e-10)


def test_a_layer_folds_once_in_evaluation_and_lets_go_of_it_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    folded: list[weakref.ref[Tensor]] = []

    def counted(weight_JEDI: Tensor, coupling_JI: Tensor) -> Tensor:
        made = fold(weight_JEDI, coupling_JI)
        folded.append(weakref.ref(made))
        return made

    monkeypatch.setattr(votes, "fold", counted)
    made, poses_BID = layer(), normal(B, I, D)
    with torch.no_grad():
        for _ in range(3):
            made(poses_BID)
    assert len(folded) == 1
    assert folded[0]() is not None
    made.train()
    assert folded[0]() is None, "training needs its memory"
    with torch.no_grad():
        for _ in range(2):
            made(poses_BID)
    assert len(folded) == 3
    assert folded[2]() is None
