"""Optimised routing: Wang and Liu (2018), rounds of unit vectors and softmax, image by image."""

import torch

from tests.references.squash import length
from tests.references.votes import Scalars, agreement, weighted_sum


def route(votes_BJIE: Scalars, *, iterations: int, gradient: str, alpha: float) -> tuple[Scalars, Scalars]:
    """Poses [b][j][e], and the coupling [b][j][i] of the last sum."""
    routed = [_route(votes_JIE, iterations, gradient, alpha) for votes_JIE in votes_BJIE]
    return [poses for poses, _ in routed], [coupling for _, coupling in routed]


def _route(votes_JIE: Scalars, iterations: int, gradient: str, alpha: float) -> tuple[Scalars, Scalars]:
    parents, children = range(len(votes_JIE)), range(len(votes_JIE[0]))
    c: Scalars = [[torch.tensor(1 / len(votes_JIE), dtype=torch.float64) for _ in children] for _ in parents]
    for _ in range(iterations - 1):
        sums = [weighted_sum(votes_JIE[j], c[j]) for j in parents]
        units = [[x / length(sums[j]) for x in sums[j]] for j in parents]
        e = [[(agreement(votes_JIE[j][i], units[j]) / alpha).exp() for i in children] for j in parents]
        c = [[e[j][i] / sum(e[k][i] for k in parents) for i in children] for j in parents]
    if gradient == "last":
        c = [[c[j][i].detach() for i in children] for j in parents]
    poses = [[x / (1 + max(c[j])) for x in weighted_sum(votes_JIE[j], c[j])] for j in parents]
    return poses, c
