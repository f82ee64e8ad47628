"""Self-attention routing: Mazzia et al. (2021), with the Gram matrix written out."""

from torch import Tensor

from tests.references.squash import SQUASHES
from tests.references.votes import Scalars, agreement, weighted_sum


def route(
    votes_BJIE: Scalars,
    *,
    iterations: int,
    gradient: str,
    prior: bool,
    scale: str,
    squash: str,
    prior_JI: Scalars | None = None,
) -> tuple[Scalars, Scalars]:
    """Poses [b][j][e], and the coupling [b][j][i] without the prior; parents have as many components as a vote.

    ``iterations`` and ``gradient`` have no effect.
    """
    assert scale == "parents"
    routed = [_route(votes_JIE, squash, prior_JI if prior else None) for votes_JIE in votes_BJIE]
    return [poses for poses, _ in routed], [coupling for _, coupling in routed]


def _route(votes_JIE: Scalars, squash: str, prior_JI: Scalars | None) -> tuple[Scalars, Scalars]:
    parents, children = range(len(votes_JIE)), range(len(votes_JIE[0]))
    root = len(votes_JIE[0][0]) ** 0.5

    def logit(j: int, i: int) -> Tensor:
        gram_row = [agreement(votes_JIE[j][i], votes_JIE[j][k]) / root for k in children]
        return sum(gram_row)  # type: ignore[return-value]

    e = [[logit(j, i).exp() for i in children] for j in parents]
    c = [[e[j][i] / sum(e[k][i] for k in parents) for i in children] for j in parents]
    weights = c if prior_JI is None else [[c[j][i] + prior_JI[j][i] for i in children] for j in parents]
    return [SQUASHES[squash](weighted_sum(votes_JIE[j], weights[j])) for j in parents], c
