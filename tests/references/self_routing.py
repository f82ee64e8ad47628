"""Self-routing: Hahn et al. (2019), child by child."""

from tests.references.votes import Scalars, agreement


def route(
    votes_BJIE: Scalars,
    *,
    iterations: int,
    gradient: str,
    activations_BI: Scalars,
    poses_BID: Scalars,
    weight_JDI: Scalars,
    bias_JI: Scalars,
) -> tuple[Scalars, Scalars, Scalars]:
    """Poses [b][j][e], activations [b][j] and the coupling [b][j][i]; the first two arguments have no effect."""
    parents, children = range(len(bias_JI)), range(len(bias_JI[0]))
    found: tuple[Scalars, Scalars, Scalars] = ([], [], [])
    for votes_JIE, a, u in zip(votes_BJIE, activations_BI, poses_BID, strict=True):
        rows = [[[weight_JDI[j][d][i] for d in range(len(u[i]))] for i in children] for j in parents]
        e = [[(agreement(rows[j][i], u[i]) + bias_JI[j][i]).exp() for i in children] for j in parents]
        c = [[e[j][i] / sum(e[k][i] for k in parents) for i in children] for j in parents]
        taken = [sum(c[j][i] * a[i] for i in children) for j in parents]
        poses = [
            [sum(c[j][i] * a[i] * votes_JIE[j][i][x] for i in children) / taken[j] for x in range(len(votes_JIE[j][0]))]
            for j in parents
        ]
        for part, value in zip(found, (poses, [each / sum(a) for each in taken], c), strict=True):
            part.append(value)
    return found
