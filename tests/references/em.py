"""EM routing: Hinton, Sabour and Frosst (2018), procedure 1, image by image, window by window, parent by parent.

The sums over a window's children and over components are sums of vectors.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.references.votes import Scalars, stacked
from tests.references.windows import one_window, share, windows_of

SMALLEST = 1e-9
"""An amount of data below this counts as this, as a divisor."""


def route(
    votes_BJIE: Scalars,
    *,
    iterations: int,
    gradient: str,
    inverse_temperature: float,
    least_variance: float,
    activations_BI: Scalars,
    beta_u_J: Scalars,
    beta_a_J: Scalars,
    poses_BID: Scalars | None = None,
) -> tuple[Scalars, Scalars, Scalars]:
    """Poses [b][j][e], activations [b][j], coupling [b][j][i] of a layer with a single window."""
    outputs = route_windows(
        [[each] for each in votes_BJIE],
        [[each] for each in activations_BI],
        one_window(len(activations_BI[0])),
        beta_u_J=beta_u_J,
        beta_a_J=beta_a_J,
        iterations=iterations,
        gradient=gradient,
        inverse_temperature=inverse_temperature,
        least_variance=least_variance,
    )
    poses_BJE, activations_BJ, coupling_BJI = ([each[0] for each in part] for part in outputs)
    return poses_BJE, activations_BJ, coupling_BJI


def route_windows(
    votes_BLJIE: Scalars,
    activations_BLI: Scalars,
    child_LI: list[list[int]],
    *,
    beta_u_J: Scalars,
    beta_a_J: Scalars,
    iterations: int,
    inverse_temperature: float,
    least_variance: float,
    gradient: str = "full",
    start: str = "field",
    over: str = "field",
) -> tuple[Scalars, Scalars, Scalars]:
    """Poses [b][l][j][e], activations [b][l][j], and the coupling [b][l][j][i] of the last M step (0 in the padding).

    Args:
        votes_BLJIE: the votes of window l's children.
        activations_BLI: their activations.
        child_LI: which child stands where, see :mod:`tests.references.windows`.
        beta_u_J: cost of describing a vote, for each parent.
        beta_a_J: what an active parent saves.
        iterations: number of M steps.
        inverse_temperature: lambda, of which M step t has the part 1 - .95 ** t.
        least_variance: added to every variance.
        gradient: ``last`` takes the coupling of the last M step for a constant.
        start: first coupling; ``field`` = 1 / (parents of all windows that hold the child), ``one`` = 1.
        over: the E step's sum, see :func:`tests.references.windows.share`.
    """
    found: tuple[Scalars, Scalars, Scalars] = ([], [], [])
    parents = range(len(beta_u_J))
    for votes_LJIE, activations_LI in zip(votes_BLJIE, activations_BLI, strict=True):
        r = [[[_first(child_LI, child, start, len(parents)) for child in row] for _ in parents] for row in child_LI]
        windows = range(len(child_LI))
        votes, active_LI = (
            [list(map(stacked, votes_JIE)) for votes_JIE in votes_LJIE],
            list(map(stacked, activations_LI)),
        )
        for iteration in range(1, iterations + 1):
            last = iteration == iterations
            if last and gradient == "last":
                r = [[[number.detach() for number in row] for row in r_JI] for r_JI in r]
            heat = inverse_temperature * (1 - 0.95**iteration)
            gaussians = [
                [
                    _m_step(
                        votes[window][j],
                        stacked(r[window][j]) * active_LI[window],
                        beta_u_J[j],
                        beta_a_J[j],
                        heat,
                        least_variance,
                    )
                    for j in parents
                ]
                for window in windows
            ]
            if not last:
                logits = [
                    [
                        list(F.logsigmoid(gain) + _log_density(votes[window][j], mu, s))
                        for j, (mu, s, gain) in enumerate(gaussians[window])
                    ]
                    for window in windows
                ]
                r = share(logits, child_LI, over=over)
        poses = [[mu for mu, _, _ in row] for row in gaussians]
        active = [[torch.sigmoid(gain) for _, _, gain in row] for row in gaussians]
        for part, value in zip(found, (poses, active, r), strict=True):
            part.append(value)
    return found


def _first(child_LI: list[list[int]], child: int, start: str, parents: int) -> Tensor:
    if child < 0:
        return torch.zeros((), dtype=torch.float64)
    number = 1.0 if start == "one" else 1 / (parents * windows_of(child_LI, child))
    return torch.tensor(number, dtype=torch.float64)


def _m_step(
    votes_IE: Tensor, weight_I: Tensor, beta_u: Tensor, beta_a: Tensor, heat: float, least_variance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of each component, and the number whose logistic is the activation."""
    amount = weight_I.sum()
    p_I1 = (weight_I / max(amount, torch.tensor(SMALLEST)))[:, None]
    mu_E = (p_I1 * votes_IE).sum(0)
    s_E = (p_I1 * (votes_IE - mu_E) ** 2).sum(0) + least_variance
    cost_E = (beta_u + 0.5 * s_E.log()) * amount
    return mu_E, s_E, heat * (beta_a - cost_E.sum())


def _log_density(votes_IE: Tensor, mu_E: Tensor, s_E: Tensor) -> Tensor:
    return (-0.5 * ((votes_IE - mu_E) ** 2 / s_E + (2 * math.pi * s_E).log())).sum(1)
