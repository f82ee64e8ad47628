"""Routing piece by piece against routing all images at once: the same numbers and gradients, less memory."""

import gc
import weakref
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from capsexp.nn import recording_votes, vote_operators, vote_pieces
from capsexp.nn.vote_pieces import in_pieces
from capsexp.nn.votes import LinearVotes, Votes, choose_form
from capsexp.routing.base import AgreementRouting
from capsexp.routing.dynamic import Dynamic
from capsexp.routing.max_min import MaxMin
from capsexp.types import RoutingOutput

B, I, J, D, E = 7, 5, 3, 4, 2  # noqa: E741 - the legend's letter for children
IMAGE = J * E * I * 8
"""Bytes of one image's votes."""


@pytest.fixture(autouse=True, params=[1, 3, 7], ids="{} images a piece".format)
def _piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vote_operators.PIECE_BYTES, "cpu", request.param * IMAGE)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operands() -> list[Tensor]:
    return [normal(B, I, D).requires_grad_(), normal(J, E, D, I, seed=1).requires_grad_()]


def routing(kind: type[AgreementRouting], **options: Any) -> AgreementRouting:
    return kind(children=I, parents=J, dim_in=D, dim_out=E, **options)


def differentiated(output: Any, inputs: list[Tensor], chosen: tuple[int, ...] = (0, 1, 2)) -> list[Tensor]:
    """The outputs, and the gradients of a sum over some of them that weighs every number differently."""
    loss = sum((output[number] * normal(*output[number].shape, seed=number + 2)).sum() for number in chosen)
    return [*output, *torch.autograd.grad(loss, inputs)]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


CASES = [*product((1, 2, 4), [(0,), (0, 1)]), *product((2, 4), [(2,), (0, 1, 2)])]
"""Iterations, and of which outputs the loss is made; without a loop the coupling is a constant."""


@pytest.mark.parametrize("kind", [Dynamic, MaxMin])
@pytest.mark.parametrize(("iterations", "chosen"), CASES)
def test_equals_all_at_once(kind: type[AgreementRouting], iterations: int, chosen: tuple[int, ...]) -> None:
    inputs, layer = operands(), routing(kind, iterations=iterations)
    found, expected = (
        differentiated(layer(LinearVotes(*inputs, form=form)), inputs, chosen)  # type: ignore[arg-type]
        for form in ("pieces", "factored")
    )
    assert_same(found, expected)


class Tempered(Dynamic):
    """Has a parameter of its own, and one that takes no gradient."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.still = nn.Parameter(torch.tensor(2.0, dtype=torch.float64), requires_grad=False)
        self.heat = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def couple(self, logits_BJI: Tensor) -> Tensor:
        return (logits_BJI * self.still * self.heat).softmax(1)


def test_gradient_of_the_routing_s_own_parameters() -> None:
    layer, inputs = routing(Tempered), operands()
    found, expected = (
        differentiated(layer(LinearVotes(*inputs, form=form)), [*inputs, layer.heat])  # type: ignore[attr-defined]
        for form in ("pieces", "factored")
    )
    assert_same(found, expected)


def sums(votes: Votes) -> tuple[Tensor, ...]:
    """The votes themselves, constant ones, and couplings that images share."""
    parents_BJE = votes.weighted_sum(normal(J, I, seed=9)).tanh()
    mask_BI = torch.ones(votes.shape[0], I) if votes.mask_BI is None else votes.mask_BI
    return (
        votes.agreement(parents_BJE) * mask_BI[:, None],
        votes.materialise().square(),
        votes.detach().agreement(parents_BJE),
    )


def test_all_that_votes_can_do() -> None:
    inputs, mask_BI = operands(), normal(B, I, seed=8) > 0
    found, expected = (
        differentiated(in_pieces(sums, LinearVotes(*inputs, mask_BI, form=form), ()), inputs)
        for form in ("pieces", "factored")
    )
    assert_same(found, expected)


def test_an_empty_batch() -> None:
    votes = LinearVotes(normal(0, I, D), operands()[1], form="pieces")
    assert routing(Dynamic)(votes).coupling_BJI.shape == (0, J, I)


@pytest.mark.parametrize("wanting", [0, 1])
def test_one_of_the_inputs_may_want_no_gradient(wanting: int) -> None:
    inputs = operands()
    inputs[1 - wanting].requires_grad_(False)
    found, expected = (
        differentiated(routing(Dynamic)(LinearVotes(*inputs, form=form)), [inputs[wanting]])  # type: ignore[arg-type]
        for form in ("pieces", "factored")
    )
    assert_same(found, expected)


def test_within_a_checkpoint() -> None:
    inputs, layer = operands(), routing(Tempered)
    wanted = [*inputs, layer.heat]

    def route(poses_BID: Tensor, weight_JEDI: Tensor) -> RoutingOutput:
        output: RoutingOutput = layer(LinearVotes(poses_BID, weight_JEDI, form="pieces"))
        return output

    again = checkpoint(route, *inputs, use_reentrant=False)
    assert_same(differentiated(again, wanted), differentiated(route(*inputs), wanted))  # type: ignore[arg-type]


def test_under_autocast_only_the_products_are_in_half_precision() -> None:
    inputs = [each.detach().float().requires_grad_() for each in operands()]
    plain = routing(Dynamic)(LinearVotes(*inputs, form="pieces"))  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16):
        output = routing(Dynamic)(LinearVotes(*inputs, form="pieces"))  # type: ignore[arg-type]
    assert {part.dtype for part in output} == {torch.float32}
    assert not torch.equal(output.poses_BJE, plain.poses_BJE)
    torch.testing.assert_close(output.poses_BJE, plain.poses_BJE, rtol=0, atol=0.05)
    grads = [torch.autograd.grad(each.poses_BJE.sum(), inputs) for each in (output, plain)]
    for found, expected in zip(*grads, strict=True):
        assert found.dtype == torch.float32
        assert 0 < (found - expected).norm() < 0.1 * expected.norm()


def test_keeps_nothing_but_poses_and_weight() -> None:
    kept: list[Tensor] = []
    inputs = operands()
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        output = routing(Dynamic)(LinearVotes(*inputs, form="pieces"))  # type: ignore[arg-type]
    assert output.poses_BJE.requires_grad
    assert sum(each.numel() for each in kept) == inputs[0].numel() + inputs[1].numel()


def test_every_piece_goes_before_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []
    made: list[weakref.ref[Tensor]] = []

    class Watched(recording_votes.RecordingVotes):
        def __init__(self, *arguments: Any) -> None:
            alive.append(sum(each() is not None for each in made[:-1]))  # the last one's name is still bound
            super().__init__(*arguments)
            made.append(weakref.ref(self._votes_BJEI))

    monkeypatch.setattr(vote_pieces, "RecordingVotes", Watched)
    output = routing(Dynamic)(LinearVotes(*operands(), form="pieces"))  # type: ignore[arg-type]
    gc.disable()
    try:
        output.poses_BJE.sum().backward()
        assert made
        assert not any(alive), "a piece waits for the garbage collector"
        assert all(each() is None for each in made)
    finally:
        gc.enable()


def test_a_compiler_is_given_all_images_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    votes = LinearVotes(*operands(), form="pieces")  # type: ignore[arg-type]
    heard: list[Votes] = []
    in_pieces(lambda each: (heard.append(each) or each.materialise(),), votes, ())
    assert heard == [votes]


def test_the_form_is_for_many_votes_of_parents_no_longer_than_children() -> None:
    assert choose_form((1568, 20, 8, 180), 8) == "pieces"
    assert choose_form((1568, 20, 8, 180), 8, "cuda") == "factored"
    assert choose_form((128, 10, 16, 1152), 8) == "factored"
    assert choose_form((8, 20, 8, 180), 8) == "factored"


@pytest.mark.parametrize(("rounds", "whole"), [(2, True), (3, False)])
def test_few_rounds_are_computed_for_all_images_at_once(rounds: int, whole: bool) -> None:
    votes = LinearVotes(torch.rand(2, 3, 4), torch.rand(2, 4, 4, 3), form="pieces")
    heard: list[Votes] = []
    in_pieces(lambda each: (heard.append(each) or each.materialise(),), votes, (), rounds=rounds)  # type: ignore[func-returns-value]
    assert (heard == [votes]) == whole
