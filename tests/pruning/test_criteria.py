import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.pruning.base import Layer
from capsexp.pruning.cosine import Cosine
from capsexp.pruning.magnitude import Magnitude
from capsexp.pruning.random import Random
from tests.references.similarity import elimination_order, norm


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conv(rows_OF: list[list[float]]) -> Layer:
    return Layer("conv", torch.tensor(rows_OF)[:, :, None, None])


# -- the layer --------------------------------------------------------------------------------------------------------


def test_a_layer_refuses_what_no_criterion_can_score() -> None:
    with pytest.raises(ConfigError, match=r"conv2.weight must have the shape .* got \(4, 3\)"):
        Layer("conv2", torch.ones(4, 3))
    with pytest.raises(ConfigError, match=r"conv2.weight must be finite"):
        Layer("conv2", torch.full((4, 3, 1, 1), torch.nan))
    with pytest.raises(ConfigError, match=r"conv2.maps must have the shape \(images, 4, .* got \(2, 5, 6, 6\)"):
        Layer("conv2", torch.ones(4, 3, 1, 1), torch.ones(2, 5, 6, 6))


def test_a_layer_shows_its_filters_as_rows() -> None:
    weight = normal(4, 3, 2, 2).requires_grad_()
    layer = Layer("conv", weight)
    assert layer.channels == 4
    assert torch.equal(layer.filters, weight.detach().double().reshape(4, 12))


# -- cosine -----------------------------------------------------------------------------------------------------------


@given(st.integers(2, 10), st.integers(2, 8), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_cosine_matches_the_nested_loops(count: int, size: int, seed: int) -> None:
    layer = Layer("conv", normal(count, size, 1, 1, seed=seed))
    order = Cosine().scores(layer).argsort().tolist()
    assert order == elimination_order(layer.filters.numpy())


@pytest.mark.parametrize("shape", [(16, 6, 5, 5), (24, 3, 3, 3)])
def test_cosine_matches_the_nested_loops_on_a_real_layers_size(shape: tuple[int, ...]) -> None:
    layer = Layer("conv", normal(*shape))
    assert Cosine().scores(layer).argsort().tolist() == elimination_order(layer.filters.numpy())


@given(st.integers(2, 10), st.integers(0, 2**32 - 1), st.data())
@settings(deadline=None, max_examples=40)
def test_cosine_does_not_see_positive_factors(count: int, seed: int, data: st.DataObject) -> None:
    # Three and more filters: between the last two the norm decides.
    weight = normal(count + 1, 3, 3, 3, seed=seed)
    factors = torch.tensor(data.draw(st.lists(st.floats(0.01, 100), min_size=count + 1, max_size=count + 1)))
    expected = Cosine().scores(Layer("conv", weight))
    found = Cosine().scores(Layer("conv", weight * factors[:, None, None, None]))
    assert torch.equal(found.clamp(max=count - 1), expected.clamp(max=count - 1))


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_cosine_moves_with_the_channels_even_where_all_are_multiples(copies: int, seed: int) -> None:
    """Several filters, each in several sizes: ties everywhere, but all norms differ."""
    base = normal(3, 2, 3, 3, seed=seed)
    weight = torch.cat([base * factor for factor in range(1, copies + 1)])
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))
    scores = Cosine().scores(Layer("conv", weight))
    assert torch.equal(Cosine().scores(Layer("conv", weight[order])), scores[order])


def test_of_twins_only_one_goes_early() -> None:
    weight = normal(12, 3, 3, 3)
    weight[9] = weight[2]
    # The second closest pair: it is next, not the twin that stays.
    weight[5] = weight[7] + 0.5 * normal(3, 3, 3, seed=1)
    scores = Cosine().scores(Layer("conv", weight))
    assert scores[9] == 0, "equal in all but the index: the higher index goes"
    assert scores.argsort()[1] in (5, 7)
    assert scores[2] > 1


def test_the_twin_that_stays_is_judged_as_if_the_other_had_never_been() -> None:
    weight = normal(12, 3, 3, 3)
    weight[11] = weight[4]
    scores = Cosine().scores(Layer("conv", weight))
    assert torch.equal(scores[:11] - 1, Cosine().scores(Layer("conv", weight[:11])))


def test_of_scaled_twins_the_smaller_goes() -> None:
    weight = normal(8, 3, 3, 3)
    weight[1] = 0.25 * weight[6]
    assert Cosine().scores(Layer("conv", weight)).argmin() == 1


def test_opposite_and_zero_filters_are_not_redundant() -> None:
    opposite = conv([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    assert Cosine().scores(opposite).argmin() == 3
    zero = conv([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    assert Cosine().scores(zero).tolist() == [1.0, 0.0, 2.0]


def test_cosine_of_one_filter() -> None:
    assert Cosine().scores(conv([[1.0, 2.0]])).tolist() == [0.0]


def test_cosine_of_all_zero_filters_still_orders_them() -> None:
    assert Cosine().scores(conv([[0.0], [0.0], [0.0]])).tolist() == [2.0, 1.0, 0.0]


def test_cosine_takes_well_under_a_second_for_256_filters() -> None:
    layer = Layer("conv", normal(256, 64, 3, 3))
    start = time.process_time()
    scores = Cosine().scores(layer)
    # Loose on purpose: busy machines, processor time summed over threads.
    assert time.process_time() - start < 5
    assert sorted(scores.tolist()) == list(range(256))


# -- magnitude --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
def test_magnitude_matches_the_sum(order: int) -> None:
    layer = Layer("conv", normal(7, 3, 5, 5))
    expected = [norm(row, order) for row in layer.filters.numpy()]
    np.testing.assert_allclose(Magnitude(norm=order).scores(layer), expected, rtol=1e-14)


def test_magnitude_grows_with_the_filter_and_leaves_the_weight_alone() -> None:
    weight = normal(5, 2, 3, 3).requires_grad_()
    before = weight.detach().clone()
    scores = Magnitude().scores(Layer("conv", weight))
    torch.testing.assert_close(Magnitude().scores(Layer("conv", -3 * weight)), 3 * scores)
    assert torch.equal(weight, before)
    assert not scores.requires_grad


@pytest.mark.parametrize("value", [0, 3, 1.0, True, "1"])
def test_magnitude_knows_two_norms(value: object) -> None:
    with pytest.raises(ConfigError, match="norm must be a whole number from 1 to 2"):
        Magnitude(norm=value)  # type: ignore[arg-type]


# -- random -----------------------------------------------------------------------------------------------------------


def test_random_depends_on_seed_name_and_count_only() -> None:
    weight = normal(9, 2, 3, 3)
    scores = Random(seed=4).scores(Layer("conv1", weight))
    assert torch.equal(scores, Random(seed=4).scores(Layer("conv1", 0 * weight)))
    others = [
        Random(seed=5).scores(Layer("conv1", weight)),
        Random(seed=4).scores(Layer("conv2", weight)),
        Random(seed=4).scores(Layer("conv1", normal(10, 2, 3, 3)))[:9],
    ]
    assert not any(torch.equal(scores, other) for other in others)


def test_random_is_the_same_in_every_process() -> None:
    scores = Random(seed=0).scores(Layer("conv1", torch.zeros(3, 1, 1, 1)))
    # Recorded once: it is the hash and torch's CPU generator that must not change.
    np.testing.assert_allclose(scores, [0.5743092188564266, 0.7921712739339479, 0.6362505259509222], atol=1e-15)


def test_random_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    Random().scores(Layer("conv1", torch.zeros(3, 1, 1, 1)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_random_refuses_a_negative_seed() -> None:
    with pytest.raises(ConfigError, match="seed must be a whole number >= 0, got -1"):
        Random(seed=-1)
