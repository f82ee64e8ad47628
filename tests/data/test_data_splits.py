import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsexp.data.splits import stratified

seeds = st.integers(0, 2**32 - 1)
shares = st.floats(0.01, 0.99)
labels = st.lists(st.integers(0, 4), min_size=1, max_size=200).map(lambda values: np.array(values, dtype=np.int64))


@given(labels, shares, seeds)
def test_the_two_parts_hold_every_index_once(labels_N, share, seed):
    kept, cut = stratified(labels_N, share, seed)
    assert np.array_equal(np.sort(np.concatenate([kept, cut])), np.arange(len(labels_N)))


@given(labels, shares, seeds)
def test_every_class_gives_its_share_to_within_one_image(labels_N, share, seed):
    kept, cut = stratified(labels_N, share, seed)
    for label in np.unique(labels_N):
        count = int((labels_N == label).sum())
        given_away = int((labels_N[cut] == label).sum())
        assert abs(given_away - share * count) <= 1
        assert given_away < count
        assert given_away > 0 or count == 1
    assert np.all(np.diff(kept) > 0)
    assert np.all(np.diff(cut) > 0)


@given(labels, shares, seeds)
def test_the_same_seed_cuts_the_same_images(labels_N, share, seed):
    first, second = stratified(labels_N, share, seed), stratified(labels_N.copy(), share, seed)
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_another_seed_cuts_other_images():
    labels_N = np.repeat(np.arange(10), 50)
    cuts = {stratified(labels_N, 0.1, seed)[1].tobytes() for seed in range(20)}
    assert len(cuts) == 20


def test_balanced_classes_give_exactly_their_share():
    labels_N = np.random.RandomState(0).permutation(np.repeat(np.arange(46), 1700))
    kept, cut = stratified(labels_N, 0.1, 0)
    assert np.array_equal(np.bincount(labels_N[cut]), np.full(46, 170))
    assert len(kept) == 46 * 1530


def test_the_division_is_the_same_on_any_machine_and_for_good():
    _, cut = stratified(np.arange(1000) % 7, 0.15, 3)
    digest = hashlib.sha256(cut.astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "1db8dc40b32feb3f"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_only_image_of_a_class_is_kept(share):
    kept, cut = stratified(np.array([0, 1, 1, 2]), share, 0)
    assert {0, 3} <= set(kept.tolist())
    assert len(cut) == 1
