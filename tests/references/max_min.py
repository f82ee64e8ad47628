"""Max-min routing: Zhao et al. (2019), Max-Min Routing Procedure with equation (2), image by image."""

import torch
from torch import Tensor

from tests.references.squash import SQUASHES
from tests.references.votes import Scalars, agreement, weighted_sum


def route(
    votes_BJIE: Scalars, *, iterations: int, gradient: str, lower: float, upper: float, squash: str
) -> tuple[Scalars, Scalars]:
    """Poses [b][j][e], and the coupling [b][j][i] that weighted them; the update behind them is left out."""
    poses, coupling = [], []
    for votes_JIE in votes_BJIE:
        parents, children = range(len(votes_JIE)), range(len(votes_JIE[0]))
        b = [[torch.zeros((), dtype=torch.float64) for _ in children] for _ in parents]
        c = [[torch.ones((), dtype=torch.float64) for _ in children] for _ in parents]
        v: Scalars = []
        for iteration in range(1, iterations + 1):
            if iteration == iterations and gradient == "last":
                c = [[c[j][i].detach() for i in children] for j in parents]
            v = [SQUASHES[squash](weighted_sum(votes_JIE[j], c[j])) for j in parents]
            if iteration < iterations:
                b = [[b[j][i] + agreement(votes_JIE[j][i], v[j]) for i in children] for j in parents]
                over_parents = [_scaled([b[j][i] for j in parents], lower, upper) for i in children]
                c = [[over_parents[i][j] for i in children] for j in parents]
        poses.append(v)
        coupling.append(c)
    return poses, coupling


def _scaled(b_J: list[Tensor], p: float, q: float) -> list[Tensor]:
    """Equation (2) for one child: p + (b - min) / (max - min) * (q - p), and q for all where no parent differs."""
    least, most = min(b_J), max(b_J)
    if most == least:
        return [torch.full_like(b, q) for b in b_J]
    return [p + (b - least) / (most - least) * (q - p) for b in b_J]
