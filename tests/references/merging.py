"""Partners of removed channels and the weights behind them, one pair and one number at a time."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tests.references.similarity import similarity

Array = npt.NDArray[np.float64]
Into = dict[int, tuple[int, float]]


def as_used(weight_OCHW: Array, gamma_O: Array, variance_O: Array, eps: float) -> Array:
    """Filters with the scale of the batch normalisation behind them."""
    found = np.zeros(weight_OCHW.shape)
    for o, c, y, x in np.ndindex(*weight_OCHW.shape):
        found[o, c, y, x] = weight_OCHW[o, c, y, x] * gamma_O[o] / math.sqrt(variance_O[o] + eps)
    return found


def partners(filters_OCHW: Array, kept: Sequence[int]) -> Into:
    """The most similar survivor of each filter that goes, and the least squares ratio."""
    rows = [filters_OCHW[o].ravel() for o in range(len(filters_OCHW))]
    largest = max(math.hypot(*map(float, row)) for row in rows)
    found: Into = {}
    for gone, row in enumerate(rows):
        best, partner = 0.0, None
        for stays in sorted(kept):
            if gone in kept or any(math.hypot(*map(float, each)) <= 1e-6 * largest for each in (row, rows[stays])):
                continue
            alike = round(similarity(row, rows[stays]), 12)
            if alike > best:
                best, partner = alike, stays
        if partner is not None:
            products = [(float(a) * float(b), float(b) * float(b)) for a, b in zip(row, rows[partner], strict=True)]
            found[gone] = (partner, math.fsum(p for p, _ in products) / math.fsum(q for _, q in products))
    return found


def folded(weight: Array, places: int, into: Mapping[int, tuple[int, float]]) -> Array:
    """A reader's weight (outputs, inputs, ...): each partner's inputs with those that it takes over."""
    found = weight.copy()
    for output in range(weight.shape[0]):
        for gone, (partner, ratio) in into.items():
            for place in range(places):
                source, target = gone * places + place, partner * places + place
                for where in np.ndindex(*weight.shape[2:]):
                    found[(output, target, *where)] += ratio * weight[(output, source, *where)]
    return found
