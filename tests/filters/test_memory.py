from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from capsexp.filters.memory import ColumnSample, Scores, earlier_alike


def passing(images: int, classes: int = 3, children: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(images)
    labels_N = torch.randint(classes, (images,), generator=generator)
    return torch.rand(images, children, generator=generator), labels_N


def fed(store: Any, values: Tensor, labels_N: Tensor, cuts: list[int]) -> Any:
    for pair in zip(values.tensor_split(cuts), labels_N.tensor_split(cuts), strict=True):
        store.add(*pair)
    return store


def cuts(images: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, images), max_size=6).map(sorted)


@given(st.lists(st.integers(0, 4), max_size=30))
def test_counts_the_earlier_ones_of_a_class(labels: list[int]) -> None:
    expected = [labels[:place].count(label) for place, label in enumerate(labels)]
    assert earlier_alike(torch.tensor(labels, dtype=torch.int64), 5).tolist() == expected


@settings(deadline=None)
@given(images=st.integers(0, 40), size=st.integers(1, 12), data=st.data())
def test_the_sample_holds_the_smallest_numbers_of_a_class_however_it_is_cut(
    images: int, size: int, data: st.DataObject
) -> None:
    columns_NI, labels_N = passing(images)
    sample = fed(ColumnSample(3, 4, size, seed=11), columns_NI, labels_N, data.draw(cuts(images)))
    numbers_N = np.random.default_rng(11).random(images)
    for label in range(3):
        own = sorted((numbers_N[image], image) for image in range(images) if labels_N[image] == label)[:size]
        assert np.array_equal(sample.of(label), columns_NI[[image for _, image in own]].double().numpy())


def test_every_column_is_as_likely_as_another() -> None:
    columns_N1, labels_N = torch.arange(20.0)[:, None], torch.zeros(20, dtype=torch.int64)
    counts_N = np.zeros(20)
    for seed in range(800):
        counts_N[fed(ColumnSample(1, 1, 5, seed), columns_N1, labels_N, [7, 12]).of(0)[:, 0].astype(int)] += 1
    assert counts_N.sum() == 800 * 5
    assert np.abs(counts_N - 200).max() < 5 * (800 * 0.25 * 0.75) ** 0.5


def test_another_seed_is_another_sample() -> None:
    data = passing(200)
    first, again, other = (fed(ColumnSample(3, 4, 10, seed), *data, [50]).of(0) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("chosen", [[], [30, 30, 31], [1, 2, 3]])
def test_scores_come_back_class_by_class(chosen: list[int]) -> None:
    columns_NI, labels_N = passing(60)
    scores_N = columns_NI[:, 0]
    scores = fed(Scores(labels_N.bincount(minlength=5)), scores_N, labels_N, chosen)
    for label in range(5):
        assert torch.equal(scores.of(label), scores_N[labels_N == label].double())
