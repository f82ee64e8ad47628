"""Laws of EM and variational-Bayes routing, for all votes."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.nn.capsules import ConvCapsules
from capsexp.nn.field import Field
from capsexp.nn.votes import GivenVotes, Votes
from capsexp.routing import EM, Routing, VariationalBayes
from capsexp.types import Capsules, RoutingOutput

KINDS: tuple[type[Routing], ...] = (EM, VariationalBayes)
Shape = tuple[int, int, int, int]
SHAPES = st.tuples(*(st.integers(1, 5) for _ in range(4)))
"""B, J, E and I."""
SEEDS = st.integers(0, 2**16)
GRIDS = st.tuples(st.integers(2, 4), st.integers(2, 4), st.integers(1, 2), st.integers(1, 2), st.integers(0, 1))
"""Height, width, kernel, stride and padding."""
both = pytest.mark.parametrize("kind", KINDS)
few = settings(max_examples=30, deadline=None)


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def active(batch: int, children: int, seed: int) -> Tensor:
    """Activations between .1 and 1."""
    return 0.1 + 0.9 * torch.rand(batch, children, generator=torch.Generator().manual_seed(seed)).double()


def made(kind: type[Routing], parents: int, dim_out: int, children: int, seed: int = 1, **options: Any) -> Routing:
    """A routing in float64 and in evaluation, whose betas and running statistics are drawn."""
    if kind is EM:
        options = {"inverse_temperature": 0.5} | options  # hot enough that activations differ
    routing = kind(children=children, parents=parents, dim_in=3, dim_out=dim_out, **options).double().eval()
    with torch.no_grad():
        for number, value in enumerate(routing.parameters()):
            value.copy_(normal(*value.shape, seed=seed + number))
        for name, value in routing.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(0.1 * normal(*value.shape, seed=seed + 7))
            elif name.endswith("running_var"):
                value.copy_(0.5 + normal(*value.shape, seed=seed + 8).square())
    return routing


def drawn(kind: type[Routing], shape: Shape, seed: int, **options: Any) -> tuple[Routing, Tensor, Tensor]:
    """A routing, votes and activations."""
    batch, parents, dim_out, children = shape
    routing = made(kind, parents, dim_out, children, **options)
    return routing, normal(batch, parents, dim_out, children, seed=seed), active(batch, children, seed)


def same(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def all_same(found: RoutingOutput, expected: RoutingOutput, tolerance: float = 1e-10) -> None:
    for part, other in zip(found, expected, strict=True):
        same(part, other, tolerance)


# -- of both ----------------------------------------------------------------------------------------------------------


@both
@few
@given(shape=SHAPES, seed=SEEDS)
def test_it_is_odd(kind: type[Routing], shape: Shape, seed: int) -> None:
    """Negated votes give negated poses, and the same activations and assignments."""
    routing, votes_BJEI, activations_BI = drawn(kind, shape, seed)
    for name, value in routing.named_buffers():
        if name.startswith("finish.running_mean"):
            value.zero_()
    one, other = (routing(GivenVotes(each), activations_BI) for each in (votes_BJEI, -votes_BJEI))
    all_same(RoutingOutput(-other.poses_BJE, *other[1:]), one, 1e-8)


@both
@few
@given(shape=SHAPES, seed=SEEDS)
def test_a_silent_child_changes_nothing(kind: type[Routing], shape: Shape, seed: int) -> None:
    batch, parents, dim_out, children = shape
    wider, votes_BJEI, activations_BI = drawn(kind, (batch, parents, dim_out, children + 1), seed)
    activations_BI[:, -1] = 0
    with_it = wider(GivenVotes(votes_BJEI), activations_BI)
    routing = made(kind, parents, dim_out, children)
    without = routing(GivenVotes(votes_BJEI[..., :-1]), activations_BI[:, :-1])
    all_same(with_it._replace(coupling_BJI=with_it.coupling_BJI[..., :-1]), without, 1e-8)


@both
@few
@given(shape=SHAPES, seed=SEEDS, part=st.floats(0.1, 0.9))
def test_a_child_in_two_parts_is_one(kind: type[Routing], shape: Shape, seed: int, part: float) -> None:
    """Two copies of a child whose activations add up to its own."""
    _, parents, dim_out, children = shape
    routing, votes_BJEI, activations_BI = drawn(kind, shape, seed)
    whole = routing(GivenVotes(votes_BJEI), activations_BI)
    twins_BI = torch.cat([activations_BI, (1 - part) * activations_BI[:, :1]], 1)
    twins_BI[:, 0] *= part
    votes_twice_BJEI = torch.cat([votes_BJEI, votes_BJEI[..., :1]], 3)
    split = made(kind, parents, dim_out, children + 1)(GivenVotes(votes_twice_BJEI), twins_BI)
    all_same(split._replace(coupling_BJI=split.coupling_BJI[..., :-1]), whole, 1e-8)
    same(split.coupling_BJI[..., -1], split.coupling_BJI[..., 0])


@both
@few
@given(shape=SHAPES, seed=SEEDS)
def test_assignments_add_up_to_1_over_the_parents_and_weights_to_at_most_1_over_the_children(
    kind: type[Routing], shape: Shape, seed: int
) -> None:
    routing, votes_BJEI, activations_BI = drawn(kind, shape, seed)
    output = routing(GivenVotes(votes_BJEI), activations_BI)
    same(output.coupling_BJI.sum(1), torch.ones_like(activations_BI))
    sums_BJ = routing.weights(output.coupling_BJI, activations_BI).sum(2)
    amount_BJ = (output.coupling_BJI * activations_BI[:, None]).sum(2)
    expected_BJ = amount_BJ / amount_BJ.clamp_min(1e-9) if kind is EM else amount_BJ / (1 + amount_BJ)
    same(sums_BJ, expected_BJ)


@both
@few
@given(shape=SHAPES, seed=SEEDS)
def test_permuted_parents_with_their_numbers(kind: type[Routing], shape: Shape, seed: int) -> None:
    routing, votes_BJEI, activations_BI = drawn(kind, shape, seed)
    before = routing(GivenVotes(votes_BJEI), activations_BI)
    order = torch.randperm(shape[1], generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for value in routing.state_dict().values():
            if value.dim():
                value.copy_(value[order].clone())
    after = routing(GivenVotes(votes_BJEI[:, order]), activations_BI)
    all_same(after, RoutingOutput(*(part[:, order] for part in before)), 1e-8)


@both
@few
@given(shape=SHAPES, seed=SEEDS, iterations=st.integers(1, 4))
def test_equal_votes_for_all_parents_give_equal_assignments(
    kind: type[Routing], shape: Shape, seed: int, iterations: int
) -> None:
    """Where betas are equal too, nothing tells the parents apart."""
    batch, parents, dim_out, children = shape
    options: dict[str, Any] = {"iterations": iterations} | ({"least_variance": 1e-3} if kind is EM else {})
    routing = kind(children=children, parents=parents, dim_in=3, dim_out=dim_out, **options).double().eval()
    votes_BJEI = normal(batch, 1, dim_out, children, seed=seed).repeat(1, parents, 1, 1)
    output = routing(GivenVotes(votes_BJEI), active(batch, children, seed))
    same(output.coupling_BJI, torch.full_like(output.coupling_BJI, 1 / parents))
    same(output.poses_BJE, output.poses_BJE[:, :1].expand_as(output.poses_BJE))


@both
@few
@given(shape=SHAPES, seed=SEEDS)
def test_a_gradient_of_the_last_step_alone_leaves_values_as_they_are(
    kind: type[Routing], shape: Shape, seed: int
) -> None:
    full, votes_BJEI, activations_BI = drawn(kind, shape, seed)
    last = drawn(kind, shape, seed, gradient="last")[0]
    all_same(last(GivenVotes(votes_BJEI), activations_BI), full(GivenVotes(votes_BJEI), activations_BI))
    votes_BJEI.requires_grad_()
    output = last(GivenVotes(votes_BJEI), activations_BI)
    assert not output.coupling_BJI.requires_grad
    (found,) = torch.autograd.grad(output.poses_BJE.sum(), votes_BJEI)
    scale_BJ1 = output.poses_BJE.new_ones(1, shape[1], 1)
    if kind is VariationalBayes:
        norm: Any = last.get_submodule("finish")
        scale_BJ1 = (norm.running_var + norm.eps).rsqrt()[None, :, None]
    weights_BJI = last.weights(output.coupling_BJI, activations_BI)
    same(found, (scale_BJ1 * weights_BJI)[:, :, None].expand_as(found))


@both
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("shape", [(2, 4, 16, 6), (2, 4, 16, 1), (2, 1, 16, 6), (1, 1, 1, 1), (2, 3, 1, 4)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("what", ["zero votes", "zero activations", "a silent image", "large", "huge", "equal", "tiny"])
def test_single_precision_stays_finite(
    kind: type[Routing], what: str, training: bool, shape: Shape, iterations: int
) -> None:
    """Values and gradients, for one child, one parent or one component, and for logits of some thousands."""
    batch, parents, dim_out, children = shape
    routing = kind(children=children, parents=parents, dim_in=3, dim_out=dim_out, iterations=iterations)
    scale = {"zero votes": 0.0, "large": 10.0, "huge": 1000.0, "tiny": 1e-20}.get(what, 1.0)
    votes_BJEI = normal(*shape, seed=0, scale=scale).float()
    activations_BI = active(batch, children, 0).float()
    if what == "equal":
        votes_BJEI = votes_BJEI[:, :, :, :1].expand_as(votes_BJEI).clone()
    if what == "zero activations":
        activations_BI.zero_()
    if what == "a silent image":
        activations_BI[0] = 0
    inputs = (votes_BJEI.requires_grad_(), activations_BI.requires_grad_(), *routing.parameters())
    output = routing.train(training)(GivenVotes(votes_BJEI), activations_BI)
    assert all(part.isfinite().all() for part in output)
    assert ((output.activations_BJ >= 0) & (output.activations_BJ <= 1)).all()
    grads = torch.autograd.grad(sum(part.sum() for part in output), inputs, allow_unused=True)  # type: ignore[arg-type]
    assert all(grad is None or bool(grad.isfinite().all()) for grad in grads)


@both
def test_without_activations_it_says_so(kind: type[Routing]) -> None:
    routing = made(kind, 2, 3, 4)
    with pytest.raises(ConfigError, match=rf"^activations must be there for {kind.__name__}, got None$"):
        routing(GivenVotes(torch.zeros(1, 2, 3, 4)))


# -- windows that share children --------------------------------------------------------------------------------------


def field_votes(sizes: tuple[int, ...], types: int, parents: int, seed: int) -> tuple[Votes, Tensor, Field]:
    """Votes of all windows of two images, activations of the children in them, and their field."""
    field = Field.of_grid(*sizes)
    rows, children = 2 * field.windows, types * field.positions
    votes_BJEI = normal(rows, parents, 2, children, seed=seed)
    of_child_BTY = torch.cat([active(2 * types, field.places, seed), torch.zeros(2 * types, 1).double()], 1)
    activations_BTLP = of_child_BTY.view(2, types, -1)[:, :, field.place_LP]
    activations_BI = activations_BTLP.transpose(1, 2).reshape(rows, children)
    return GivenVotes(votes_BJEI, field=field), activations_BI, field


def by_child(numbers_BI: Tensor, field: Field, types: int) -> Tensor:
    """Sums over the windows that hold a child: (2, T, places), without the padding."""
    own = numbers_BI.view(2, field.windows, types, field.positions).transpose(1, 2).reshape(2 * types, -1)
    sums = own.new_zeros(2 * types, field.places + 1)
    sums.scatter_add_(1, field.place_LP.flatten().expand_as(own), own)
    return sums[:, :-1].view(2, types, -1)


@both
@few
@given(sizes=GRIDS, types=st.integers(1, 3), parents=st.integers(1, 3), seed=SEEDS, iterations=st.integers(1, 3))
def test_assignments_of_a_child_add_up_to_1_over_all_windows_that_hold_it(
    kind: type[Routing], sizes: tuple[int, ...], types: int, parents: int, seed: int, iterations: int
) -> None:
    """Those of the first step of variational Bayes add up to 1 over each of them."""
    votes, activations_BI, field = field_votes(sizes, types, parents, seed)
    routing = made(kind, parents, 2, activations_BI.shape[1], iterations=iterations)
    output = routing(votes, activations_BI)
    sums_BTY = by_child(output.coupling_BJI.sum(1), field, types)
    held_Y = torch.zeros(field.places + 1).index_add_(0, field.place_LP.flatten(), torch.ones(field.place_LP.numel()))
    expected_Y = held_Y[:-1].double()
    if kind is EM or iterations > 1:
        expected_Y = expected_Y.clamp_max(1)
    same(sums_BTY, expected_Y.expand_as(sums_BTY))


@both
@few
@given(sizes=GRIDS, types=st.integers(1, 3), seed=SEEDS)
def test_permuted_types_permute_the_assignments_alone(
    kind: type[Routing], sizes: tuple[int, ...], types: int, seed: int
) -> None:
    votes, activations_BI, field = field_votes(sizes, types, 2, seed)
    routing = made(kind, 2, 2, activations_BI.shape[1])
    order_T = torch.randperm(types, generator=torch.Generator().manual_seed(seed))
    order_I = (order_T[:, None] * field.positions + torch.arange(field.positions)).flatten()
    before = routing(votes, activations_BI)
    permuted = GivenVotes(votes.materialise()[..., order_I], field=field)
    after = routing(permuted, activations_BI[:, order_I])
    all_same(after, before._replace(coupling_BJI=before.coupling_BJI[..., order_I]), 1e-8)


@both
@few
@given(side=st.integers(1, 2), types=st.integers(1, 3), seed=SEEDS)
def test_windows_that_share_no_child_are_layers_of_their_own(
    kind: type[Routing], side: int, types: int, seed: int
) -> None:
    votes, activations_BI, _ = field_votes((2 * side, 2 * side, side, side, 0), types, 3, seed)
    routing = made(kind, 3, 2, activations_BI.shape[1])
    all_same(routing(votes, activations_BI), routing(GivenVotes(votes.materialise()), activations_BI))


@both
@pytest.mark.parametrize("padding", [0, 1])
def test_a_layer_hands_the_windows_to_the_routing(kind: type[Routing], padding: int) -> None:
    """An image among others is as it is alone, in evaluation, and its children compete over its own windows alone."""
    layer = ConvCapsules(2, 3, 4, 4, kind, kernel=3, padding=padding, matrix=True).double().eval()
    poses, activations = normal(3, 2, 4, 4, 4, seed=0), torch.rand(3, 2, 4, 4, dtype=torch.float64)
    together = layer(Capsules(poses, activations))
    for number in range(3):
        one = slice(number, number + 1)
        alone = layer(Capsules(poses[one], activations[one]))
        all_same(RoutingOutput(*(part[0] for part in alone)), RoutingOutput(*(part[number] for part in together)))


# -- EM ---------------------------------------------------------------------------------------------------------------


@few
@given(shape=SHAPES, seed=SEEDS)
def test_one_step_of_em_is_the_mean_weighted_by_activations(shape: Shape, seed: int) -> None:
    routing, votes_BJEI, activations_BI = drawn(EM, shape, seed, iterations=1)
    output = routing(GivenVotes(votes_BJEI), activations_BI)
    mean_BJE = (votes_BJEI * activations_BI[:, None, None]).sum(3) / activations_BI.sum(1)[:, None, None]
    same(output.poses_BJE, mean_BJE)


@few
@given(shape=SHAPES, seed=SEEDS, shift=st.floats(-3, 3))
def test_a_shift_of_all_votes_for_a_parent_moves_its_mean_alone(shape: Shape, seed: int, shift: float) -> None:
    routing, votes_BJEI, activations_BI = drawn(EM, shape, seed, least_variance=1e-3)
    before = routing(GivenVotes(votes_BJEI), activations_BI)
    shift_JE = torch.zeros(shape[1], shape[2], dtype=torch.float64)
    shift_JE[0] = shift * normal(shape[2], seed=seed)
    after = routing(GivenVotes(votes_BJEI + shift_JE[:, :, None]), activations_BI)
    all_same(after, before._replace(poses_BJE=before.poses_BJE + shift_JE), 1e-7)


@few
@given(shape=SHAPES, seed=SEEDS)
def test_without_heat_all_activations_are_a_half(shape: Shape, seed: int) -> None:
    routing, votes_BJEI, activations_BI = drawn(EM, shape, seed, inverse_temperature=1e-15)
    output = routing(GivenVotes(votes_BJEI), activations_BI)
    same(output.activations_BJ, torch.full_like(output.activations_BJ, 0.5))


@few
@given(shape=SHAPES, seed=SEEDS, factor=st.floats(0.2, 0.8))
def test_activations_are_amounts_in_em(shape: Shape, seed: int, factor: float) -> None:
    """A scale of all leaves the first means, and multiplies the costs."""
    routing, votes_BJEI, activations_BI = drawn(EM, shape, seed, iterations=1)
    one, other = (routing(GivenVotes(votes_BJEI), each) for each in (activations_BI, factor * activations_BI))
    same(other.poses_BJE, one.poses_BJE)
    heat = 0.5 * 0.05
    beta_a_J = routing.get_parameter("beta_a_J")
    cost_BJ, scaled_BJ = (beta_a_J - each.activations_BJ.logit() / heat for each in (one, other))
    same(scaled_BJ, factor * cost_BJ, 1e-6)


@few
@given(shape=SHAPES, seed=SEEDS)
def test_silence_leaves_em_with_zero_poses_and_the_activation_of_no_cost(shape: Shape, seed: int) -> None:
    routing, votes_BJEI, activations_BI = drawn(EM, shape, seed)
    output = routing(GivenVotes(votes_BJEI), torch.zeros_like(activations_BI))
    assert not output.poses_BJE.any()
    logit_J = 0.5 * (1 - 0.95**3) * routing.get_parameter("beta_a_J")
    same(output.activations_BJ, logit_J.sigmoid().expand_as(output.activations_BJ))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"iterations": 0}, "iterations must be a whole number >= 1, got 0"),
        ({"gradient": "none"}, "gradient must be one of full, last, got 'none'"),
        ({"inverse_temperature": 0}, "inverse_temperature must be a number in (0, inf], got 0"),
        ({"least_variance": 0}, "least_variance must be a number in (0, inf], got 0"),
        ({"squash": "linear"}, "squash must be absent: EM has no squash, got 'linear'"),
    ],
)
def test_bad_options_of_em(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EM(children=4, parents=2, dim_in=3, dim_out=3, **options)
    assert str(caught.value) == line


# -- variational Bayes ------------------------------------------------------------------------------------------------


def plain(shape: Shape, **options: Any) -> VariationalBayes:
    """Variational Bayes without normalisation of its outputs, and with betas of 0."""
    _, parents, dim_out, children = shape
    sizes = {"children": children, "parents": parents, "dim_in": 3, "dim_out": dim_out}
    routing = VariationalBayes(**sizes, **options).double().eval()
    routing.activation_norm.eps = routing.finish.eps = 0.0
    return routing


@few
@given(shape=SHAPES, seed=SEEDS)
def test_silence_leaves_the_priors(shape: Shape, seed: int) -> None:
    """Means of 0, and the entropy of the prior, weighted by equal shares of the mixture."""
    batch, parents, dim, children = shape
    routing, votes_BJEI = plain(shape), normal(*shape, seed=seed)
    output = routing(GivenVotes(votes_BJEI), torch.zeros(batch, children).double())
    assert not output.poses_BJE.any()
    one = torch.ones((), dtype=torch.float64)
    digammas = sum(torch.digamma((dim + 2 - d) / 2 * one) for d in range(1, dim + 1))
    entropy = 0.5 * dim * math.log(2 * math.pi * math.e) - 0.5 * (digammas + dim * math.log(2))
    log_share = torch.digamma(one) - torch.digamma(parents * one)
    expected = (-log_share.exp() * entropy).sigmoid()
    same(output.activations_BJ, expected.expand_as(output.activations_BJ))


@few
@given(shape=SHAPES, seed=SEEDS)
def test_much_data_leaves_the_means_of_the_votes(shape: Shape, seed: int) -> None:
    batch, _, _, children = shape
    votes_BJEI, weight_BI = normal(*shape, seed=seed), active(batch, children, seed)
    output = plain(shape, iterations=1)(GivenVotes(votes_BJEI), 1e9 * weight_BI)
    mean_BJE = (votes_BJEI * weight_BI[:, None, None]).sum(3) / weight_BI.sum(1)[:, None, None]
    same(output.poses_BJE, mean_BJE, 1e-6)


@few
@given(shape=SHAPES, seed=SEEDS)
def test_one_step_of_variational_bayes_is_a_mean_that_the_prior_draws_to_zero(shape: Shape, seed: int) -> None:
    votes_BJEI, activations_BI = normal(*shape, seed=seed), active(shape[0], shape[3], seed)
    output = plain(shape, iterations=1)(GivenVotes(votes_BJEI), activations_BI)
    sums_BJE = (votes_BJEI * activations_BI[:, None, None]).sum(3) / shape[1]
    same(output.poses_BJE, sums_BJE / (1 + activations_BI.sum(1) / shape[1])[:, None, None])


@few
@given(seed=SEEDS, parents=st.integers(1, 4), beta=st.floats(-3, 3))
def test_betas_change_nothing_in_training(seed: int, parents: int, beta: float) -> None:
    """The normalisation of the logits takes them out again."""
    routing, votes_BJEI, activations_BI = drawn(VariationalBayes, (5, parents, 3, 4), seed)
    routing.train()
    before = routing(GivenVotes(votes_BJEI), activations_BI)
    with torch.no_grad():
        for name in ("beta_u_J", "beta_a_J"):
            routing.get_parameter(name).add_(beta)
    after = routing(GivenVotes(votes_BJEI), activations_BI)
    all_same(after, before, 1e-6)
    factors_BJ = normal(5, parents, seed=seed)
    grads = torch.autograd.grad((factors_BJ * after.activations_BJ).sum(), list(routing.parameters()))
    assert max(float(grad.abs().max()) for grad in grads) < 1e-9


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"iterations": 0}, "iterations must be a whole number >= 1, got 0"),
        ({"gradient": "none"}, "gradient must be one of full, last, got 'none'"),
        ({"squash": "linear"}, "squash must be absent: VariationalBayes has no squash, got 'linear'"),
    ],
)
def test_bad_options_of_variational_bayes(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        VariationalBayes(children=4, parents=2, dim_in=3, dim_out=3, **options)
    assert str(caught.value) == line
