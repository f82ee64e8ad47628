"""Streaming metrics of couplings against loops over images that are all kept."""

import itertools
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import Metric

from capsexp.metrics.coupling import (
    ClassMean,
    ColumnCorrelation,
    FirstColumns,
    MeanCoupling,
    ground_truth_columns,
    intra_inter,
    standardised,
)
from tests.references import accumulation as reference

K, I = 4, 6  # noqa: E741 - the legend's letter for children


@dataclass(frozen=True)
class Images:
    """What every image of a data set gave, float32 as a network gives it."""

    couplings_NJI: Tensor
    labels_N: Tensor
    mask_NI: Tensor
    lengths_NK: Tensor

    @property
    def columns(self) -> Tensor:
        return ground_truth_columns(self.couplings_NJI, self.labels_N)

    def at(self, index: Any) -> "Images":
        return Images(self.couplings_NJI[index], self.labels_N[index], self.mask_NI[index], self.lengths_NK[index])


def images(count: int, seed: int = 0, classes: int = K) -> Images:
    random = np.random.RandomState(seed)
    couplings = random.rand(count, K, I)
    for n in np.flatnonzero(random.rand(count) < 0.15):
        couplings[n, random.randint(K)] = random.rand()  # a column whose numbers are all alike
    labels = random.randint(classes, size=count)
    mask = random.rand(count, I) < 0.7
    tensors = (torch.from_numpy(each).float() for each in (couplings, random.rand(count, K)))
    coupling, lengths = tensors
    return Images(coupling, torch.from_numpy(labels), torch.from_numpy(mask), lengths)


def numpy64(tensor: Tensor) -> np.ndarray:
    return tensor.double().numpy()


def mean_with_mask(metric: Any, each: Images) -> None:
    metric.update(each.couplings_NJI, each.mask_NI)


def mean_without_mask(metric: Any, each: Images) -> None:
    metric.update(each.couplings_NJI)


Case = tuple[Callable[[], Metric], Callable[[Any, Images], None], Callable[[Images], np.ndarray]]

CASES: dict[str, Case] = {
    "class couplings": (
        lambda: ClassMean(K, K, I),
        lambda metric, each: metric.update(each.couplings_NJI, each.labels_N),
        lambda each: reference.containers(numpy64(each.couplings_NJI), each.labels_N.numpy(), K),
    ),
    "mean": (
        lambda: MeanCoupling(K, I),
        mean_without_mask,
        lambda each: reference.mean_coupling(numpy64(each.couplings_NJI)),
    ),
    "masked mean": (
        lambda: MeanCoupling(K, I),
        mean_with_mask,
        lambda each: reference.mean_coupling(numpy64(each.couplings_NJI), each.mask_NI.numpy()),
    ),
    "correlation": (
        lambda: ColumnCorrelation(K, I),
        lambda metric, each: metric.update(each.columns, each.labels_N),
        lambda each: reference.class_correlation(numpy64(each.columns), each.labels_N.numpy(), K),
    ),
    "responses": (
        lambda: ClassMean(K, K),
        lambda metric, each: metric.update(each.lengths_NK, each.labels_N),
        lambda each: reference.class_responses(numpy64(each.lengths_NK), each.labels_N.numpy()),
    ),
}

some_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def computed(case: Case, batches: Sequence[Images]) -> np.ndarray:
    make, update, _ = case
    metric = make()
    for batch in batches:
        update(metric, batch)
    result = metric.compute()
    assert result.dtype == torch.float64
    return result.numpy()


def cut(whole: Images, places: Sequence[int]) -> list[Images]:
    ends = [0, *sorted(places), len(whole.labels_N)]
    return [whole.at(slice(start, end)) for start, end in itertools.pairwise(ends) if end > start]


@some_case
@given(st.integers(1, 14), st.integers(0, 10**6), st.integers(1, K))
@settings(max_examples=12, deadline=None)
def test_equals_loops_over_stored_images(case: Case, count: int, seed: int, classes: int) -> None:
    whole = images(count, seed, classes)
    np.testing.assert_allclose(computed(case, [whole]), case[2](whole), rtol=0, atol=1e-12)


@some_case
@given(st.data())
@settings(max_examples=20, deadline=None)
def test_batches_and_order_change_nothing(case: Case, data: st.DataObject) -> None:
    whole = images(40, data.draw(st.integers(0, 10**6)))
    expected = computed(case, [whole])
    assert np.isfinite(expected).mean() > 0.5
    places = data.draw(st.lists(st.integers(1, 39), unique=True, max_size=39))
    np.testing.assert_allclose(computed(case, cut(whole, places)), expected, rtol=0, atol=1e-12)
    shuffled = whole.at(torch.tensor(data.draw(st.permutations(range(40)))))
    np.testing.assert_allclose(computed(case, cut(shuffled, places)), expected, rtol=0, atol=1e-12)


@some_case
def test_what_is_kept_does_not_grow(case: Case) -> None:
    make, update, _ = case
    sizes = []
    for rounds in (1, 40):
        metric = make()
        for seed in range(rounds):
            update(metric, images(50, seed))
        metric.compute()
        sizes.append(len(pickle.dumps(metric)))
    assert sizes[1] - sizes[0] < 64


# -- correlations ------------------------------------------------------------------------------------------------------


def correlation_of(columns_NI: Tensor, labels_N: Tensor, classes: int = K) -> ColumnCorrelation:
    metric = ColumnCorrelation(classes, columns_NI.shape[1])
    metric.update(columns_NI, labels_N)
    return metric


def test_an_image_is_not_paired_with_itself() -> None:
    columns_NI = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 4.0, 6.0]])
    found_KK = correlation_of(columns_NI, torch.tensor([0, 0, 1, 1]), 2).compute()
    np.testing.assert_allclose(found_KK.numpy(), [[-1, 0], [0, 1]], atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, 1e-30, 1e30])
def test_columns_that_are_constant_correlate_with_nothing(value: float) -> None:
    columns_NI = torch.rand(5, 72, generator=torch.Generator().manual_seed(0))
    columns_NI[1] = columns_NI[3] = value
    labels_N = torch.tensor([0, 0, 0, 1, 1])
    found_KK = correlation_of(columns_NI, labels_N, 2).compute().numpy()
    expected_KK = reference.class_correlation(numpy64(columns_NI), labels_N.numpy(), 2)
    np.testing.assert_allclose(found_KK, expected_KK, rtol=0, atol=1e-12)
    assert found_KK[1, 1] == 0


def test_constant_but_for_the_last_digit_counts_as_constant() -> None:
    column_I = torch.full((72,), 0.1)
    column_I[::2] = torch.nextafter(column_I[::2], torch.tensor(1.0))
    assert not standardised(column_I[None]).any()


def test_small_differences_are_no_noise() -> None:
    columns_NI = 1 + 1e-4 * torch.randn(6, 72, generator=torch.Generator().manual_seed(0))
    labels_N = torch.tensor([0, 0, 0, 1, 1, 1])
    expected_KK = reference.class_correlation(numpy64(columns_NI), labels_N.numpy(), 2)
    found_KK = correlation_of(columns_NI, labels_N, 2).compute().numpy()
    np.testing.assert_allclose(found_KK, expected_KK, rtol=0, atol=1e-10)
    assert np.abs(found_KK).min() > 1e-4


def test_a_class_of_one_image_has_no_pair() -> None:
    """Whatever the rounding of its sums: neither infinite nor a number."""
    for seed, children in itertools.product(range(40), (7, 72)):
        columns_NI = torch.rand(3, children, generator=torch.Generator().manual_seed(seed))
        found_KK = correlation_of(columns_NI, torch.tensor([0, 1, 1]), 3).compute()
        assert found_KK.isnan().tolist() == [[True, False, True], [False, False, True], [True, True, True]]
        assert not found_KK.isinf().any()


@given(st.integers(1, 12), st.integers(0, 10**6), st.lists(st.integers(1, 11), unique=True))
@settings(max_examples=15, deadline=None)
def test_the_master_against_every_image(count: int, seed: int, places: list[int]) -> None:
    whole = images(count, seed)
    master_JI = torch.from_numpy(np.random.RandomState(seed).rand(K, I)).float()
    metric = ColumnCorrelation(K, I)
    for batch in cut(whole, [place for place in places if place < count]):
        metric.update(batch.columns, batch.labels_N)
    expected = reference.master_correlation(numpy64(master_JI), numpy64(whole.columns), whole.labels_N.numpy())
    found_JK = metric.with_master(master_JI).numpy()
    np.testing.assert_allclose(found_JK, expected, rtol=0, atol=1e-12)


def test_the_masters_rows_and_the_classes_are_not_mixed_up() -> None:
    up, down, hill = [1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [0.0, 1.0, 0.0]
    metric = correlation_of(torch.tensor([up, down]), torch.tensor([0, 1]), 2)
    found_JK = metric.with_master(torch.tensor([up, hill]))
    np.testing.assert_allclose(found_JK.numpy(), [[1, -1], [0, 0]], atol=1e-12)


@pytest.mark.parametrize("cuts", [(), (3,), (1, 2, 5, 9), range(1, 14)])
@pytest.mark.parametrize("wanted", [2, 5, 14, 30])
def test_the_first_images(wanted: int, cuts: Sequence[int]) -> None:
    whole = images(14, 3)
    metric = FirstColumns(wanted, I)
    for batch in cut(whole, list(cuts)):
        metric.update(batch.columns, batch.labels_N)
    correlation_NN, labels_N = metric.compute()
    assert labels_N.dtype == torch.int64
    assert labels_N.tolist() == whole.labels_N[:wanted].tolist()
    expected = reference.image_correlation(numpy64(whole.columns)[:wanted])
    np.testing.assert_allclose(correlation_NN.numpy(), expected, rtol=0, atol=1e-12)


def test_the_first_images_take_no_more_room_than_they_need() -> None:
    sizes = []
    for rounds in (1, 40):
        metric = FirstColumns(20, I)
        for seed in range(rounds):
            metric.update(images(50, seed).columns, images(50, seed).labels_N)
        sizes.append(len(pickle.dumps(metric)))
    assert sizes[1] - sizes[0] < 64


@given(st.integers(1, 5), st.integers(0, 10**6), st.floats(0, 0.6))
@settings(max_examples=40, deadline=None)
def test_means_within_and_between_classes(classes: int, seed: int, missing: float) -> None:
    random = np.random.RandomState(seed)
    matrix_KK = random.randn(classes, classes)
    matrix_KK[random.rand(classes, classes) < missing] = np.nan
    found = intra_inter(torch.from_numpy(matrix_KK))
    np.testing.assert_allclose([found.intra, found.inter], reference.intra_inter(matrix_KK), rtol=0, atol=1e-12)


# -- couplings ---------------------------------------------------------------------------------------------------------


def test_ground_truth_columns_are_those_of_the_own_class() -> None:
    whole = images(9)
    expected = reference.ground_truth(numpy64(whole.couplings_NJI), whole.labels_N.numpy())
    assert np.array_equal(numpy64(ground_truth_columns(whole.couplings_NJI, whole.labels_N)), expected)


def test_a_child_that_is_nowhere_has_no_mean() -> None:
    whole = images(9)
    mask_NI = whole.mask_NI.clone()
    mask_NI[:, 2] = False
    metric = MeanCoupling(K, I)
    metric.update(whole.couplings_NJI, mask_NI)
    assert metric.compute().isnan().any(0).tolist() == [i == 2 for i in range(I)]


def test_masked_and_unmasked_batches_add_up() -> None:
    whole = images(10)
    metric = MeanCoupling(K, I)
    metric.update(whole.couplings_NJI[:4])
    metric.update(whole.couplings_NJI[4:], whole.mask_NI[4:])
    mask_NI = np.concatenate([np.ones((4, I), bool), whole.mask_NI[4:].numpy()])
    expected = reference.mean_coupling(numpy64(whole.couplings_NJI), mask_NI)
    np.testing.assert_allclose(metric.compute().numpy(), expected, rtol=0, atol=1e-12)


def test_a_class_mean_of_kept_images_is_bit_by_bit_that_of_them_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    values, labels_B = torch.rand(50, K, I, generator=generator), torch.randint(K, (50,), generator=generator)
    values[7] = torch.inf
    kept_B = torch.rand(50, generator=generator) < 0.6
    kept_B[7] = False
    masked, picked = ClassMean(K, K, I), ClassMean(K, K, I)
    masked.update(values, labels_B, kept_B)
    picked.update(values[kept_B], labels_B[kept_B])
    assert torch.equal(masked.sums, picked.sums)
    assert torch.equal(masked.counts_K, picked.counts_K)
