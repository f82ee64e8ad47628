"""Inverted dot-product attention: Tsai et al. (2020), image by image."""

import torch

from tests.references.votes import Scalars, agreement, weighted_sum


def route(votes_BJIE: Scalars, *, iterations: int, gradient: str, **norm: Scalars) -> tuple[Scalars, Scalars]:
    """Poses [b][j][e], and the coupling [b][j][i] of the last round."""
    gain, shift = norm["finish.weight"], norm["finish.bias"]
    routed = [_route(votes_JIE, iterations, gradient, gain, shift) for votes_JIE in votes_BJIE]
    return [poses for poses, _ in routed], [coupling for _, coupling in routed]


def _route(
    votes_JIE: Scalars, iterations: int, gradient: str, gain: Scalars, shift: Scalars
) -> tuple[Scalars, Scalars]:
    parents, children = range(len(votes_JIE)), range(len(votes_JIE[0]))
    components = len(votes_JIE[0][0])
    p = [[torch.zeros((), dtype=torch.float64) for _ in range(components)] for _ in parents]
    c: Scalars = []
    for iteration in range(1, iterations + 1):
        e = [[(agreement(votes_JIE[j][i], p[j]) / components**0.5).exp() for i in children] for j in parents]
        c = [[e[j][i] / sum(e[k][i] for k in parents) for i in children] for j in parents]
        if iteration == iterations and gradient == "last":
            c = [[c[j][i].detach() for i in children] for j in parents]
        p = [_normalised(weighted_sum(votes_JIE[j], c[j]), gain, shift) for j in parents]
    return p, c


def _normalised(pose: Scalars, gain: Scalars, shift: Scalars) -> Scalars:
    """Layer normalisation: mean 0, variance 1 (with 1e-5 added), then gain and shift."""
    mean = sum(pose) / len(pose)
    variance = sum((x - mean) ** 2 for x in pose) / len(pose)
    return [(x - mean) / (variance + 1e-5) ** 0.5 * g + s for x, g, s in zip(pose, gain, shift, strict=True)]
