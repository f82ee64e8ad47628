"""Dynamic routing: Sabour et al. (2017), procedure 1, image by image and pair by pair."""

import torch

from tests.references.squash import SQUASHES
from tests.references.votes import Scalars, agreement, weighted_sum


def route(votes_BJIE: Scalars, *, iterations: int, gradient: str, squash: str) -> tuple[Scalars, Scalars]:
    """Poses [b][j][e], and the coupling [b][j][i] that weighted them; the update behind them is left out."""
    routed = [_route(votes_JIE, iterations, gradient, squash) for votes_JIE in votes_BJIE]
    return [poses for poses, _ in routed], [coupling for _, coupling in routed]


def _route(votes_JIE: Scalars, iterations: int, gradient: str, squash: str) -> tuple[Scalars, Scalars]:
    parents, children = range(len(votes_JIE)), range(len(votes_JIE[0]))
    b = [[torch.zeros((), dtype=torch.float64) for _ in children] for _ in parents]
    for iteration in range(1, iterations + 1):
        c = [[b[j][i].exp() / sum(b[k][i].exp() for k in parents) for i in children] for j in parents]
        if iteration == iterations and gradient == "last":
            c = [[c[j][i].detach() for i in children] for j in parents]
        v = [SQUASHES[squash](weighted_sum(votes_JIE[j], c[j])) for j in parents]
        if iteration < iterations:
            b = [[b[j][i] + agreement(votes_JIE[j][i], v[j]) for i in children] for j in parents]
    return v, c
