"""Rank correlation with its bootstrap, and the t-interval of a mean."""

import math
import statistics
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

RESAMPLES = 2000
LEVEL = 0.95


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, equal values having the mean of their ranks.

    0 where one of the two does not vary, since there is nothing to rank.
    """
    return float(_correlation(_ranks(_codes(x)[None]), _ranks(_codes(y)[None]))[0])


def bootstrap(x: Sequence[float], y: Sequence[float], resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Percentile interval (95 %) of Spearman's rank correlation, over resamples of the pairs.

    Pairs are drawn with replacement, so a resample has ties even where the data have none; it is ranked anew, ties
    with the mean of their ranks.  A resample in which a column does not vary counts as 0.
    """
    drawn = np.random.default_rng(seed).integers(0, len(x), (resamples, len(x)))
    found = _correlation(_ranks(_codes(x)[drawn]), _ranks(_codes(y)[drawn]))
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's interval (95 %) of the mean; None for fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    half = float(special.stdtrit(count - 1, (1 + LEVEL) / 2)) * statistics.stdev(values) / math.sqrt(count)
    middle = statistics.fmean(values)
    return middle - half, middle + half


def _codes(values: Sequence[float]) -> Codes:
    """For each value the place of its size among the different ones: 0 is the smallest."""
    return np.unique(np.asarray(values, np.float64), return_inverse=True)[1].reshape(-1)


def _ranks(codes: Codes) -> Array:
    """Ranks within each row, from 1 on; equal codes have the mean of theirs."""
    rows, sizes = len(codes), int(codes.max()) + 1
    counts = np.bincount((codes + np.arange(rows)[:, None] * sizes).ravel(), minlength=rows * sizes)
    counts = counts.reshape(rows, sizes)
    ranks: Array = np.take_along_axis(np.cumsum(counts, 1) - (counts - 1) / 2, codes, 1)
    return ranks


def _correlation(a: Array, b: Array) -> Array:
    """Pearson's correlation of each row of ``a`` with that of ``b``; 0 where one does not vary."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    norms = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    found: Array = np.divide((a * b).sum(1), norms, out=np.zeros(len(a)), where=norms > 0)
    return np.clip(found, -1.0, 1.0)
