"""Votes as an operator: its values, gradients, pieces and forms against votes that are built with einsum."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from capsexp.nn import vote_operators
from capsexp.nn.votes import GivenVotes, LinearVotes, Votes, choose_form, fold
from tests.references import votes as reference
from tests.references.votes import scalars, stacked

B, I, J, D, E = 5, 4, 3, 2, 3  # noqa: E741 - the legend's letter for children
FORMS = ("factored", "materialised")


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Any:
    return request.param


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def built(poses_BID: Tensor, weight_JEDI: Tensor) -> Tensor:
    return torch.einsum("bid,jedi->bjei", poses_BID, weight_JEDI)


def operands(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return normal(B, I, D, dtype=dtype), normal(J, E, D, I, seed=1, dtype=dtype)


COUPLINGS: dict[str, Callable[[], Tensor | float]] = {
    "each image its own": lambda: normal(B, J, I, seed=2),
    "shared": lambda: normal(J, I, seed=2),
    "a number": lambda: 0.37,
}


# -- values -----------------------------------------------------------------------------------------------------------


def makers() -> list[Any]:
    return [
        pytest.param(lambda poses, weight: LinearVotes(poses, weight, form="factored"), id="factored"),
        pytest.param(lambda poses, weight: LinearVotes(poses, weight, form="materialised"), id="materialised"),
        pytest.param(LinearVotes, id="chosen"),
        pytest.param(lambda poses, weight: GivenVotes(built(poses, weight)), id="given"),
    ]


@pytest.mark.parametrize("make", makers())
def test_equals_the_nested_loops(make: Callable[[Tensor, Tensor], Votes]) -> None:
    poses_BID, weight_JEDI = operands()
    found = make(poses_BID, weight_JEDI)
    assert found.shape == (B, J, E, I)
    votes_BJIE = reference.votes(scalars(poses_BID), scalars(weight_JEDI.permute(0, 3, 1, 2)))
    torch.testing.assert_close(found.materialise(), stacked(votes_BJIE).mT, rtol=1e-12, atol=1e-12)

    parents_BJE = normal(B, J, E, seed=3)
    agreements = [
        [[reference.agreement(vote, v) for vote in votes_IE] for votes_IE, v in zip(votes_JIE, v_JE, strict=True)]
        for votes_JIE, v_JE in zip(votes_BJIE, scalars(parents_BJE), strict=True)
    ]
    torch.testing.assert_close(found.agreement(parents_BJE), stacked(agreements), rtol=1e-12, atol=1e-12)

    for draw in COUPLINGS.values():
        coupling = draw()
        spread_BJI = torch.as_tensor(coupling, dtype=torch.float64).expand(B, J, I)
        sums = [
            [reference.weighted_sum(votes_IE, c_I) for votes_IE, c_I in zip(votes_JIE, c_JI, strict=True)]
            for votes_JIE, c_JI in zip(votes_BJIE, scalars(spread_BJI), strict=True)
        ]
        torch.testing.assert_close(found.weighted_sum(coupling), stacked(sums), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factored_equals_materialised_with_its_gradients(dtype: torch.dtype) -> None:
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    inputs = [each.requires_grad_() for each in operands(dtype)]
    parents_BJE = normal(B, J, E, seed=3, dtype=dtype).requires_grad_()
    coupling_BJI = normal(B, J, I, seed=2, dtype=dtype).requires_grad_()
    found = []
    for form in FORMS:
        votes = LinearVotes(*inputs, form=form)  # type: ignore[arg-type]
        outputs = votes.weighted_sum(coupling_BJI), votes.agreement(parents_BJE)
        loss = sum((each * normal(*each.shape, seed=4, dtype=dtype)).sum() for each in outputs)
        found.append((*outputs, *torch.autograd.grad(loss, (*inputs, parents_BJE, coupling_BJI))))
    for factored, materialised in zip(*found, strict=True):
        assert factored.dtype == dtype
        torch.testing.assert_close(factored, materialised, rtol=tolerance, atol=tolerance)


def test_where_components_lie_in_memory_does_not_matter(form: Any) -> None:
    poses_BID, weight_JEDI = operands()
    transposed_BID = poses_BID.mT.contiguous().mT
    coupling_BJI = normal(J, B, I, seed=2).transpose(0, 1)
    found = LinearVotes(transposed_BID, weight_JEDI, form=form).weighted_sum(coupling_BJI)
    expected = LinearVotes(poses_BID, weight_JEDI, form=form).weighted_sum(coupling_BJI.contiguous())
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_a_coupling_may_be_expanded(form: Any) -> None:
    coupling_JI = normal(J, I, seed=2)
    votes = LinearVotes(*operands(), form=form)
    expanded = votes.weighted_sum(coupling_JI.expand(B, J, I))
    torch.testing.assert_close(expanded, votes.weighted_sum(coupling_JI), rtol=1e-13, atol=1e-13)


def test_an_empty_batch(form: Any) -> None:
    _, weight_JEDI = operands()
    votes = LinearVotes(normal(0, I, D), weight_JEDI, form=form)
    assert votes.weighted_sum(normal(0, J, I)).shape == (0, J, E)
    assert votes.agreement(normal(0, J, E)).shape == (0, J, I)


def test_mask_travels() -> None:
    poses_BID, weight_JEDI = operands()
    mask_BI = torch.ones(B, I, dtype=torch.bool)
    votes = LinearVotes(poses_BID, weight_JEDI, mask_BI)
    assert votes.mask_BI is mask_BI
    assert votes.detach().mask_BI is mask_BI
    assert LinearVotes(poses_BID, weight_JEDI).mask_BI is None
    assert GivenVotes(built(poses_BID, weight_JEDI)).mask_BI is None


def test_form_is_chosen_by_size() -> None:
    assert choose_form((32, 10, 16, 1152), 8) == "factored"
    assert choose_form((32, 10, 2, 64), 16) == "materialised"
    assert LinearVotes(*operands()).form == choose_form((B, J, E, I), D)


# -- gradients --------------------------------------------------------------------------------------------------------


def some_of(count: int) -> list[tuple[int, ...]]:
    """Which operands want a gradient: each alone, every pair, all."""
    return [chosen for size in range(1, count + 1) for chosen in combinations(range(count), size)]


def gradcheck(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], wanted: tuple[int, ...]) -> None:
    made = tuple(each.clone().requires_grad_(number in wanted) for number, each in enumerate(inputs))
    assert torch.autograd.gradcheck(function, made)


SMALL = (normal(2, 3, 2), normal(2, 2, 2, 3, seed=1))


@pytest.mark.parametrize("wanted", some_of(3), ids=str)
def test_gradient_of_the_weighted_sum(form: Any, wanted: tuple[int, ...]) -> None:
    inputs = (*SMALL, normal(2, 2, 3, seed=2))
    gradcheck(lambda u, w, c: LinearVotes(u, w, form=form).weighted_sum(c), inputs, wanted)


@pytest.mark.parametrize("wanted", some_of(3), ids=str)
def test_gradient_of_the_agreement(form: Any, wanted: tuple[int, ...]) -> None:
    inputs = (*SMALL, normal(2, 2, 2, seed=2))
    gradcheck(lambda u, w, v: LinearVotes(u, w, form=form).agreement(v), inputs, wanted)


@pytest.mark.parametrize("wanted", some_of(2), ids=str)
def test_gradient_of_what_images_share(form: Any, wanted: tuple[int, ...]) -> None:
    gradcheck(lambda u, w: LinearVotes(u, w, form=form).weighted_sum(0.7), SMALL, wanted)
    gradcheck(lambda u, w: LinearVotes(u, w, form=form).materialise(), SMALL, wanted)


@pytest.mark.parametrize("wanted", some_of(3), ids=str)
def test_gradient_of_a_shared_coupling(wanted: tuple[int, ...]) -> None:
    gradcheck(lambda u, w, c: LinearVotes(u, w).weighted_sum(c), (*SMALL, normal(2, 3, seed=2)), wanted)


def test_gradient_of_given_votes() -> None:
    votes_BJEI, parents_BJE = built(*SMALL).requires_grad_(), normal(2, 2, 2, seed=2).requires_grad_()
    for coupling in (normal(2, 2, 3, seed=2), normal(2, 3, seed=2)):
        both = (votes_BJEI, coupling.requires_grad_())
        assert torch.autograd.gradcheck(lambda u, c: GivenVotes(u).weighted_sum(c), both)
    assert torch.autograd.gradcheck(lambda u: GivenVotes(u).weighted_sum(0.7), (votes_BJEI,))
    assert torch.autograd.gradcheck(lambda u, v: GivenVotes(u).agreement(v), (votes_BJEI, parents_BJE))


@pytest.mark.parametrize("make", makers())
def test_detached_votes_are_the_same_and_take_no_gradient(make: Callable[[Tensor, Tensor], Votes]) -> None:
    inputs = [each.requires_grad_() for each in operands()]
    votes = make(*inputs)
    constant = votes.detach()
    coupling_BJI, parents_BJE = normal(B, J, I, seed=2), normal(B, J, E, seed=3)
    for function in (
        lambda each: each.weighted_sum(coupling_BJI),
        lambda each: each.weighted_sum(coupling_BJI[0]),
        lambda each: each.weighted_sum(0.5),
        lambda each: each.agreement(parents_BJE),
        lambda each: each.materialise(),
    ):
        assert not function(constant).requires_grad
        assert function(votes).requires_grad, "the votes themselves keep their gradient"
        torch.testing.assert_close(function(constant), function(votes), rtol=1e-13, atol=1e-13)
    # What is asked of detached votes may itself want a gradient.
    wanting = coupling_BJI.requires_grad_()
    assert torch.autograd.grad(constant.weighted_sum(wanting).sum(), wanting)[0].abs().sum() > 0


# -- pieces -----------------------------------------------------------------------------------------------------------


class Count(TorchDispatchMode):
    """How many operators ran."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def everything(form: Any) -> tuple[list[Tensor], int]:
    inputs = [each.requires_grad_() for each in operands()]
    parents_BJE, coupling_BJI = normal(B, J, E, seed=3).requires_grad_(), normal(B, J, I, seed=2).requires_grad_()
    with Count() as count:
        votes = LinearVotes(*inputs, form=form)
        outputs = votes.weighted_sum(coupling_BJI), votes.agreement(parents_BJE)
        loss = sum((each * normal(*each.shape, seed=4)).sum() for each in outputs)
        grads = torch.autograd.grad(loss, (*inputs, parents_BJE, coupling_BJI))
    return [*outputs, *grads], count.calls


IMAGE = D * I * 8
"""Bytes of one image's share of a piece, for one parent."""


@pytest.mark.parametrize(
    "size",
    [1, 2 * IMAGE, 5 * IMAGE, 10 * IMAGE],
    ids=["one image", "two images", "all images", "all images for two parents"],
)
def test_several_pieces_equal_one(form: Any, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = everything(form)
    monkeypatch.setitem(vote_operators.PIECE_BYTES, "cpu", size)
    pieces, more_calls = everything(form)
    assert more_calls > calls, "there were pieces"
    for piece, expected in zip(pieces, whole, strict=True):
        torch.testing.assert_close(piece, expected, rtol=1e-12, atol=1e-12)


# -- folding ----------------------------------------------------------------------------------------------------------


def test_fold_is_the_linear_map_of_a_shared_coupling() -> None:
    poses_BID, weight_JEDI = operands()
    coupling_JI = normal(J, I, seed=2)
    folded = fold(weight_JEDI, coupling_JI)
    assert folded.shape == (J * E, D * I)
    assert torch.equal(folded, LinearVotes(poses_BID, weight_JEDI).fold(coupling_JI))
    sums_BJE = (poses_BID.mT.flatten(1) @ folded.T).view(B, J, E)
    expected = torch.einsum("bjei,ji->bje", built(poses_BID, weight_JEDI), coupling_JI)
    torch.testing.assert_close(sums_BJE, expected, rtol=1e-12, atol=1e-12)


def test_given_half_precision_votes_are_added_up_in_float32() -> None:
    votes = GivenVotes(built(*operands()).bfloat16())
    for found in (
        votes.materialise(),
        votes.weighted_sum(normal(B, J, I).bfloat16()),
        votes.agreement(normal(B, J, E).bfloat16()),
    ):
        assert found.dtype == torch.float32


def test_half_precision_poses_give_float32(form: Any) -> None:
    poses_BID, weight_JEDI = operands(torch.float32)
    votes = LinearVotes(poses_BID.bfloat16(), weight_JEDI, form=form)
    expected = LinearVotes(poses_BID.bfloat16().float(), weight_JEDI, form=form)
    for coupling in (normal(B, J, I, dtype=torch.bfloat16), normal(J, I, dtype=torch.float32), 0.5):
        assert torch.equal(votes.weighted_sum(coupling), expected.weighted_sum(coupling))
