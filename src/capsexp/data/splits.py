"""Splits of the images, class by class."""

import numpy as np
from numpy.typing import NDArray

TEST_SHARE = 0.15
"""Share of the test part where no split was published (Wang 2019 splits 85/15)."""


def stratified(labels_N: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split the indices 0..N-1 so that the same share of each class is cut off.

    Args:
        labels_N: int64 (N,), 0..K-1.
        share: share of each class to cut off, between 0 and 1.  It is rounded to whole images, but at least one image
            of every class is cut off and at least one is kept; the only image of a class is kept.
        seed: 0..2^32-1; the choice of images depends on nothing else.

    Returns:
        The kept indices and the indices that are cut off, both ascending.
    """
    # The streams of RandomState are frozen; those of numpy's newer generators may change between releases.
    order = np.random.RandomState(seed).permutation(len(labels_N))
    order = order[np.argsort(labels_N[order], kind="stable")]
    counts = np.bincount(labels_N)
    rank_in_class = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    wanted = np.minimum(np.maximum(np.floor(share * counts + 0.5), 1), counts - 1)
    is_cut = rank_in_class < np.repeat(wanted, counts)
    return np.sort(order[~is_cut]), np.sort(order[is_cut])
