"""No routing: every child gives each of J parents 1 / J of its vote."""

import torch

from tests.references.squash import SQUASHES
from tests.references.votes import Scalars, weighted_sum


def route(votes_BJIE: Scalars, *, iterations: int, gradient: str, squash: str) -> tuple[Scalars, Scalars]:
    """Poses [b][j][e] and coupling [b][j][i]; ``iterations`` and ``gradient`` have no effect."""
    poses, coupling = [], []
    for votes_JIE in votes_BJIE:
        share = torch.tensor(1 / len(votes_JIE), dtype=torch.float64)
        c = [[share for _ in votes_IE] for votes_IE in votes_JIE]
        poses.append([SQUASHES[squash](weighted_sum(votes_JIE[j], c[j])) for j in range(len(c))])
        coupling.append(c)
    return poses, coupling
