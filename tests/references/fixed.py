"""Routing by a given matrix: Zhao et al. (2019), Fast Routing Procedure."""

from tests.references.squash import SQUASHES
from tests.references.votes import Scalars, weighted_sum


def route(votes_BJIE: Scalars, *, coupling_JI: Scalars, squash: str, coupling: None = None) -> tuple[Scalars, Scalars]:
    """Poses [b][j][e] and coupling [b][j][i]; ``coupling`` is the option that names the matrix's file."""
    poses = []
    for votes_JIE in votes_BJIE:
        parents = range(len(votes_JIE))
        poses.append([SQUASHES[squash](weighted_sum(votes_JIE[j], coupling_JI[j])) for j in parents])
    return poses, [coupling_JI for _ in votes_BJIE]
