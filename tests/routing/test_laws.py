"""Laws of the routings without a loop and of those that replace their logits, for all votes."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.nn.capsules import ClassCapsules
from capsexp.nn.functional import squash_exponential
from capsexp.nn.votes import GivenVotes
from capsexp.routing import InvertedAttention, Optimised, Routing, SelfAttention, SelfRouting
from capsexp.types import Capsules, RoutingOutput

SHAPES = st.tuples(*(st.integers(1, 5) for _ in range(4)))
"""B, J, E and I."""
SEEDS = st.integers(0, 2**16)
D = 3
few = settings(max_examples=40, deadline=None)


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(kind: type[Routing], shape: tuple[int, int, int, int], seed: int = 1, **options: Any) -> Routing:
    """A routing in float64 whose own numbers are drawn."""
    _, parents, dim_out, children = shape
    routing = kind(children=children, parents=parents, dim_in=D, dim_out=dim_out, **options).double()
    with torch.no_grad():
        for value in routing.parameters():
            value.copy_(normal(*value.shape, seed=seed))
    return routing


def same(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# -- self-routing -----------------------------------------------------------------------------------------------------


def self_routed(
    routing: Routing, shape: tuple[int, int, int, int], seed: int, activations_BI: Tensor, keep: slice = slice(None)
) -> RoutingOutput:
    batch, parents, dim_out, children = shape
    votes_BJEI = normal(batch, parents, dim_out, children, seed=seed)[..., keep]
    poses_BID = normal(batch, children, D, seed=seed + 1)[:, keep]
    output: RoutingOutput = routing(GivenVotes(votes_BJEI, poses_BID=poses_BID), activations_BI)
    return output


def active(shape: tuple[int, int, int, int], seed: int) -> Tensor:
    """Activations (B, I) between .1 and 1."""
    return 0.1 + 0.9 * torch.rand(shape[0], shape[3], generator=torch.Generator().manual_seed(seed)).double()


@few
@given(shape=SHAPES, seed=SEEDS, factor=st.floats(0.01, 100))
def test_self_routing_knows_no_scale_of_activations(shape: tuple[int, int, int, int], seed: int, factor: float) -> None:
    routing, activations_BI = made(SelfRouting, shape), active(shape, seed)
    one, other = (self_routed(routing, shape, seed, each) for each in (activations_BI, factor * activations_BI))
    for part, expected in zip(other, one, strict=True):
        same(part, expected)
    same(one.activations_BJ.sum(1), torch.ones(shape[0]).double())


@few
@given(shape=SHAPES, seed=SEEDS)
def test_a_silent_child_changes_nothing_in_self_routing(shape: tuple[int, int, int, int], seed: int) -> None:
    wider = (*shape[:3], shape[3] + 1)
    routing, activations_BI = made(SelfRouting, wider), active(wider, seed)
    activations_BI[:, -1] = 0
    with_it = self_routed(routing, wider, seed, activations_BI)
    smaller = made(SelfRouting, shape)
    with torch.no_grad():
        for name, value in smaller.named_parameters():
            whole = dict(routing.named_parameters())[name]
            value.copy_(whole.narrow(routing.children_at[name], 0, shape[3]))
    without = self_routed(smaller, wider, seed, activations_BI[:, :-1], keep=slice(-1))
    same(with_it.poses_BJE, without.poses_BJE)
    same(with_it.activations_BJ, without.activations_BJ)


@few
@given(shape=SHAPES, seed=SEEDS)
def test_self_routing_begins_with_means_and_equal_activations(shape: tuple[int, int, int, int], seed: int) -> None:
    batch, parents, dim_out, children = shape
    routing = SelfRouting(children=children, parents=parents, dim_in=D, dim_out=dim_out).double()
    activations_BI = active(shape, seed)
    output = self_routed(routing, shape, seed, activations_BI)
    votes_BJEI = normal(batch, parents, dim_out, children, seed=seed)
    mean_BJE = (votes_BJEI * activations_BI[:, None, None]).sum(3) / activations_BI.sum(1)[:, None, None]
    same(output.poses_BJE, mean_BJE)
    same(output.activations_BJ, torch.full((batch, parents), 1 / parents, dtype=torch.float64))


@few
@given(shape=SHAPES, seed=SEEDS, added=st.floats(-50, 50))
def test_a_childs_bias_counts_only_between_parents(shape: tuple[int, int, int, int], seed: int, added: float) -> None:
    routing, activations_BI = made(SelfRouting, shape), active(shape, seed)
    before = self_routed(routing, shape, seed, activations_BI)
    with torch.no_grad():
        routing.bias_JI[:, 0] += added  # type: ignore[operator,index]
    for part, expected in zip(self_routed(routing, shape, seed, activations_BI), before, strict=True):
        same(part, expected, 1e-9)


def test_a_parent_that_all_children_choose_gets_everything_and_the_others_stay_finite() -> None:
    shape = (2, 3, 2, 4)
    routing, activations_BI = made(SelfRouting, shape), active(shape, 0)
    with torch.no_grad():
        routing.bias_JI[1] = 1e4  # type: ignore[operator,index]
    output = self_routed(routing, shape, 0, activations_BI)
    assert output.activations_BJ.tolist() == [[0, 1, 0], [0, 1, 0]]
    assert all(part.isfinite().all() for part in output)


def test_self_routing_says_what_it_lacks() -> None:
    routing, votes = made(SelfRouting, (1, 2, 3, 4)), torch.zeros(1, 2, 3, 4)
    with pytest.raises(ConfigError, match=r"^votes must know the poses of the children, got 'GivenVotes'$"):
        routing(GivenVotes(votes), torch.zeros(1, 4))
    with pytest.raises(ConfigError, match=r"^activations must be there for SelfRouting, got None$"):
        routing(GivenVotes(votes, poses_BID=torch.zeros(1, 4, D)))


# -- self-attention ---------------------------------------------------------------------------------------------------


@few
@given(shape=SHAPES, seed=SEEDS)
def test_logits_of_self_attention_are_the_row_sums_of_a_gram_matrix(
    shape: tuple[int, int, int, int], seed: int
) -> None:
    votes_BJEI = normal(*shape, seed=seed, scale=0.5)
    gram_BJII = torch.einsum("bjei,bjek->bjik", votes_BJEI, votes_BJEI) / shape[2] ** 0.5
    output = made(SelfAttention, shape)(GivenVotes(votes_BJEI))
    same(output.coupling_BJI, gram_BJII.sum(3).softmax(1))


@few
@given(shape=SHAPES, seed=SEEDS)
def test_self_attention_is_odd(shape: tuple[int, int, int, int], seed: int) -> None:
    routing, votes_BJEI = made(SelfAttention, shape), normal(*shape, seed=seed)
    one, other = routing(GivenVotes(votes_BJEI)), routing(GivenVotes(-votes_BJEI))
    same(other.poses_BJE, -one.poses_BJE)
    same(other.activations_BJ, one.activations_BJ)
    same(other.coupling_BJI, one.coupling_BJI)


@few
@given(shape=SHAPES, seed=SEEDS)
def test_equal_votes_for_all_parents_are_shared_equally(shape: tuple[int, int, int, int], seed: int) -> None:
    batch, parents, dim_out, children = shape
    votes_BJEI = normal(batch, 1, dim_out, children, seed=seed).expand(shape)
    coupling_BJI = made(SelfAttention, shape)(GivenVotes(votes_BJEI)).coupling_BJI
    same(coupling_BJI, torch.full_like(coupling_BJI, 1 / parents))


@few
@given(shape=SHAPES, seed=SEEDS)
def test_priors_add_their_own_weighted_sum(shape: tuple[int, int, int, int], seed: int) -> None:
    votes, routing = GivenVotes(normal(*shape, seed=seed)), made(SelfAttention, shape)
    plain = made(SelfAttention, shape, prior=False)(votes)
    sums_BJE = votes.weighted_sum(plain.coupling_BJI) + votes.weighted_sum(routing.prior_JI)  # type: ignore[arg-type]
    same(routing(votes).poses_BJE, squash_exponential(sums_BJE))


# -- inverted attention -----------------------------------------------------------------------------------------------


@few
@given(shape=SHAPES, seed=SEEDS, factor=st.floats(0.5, 50))
def test_one_round_of_inverted_attention_knows_no_scale_of_votes(
    shape: tuple[int, int, int, int], seed: int, factor: float
) -> None:
    """Layer normalisation removes the scale, but for its epsilon of 1e-5 and a pose of one component."""
    votes_BJEI = normal(*shape, seed=seed, scale=1e4)
    routing = made(InvertedAttention, shape, iterations=1)
    if shape[2] == 1:
        votes_BJEI = votes_BJEI / 1e4
        found = routing(GivenVotes(factor * votes_BJEI)).poses_BJE
        same(found, factor * votes_BJEI.mean(3) * shape[3] / shape[1])
        return
    assume(float(votes_BJEI.sum(3).std(2, unbiased=False).amin()) > 1e3)
    one, other = (routing(GivenVotes(each)).poses_BJE for each in (votes_BJEI, factor * votes_BJEI))
    same(other, one, 1e-8)


@few
@given(shape=SHAPES.filter(lambda shape: shape[2] > 1), seed=SEEDS)
def test_poses_of_inverted_attention_have_the_length_of_their_dimension(
    shape: tuple[int, int, int, int], seed: int
) -> None:
    _, parents, dim_out, children = shape
    routing = InvertedAttention(children=children, parents=parents, dim_in=D, dim_out=dim_out, iterations=1).double()
    squares_BJ = routing(GivenVotes(normal(*shape, seed=seed, scale=1e4))).poses_BJE.square().sum(2)
    same(squares_BJ, torch.full_like(squares_BJ, dim_out), 1e-2)


# -- optimised routing ------------------------------------------------------------------------------------------------


@few
@given(shape=SHAPES, seed=SEEDS)
def test_a_large_entropy_shares_equally_and_none_chooses_one_parent(
    shape: tuple[int, int, int, int], seed: int
) -> None:
    votes = GivenVotes(normal(*shape, seed=seed))
    equal_BJI = made(Optimised, shape, alpha=1e12)(votes).coupling_BJI
    same(equal_BJI, torch.full_like(equal_BJI, 1 / shape[1]))
    chosen_BJI = made(Optimised, shape, alpha=1e-12)(votes).coupling_BJI
    same(chosen_BJI.amax(1), torch.ones(shape[0], shape[3]).double())


@few
@given(shape=SHAPES, seed=SEEDS)
def test_one_round_of_optimised_routing_is_a_mean_up_to_its_divisor(
    shape: tuple[int, int, int, int], seed: int
) -> None:
    votes = GivenVotes(normal(*shape, seed=seed))
    poses_BJE = made(Optimised, shape, iterations=1)(votes).poses_BJE
    same(poses_BJE, votes.weighted_sum(1 / shape[1]) / (1 + 1 / shape[1]))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (SelfAttention, {"scale": "x"}, r"^scale must be one of parents, children, got 'x'$"),
        (SelfAttention, {"prior": 1}, r"^prior must be true or false, got 1$"),
        (InvertedAttention, {"iterations": 0}, r"^iterations must be a whole number >= 1, got 0$"),
        (Optimised, {"alpha": 0}, r"^alpha must be a number in \(0, inf\], got 0$"),
        (
            InvertedAttention,
            {"squash": "classic"},
            r"^squash must be absent: InvertedAttention has no squash",
        ),
        (SelfRouting, {"epsilon": 0.1}, r"^epsilon must be absent: SelfRouting has no squash, got 0.1$"),
        (Optimised, {"iterations": "x"}, r"^iterations must be a whole number >= 1, got 'x'$"),
    ],
)
def test_options_are_checked(kind: type[Routing], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(kind, (1, 2, 3, 4), **options)


# -- where poses begin, and where nobody is active --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (SelfAttention, (2 / (8 * 10 * 200)) ** 0.5),
        (InvertedAttention, (10 / (8 * 200)) ** 0.5),
        (SelfRouting, (6 / (10 * 16 * 8)) ** 0.5 / 3**0.5),
        (Optimised, (1 / (16 * 8)) ** 0.5),
    ],
)
def test_first_matrices_have_the_standard_deviation_of_the_authors(kind: type[Routing], expected: float) -> None:
    torch.manual_seed(0)
    weight_JEDI = torch.empty(10, 16, 8, 200)
    kind(children=200, parents=10, dim_in=8, dim_out=16).start(weight_JEDI)
    assert weight_JEDI.std().item() == pytest.approx(expected, rel=0.02)
    if kind is SelfRouting:
        assert weight_JEDI.abs().max().item() <= (6 / (10 * 16 * 8)) ** 0.5
    if kind is Optimised:
        torch.testing.assert_close(weight_JEDI.square().sum((1, 2)), torch.ones(10, 200))


@pytest.mark.parametrize("depth", [1, 6])
def test_silence_gives_finite_gradients_through_many_layers(depth: int) -> None:
    """The gradient of a quotient of sums near zero would grow by a billion from layer to layer."""
    poses_BID = torch.zeros(2, 4, D, requires_grad=True)
    activations_BI = torch.zeros(2, 4, requires_grad=True)
    capsules = Capsules(poses_BID, activations_BI)
    for _ in range(depth):
        made = ClassCapsules(4, 4, D, D, SelfRouting)(capsules)
        capsules = Capsules(made.poses_BJE, made.activations_BJ)
    (capsules.poses.sum() + capsules.activations.sum()).backward()  # type: ignore[union-attr]
    for each in (poses_BID, activations_BI):
        assert each.grad is not None
        assert each.grad.isfinite().all()
    assert not capsules.poses.any()
