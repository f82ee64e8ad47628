"""Inverted dot-product attention: Tsai et al. (2020), image by image, in both forms."""

import torch

from tests.references.votes import Scalars, agreement, vote, weighted_sum


def route(votes_BJIE: Scalars, *, iterations: int, gradient: str, **norm: Scalars) -> tuple[Scalars, Scalars]:
    """Poses [b][j][e], and the coupling [b][j][i] of the last round."""
    gain, shift = norm["finish.weight"], norm["finish.bias"]
    routed = [_route(votes_JIE, iterations, gradient, gain, shift) for votes_JIE in votes_BJIE]
    return [poses for poses, _ in routed], [coupling for _, coupling in routed]


def _route(
    votes_JIE: Scalars, iterations: int, gradient: str, gain: Scalars, shift: Scalars
) -> tuple[Scalars, Scalars]:
    p, c = None, []
    for iteration in range(1, iterations + 1):
        constant = iteration == iterations and gradient == "last"
        p, c = _round(votes_JIE, p, gain, shift, constant=constant)
    return p or [], c


def concurrent(
    first_ID: Scalars,
    layers: list[tuple[list[dict[int, int]], Scalars, Scalars, Scalars]],
    *,
    iterations: int,
    gradient: str,
) -> list[list[Scalars]]:
    """The poses [place][j][e] of every layer of a network, after each round, for one image.

    Args:
        first_ID: poses of the first layer's children.
        layers: of each layer: for each of its places, the number of the child at each position of the window that has
            one; the weight [j][position][e][d], gain and shift.
        iterations: number of rounds; the first goes from layer to layer.
        gradient: ``last`` for couplings that are constants.
    """

    def routed(number: int, below: Scalars, own: Scalars | None) -> Scalars:
        places, weight_JIED, gain, shift = layers[number]
        found = []
        for place, window in enumerate(places):
            votes_JIE = [[vote(below[i], each[position]) for position, i in window.items()] for each in weight_JIED]
            before = None if own is None else own[place]
            found.append(_round(votes_JIE, before, gain, shift, constant=gradient == "last")[0])
        return found

    def listed(poses: Scalars) -> Scalars:
        """Type by type, as the children of the next layer are numbered."""
        return [each[j] for j in range(len(poses[0])) for each in poses]

    made: list[Scalars] = []
    for number in range(len(layers)):
        made.append(routed(number, listed(made[-1]) if made else first_ID, None))
    rounds = [made]
    for _ in range(iterations - 1):
        before = rounds[-1]
        below = [first_ID, *(listed(poses) for poses in before)]
        rounds.append([routed(number, below[number], before[number]) for number in range(len(layers))])
    return rounds


def _round(
    votes_JIE: Scalars, p: Scalars | None, gain: Scalars, shift: Scalars, *, constant: bool
) -> tuple[Scalars, Scalars]:
    """Poses and couplings from the parents' poses before, which are zero at first."""
    parents, children = range(len(votes_JIE)), range(len(votes_JIE[0]))
    components = len(votes_JIE[0][0])
    if p is None:
        p = [[torch.zeros((), dtype=torch.float64) for _ in range(components)] for _ in parents]
    e = [[(agreement(votes_JIE[j][i], p[j]) / components**0.5).exp() for i in children] for j in parents]
    c = [[e[j][i] / sum(e[k][i] for k in parents) for i in children] for j in parents]
    if constant:
        c = [[c[j][i].detach() for i in children] for j in parents]
    return [_normalised(weighted_sum(votes_JIE[j], c[j]), gain, shift) for j in parents], c


def _normalised(pose: Scalars, gain: Scalars, shift: Scalars) -> Scalars:
    """Layer normalisation: mean 0, variance 1 (with 1e-5 added), then gain and shift."""
    mean = sum(pose) / len(pose)
    variance = sum((x - mean) ** 2 for x in pose) / len(pose)
    return [(x - mean) / (variance + 1e-5) ** 0.5 * g + s for x, g, s in zip(pose, gain, shift, strict=True)]
