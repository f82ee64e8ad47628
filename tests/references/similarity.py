"""Cosine similarity, greedy elimination and filter norms, one pair and one number at a time."""

import math
from itertools import combinations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def similarity(a: Array, b: Array) -> float:
    """a.b / (|a| |b|), and 0 where one of them is zero."""
    dot = math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    norms = math.hypot(*map(float, a)) * math.hypot(*map(float, b))
    return dot / norms if norms else 0.0


def similarity_matrix(filters_OF: Array) -> Array:
    """Every pair of rows, the diagonal included."""
    count = len(filters_OF)
    matrix_OO = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            matrix_OO[i, j] = similarity(filters_OF[i], filters_OF[j])
    return matrix_OO


def elimination_order(filters_OF: Array) -> list[int]:
    """Indices in the order in which greedy elimination takes them; the survivor comes last.

    Takes the most similar pair, and of the two the one whose largest similarity to any third filter is larger.  Meant
    for filters without ties.
    """
    survivors, order = list(range(len(filters_OF))), []
    while len(survivors) > 2:
        pairs = {(i, j): similarity(filters_OF[i], filters_OF[j]) for i, j in combinations(survivors, 2)}
        pair = max(pairs, key=lambda key: pairs[key])
        nearest_third = []
        for member in pair:
            others = [similarity(filters_OF[member], filters_OF[k]) for k in survivors if k not in pair]
            nearest_third.append(max(others))
        gone = pair[0] if nearest_third[0] > nearest_third[1] else pair[1]
        survivors.remove(gone)
        order.append(gone)
    # No third filter is left to tell the last two apart: the smaller one goes.
    survivors.sort(key=lambda k: math.hypot(*map(float, filters_OF[k])))
    return order + survivors


def norm(values: Array, order: int) -> float:
    """(sum of |v|^order)^(1/order)."""
    return math.fsum(abs(float(value)) ** order for value in values) ** (1 / order)
