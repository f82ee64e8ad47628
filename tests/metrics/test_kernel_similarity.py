import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.metrics.kernel_similarity import (
    KernelSimilarity,
    Pair,
    cosine_similarity,
    flatten_filters,
    most_similar_pair,
)
from tests.references.similarity import similarity_matrix

shapes = st.tuples(st.integers(2, 9), st.integers(2, 12), st.integers(0, 2**32 - 1))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("count", "size"), [(1, 5), (2, 1), (7, 49), (16, 150), (40, 3)])
def test_matches_the_nested_loops(count: int, size: int) -> None:
    filters_OF = normal(count, size)
    np.testing.assert_allclose(cosine_similarity(filters_OF), similarity_matrix(filters_OF.numpy()), atol=1e-14)


def test_is_computed_in_float64_whatever_comes_in() -> None:
    filters_OF = normal(6, 20).to(torch.bfloat16)
    expected = similarity_matrix(filters_OF.double().numpy())
    found = cosine_similarity(filters_OF)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, atol=1e-14)


@given(shapes)
@settings(deadline=None, max_examples=40)
def test_is_symmetric_and_bounded(shape: tuple[int, int, int]) -> None:
    similarity_OO = cosine_similarity(normal(shape[0], shape[1], seed=shape[2]))
    assert torch.equal(similarity_OO, similarity_OO.T)
    assert similarity_OO.abs().max() <= 1.0


@given(shapes, st.data())
@settings(deadline=None, max_examples=40)
def test_positive_factors_change_nothing_and_a_negative_one_turns_the_sign(
    shape: tuple[int, int, int], data: st.DataObject
) -> None:
    filters_OF = normal(shape[0], shape[1], seed=shape[2])
    factors = data.draw(st.lists(st.floats(1e-20, 1e20), min_size=shape[0], max_size=shape[0]))
    scaled_OF = filters_OF * torch.tensor(factors, dtype=torch.float64)[:, None]
    expected_OO = cosine_similarity(filters_OF)
    torch.testing.assert_close(cosine_similarity(scaled_OF), expected_OO, rtol=0, atol=1e-12)
    scaled_OF[0] *= -1
    torch.testing.assert_close(cosine_similarity(scaled_OF)[0, 1:], -expected_OO[0, 1:], rtol=0, atol=1e-12)


@given(shapes)
@settings(deadline=None, max_examples=40)
def test_permuting_the_filters_permutes_rows_and_columns(shape: tuple[int, int, int]) -> None:
    filters_OF = normal(shape[0], shape[1], seed=shape[2])
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(shape[2]))
    expected_OO = cosine_similarity(filters_OF)[order][:, order]
    torch.testing.assert_close(cosine_similarity(filters_OF[order]), expected_OO, rtol=0, atol=1e-14)


def test_a_zero_filter_has_similarity_zero_even_to_itself() -> None:
    filters_OF = normal(4, 5)
    filters_OF[2] = 0
    similarity_OO = cosine_similarity(filters_OF)
    assert (similarity_OO[2] == 0).all()
    assert (similarity_OO[:, 2] == 0).all()
    assert similarity_OO[0, 1] != 0


def test_gradient_is_finite_beside_a_zero_filter() -> None:
    filters_OF = normal(4, 5)
    filters_OF[2] = 0
    cosine_similarity(filters_OF.requires_grad_()).sum().backward()
    assert filters_OF.grad is not None
    assert filters_OF.grad.isfinite().all()


def test_most_similar_pair() -> None:
    filters_OF = normal(9, 30)
    filters_OF[7] = 2.5 * filters_OF[3] + 0.01 * normal(30, seed=1)
    pair = most_similar_pair(filters_OF)
    assert pair[:2] == (3, 7)
    assert pair.similarity == pytest.approx(similarity_matrix(filters_OF.numpy())[3, 7], abs=1e-14)


def test_of_equal_pairs_the_first_is_given() -> None:
    assert most_similar_pair(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])) == Pair(0, 2, 1.0)
    assert most_similar_pair(torch.zeros(3, 2)) == Pair(0, 1, 0.0)


def test_one_filter_makes_no_pair() -> None:
    with pytest.raises(ConfigError, match="at least two filters, got 1"):
        most_similar_pair(torch.ones(1, 4))


def test_flattening() -> None:
    weight = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert torch.equal(flatten_filters(weight), weight.reshape(2, 60))
    assert flatten_filters(torch.ones(3, 7)).shape == (3, 7)
    with pytest.raises(ConfigError, match=r"weight must have the shape \(filters, ...\), got \(3,\)"):
        flatten_filters(torch.ones(3))


def largest(weight: Tensor) -> float:
    matrix_OO = similarity_matrix(weight.flatten(1).double().numpy())
    return float(matrix_OO[~np.eye(len(matrix_OO), dtype=bool)].max())


def test_metric_keeps_the_largest_until_reset() -> None:
    metric = KernelSimilarity()
    weights = [normal(6, 2, 3, 3, seed=seed).float() for seed in range(3)]
    for weight in weights:
        metric.update(weight)
    expected = max(map(largest, weights))
    assert metric.compute().max.item() == pytest.approx(expected, abs=1e-14)
    assert metric.compute().min_distance.item() == pytest.approx(1 - expected, abs=1e-14)

    metric.reset()
    metric.update(weights[0])
    assert metric.compute().max.item() == pytest.approx(largest(weights[0]), abs=1e-14)


def test_metric_may_be_negative() -> None:
    metric = KernelSimilarity()
    metric.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    assert [value.item() for value in metric.compute()] == [-1.0, 2.0]


def test_metric_without_a_pair_is_nan() -> None:
    metric = KernelSimilarity()
    metric.update(torch.ones(1, 2, 3, 3))
    assert all(math.isnan(value) for value in metric.compute())


def test_metric_of_a_diverged_layer_is_nan() -> None:
    metric = KernelSimilarity()
    metric.update(torch.tensor([[1.0, 0.0], [math.nan, 0.0], [0.5, 1.0]]))
    metric.update(normal(3, 2))
    assert metric.compute().max.isnan()


def test_metric_reads_a_parameter_without_holding_its_graph() -> None:
    metric = KernelSimilarity()
    metric.update(torch.nn.Conv2d(3, 6, 3).weight)
    assert not metric.compute().max.requires_grad


def test_forward_gives_the_value_of_this_call_and_keeps_the_largest() -> None:
    metric = KernelSimilarity()
    close, far = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert metric(close).max == 1.0
    assert metric(far).max == 0.0
    assert metric.compute().max == 1.0


def test_two_devices_combine_by_the_larger() -> None:
    first, second = KernelSimilarity(), KernelSimilarity()
    first.update(normal(6, 4))
    second.update(normal(6, 4, seed=1))
    first.merge_state(second)
    expected = max(largest(normal(6, 4)), largest(normal(6, 4, seed=1)))
    assert first.compute().max.item() == pytest.approx(expected, abs=1e-14)
