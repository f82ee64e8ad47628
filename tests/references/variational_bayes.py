"""Variational-Bayes routing: Ribeiro, Leontidis and Kollias (2020), parent by parent and component by component.

Covariances are diagonal.  The priors are alpha0 = 1, m0 = 0, kappa0 = 1, Psi0 = 1, nu0 = components + 1.
"""

import math
from typing import NamedTuple

import torch

from tests.references.votes import Scalars
from tests.references.windows import one_window, share

SMALLEST = 1e-9
"""An amount of data below this counts as this, as a divisor."""
EPSILON = 1e-5
"""Added to the variance by which the outputs are normalised."""


def route(
    votes_BJIE: Scalars,
    *,
    iterations: int,
    gradient: str,
    activations_BI: Scalars,
    beta_u_J: Scalars,
    beta_a_J: Scalars,
    poses_BID: Scalars | None = None,
    training: bool = True,
    **norms: Scalars,
) -> tuple[Scalars, Scalars, Scalars]:
    """Poses [b][j][e], activations [b][j], coupling [b][j][i] of a layer with a single window.

    Args:
        votes_BJIE: the votes.
        iterations: number of M steps.
        gradient: ``last`` takes the coupling of the last M step for a constant.
        activations_BI: of the children.
        beta_u_J: added to the cost of each parent.
        beta_a_J: what an active parent saves.
        poses_BID: has no effect.
        training: False normalises by the running mean and variance.
        **norms: ``activation_norm`` and ``pose_norm`` with ``.running_mean`` and ``.running_var`` [j].
    """
    fitted = fit_windows(
        [[each] for each in votes_BJIE],
        [[each] for each in activations_BI],
        one_window(len(activations_BI[0])),
        beta_u_J=beta_u_J,
        beta_a_J=beta_a_J,
        iterations=iterations,
        gradient=gradient,
    )
    running = {
        norm: None if training else (norms[f"{norm}.running_mean"], norms[f"{norm}.running_var"])
        for norm in ("activation_norm", "pose_norm")
    }
    poses_BLJE = normalised(fitted.means_BLJE, running["pose_norm"])
    logits_BLJ = normalised(fitted.logits_BLJ, running["activation_norm"])
    active = [[logit.sigmoid() for logit in each[0]] for each in logits_BLJ]
    return [each[0] for each in poses_BLJE], active, [each[0] for each in fitted.coupling_BLJI]


class Fitted(NamedTuple):
    """The mixture after the last M step, before the outputs are normalised; the coupling is 0 in the padding."""

    means_BLJE: Scalars
    logits_BLJ: Scalars
    coupling_BLJI: Scalars


def fit_windows(
    votes_BLJIE: Scalars,
    activations_BLI: Scalars,
    child_LI: list[list[int]],
    *,
    beta_u_J: Scalars,
    beta_a_J: Scalars,
    iterations: int,
    gradient: str = "full",
) -> Fitted:
    """The mixture of each window; arguments as in :func:`tests.references.em.route_windows`."""
    found = Fitted([], [], [])
    parents, windows = range(len(beta_u_J)), range(len(child_LI))
    for votes_LJIE, activations_LI in zip(votes_BLJIE, activations_BLI, strict=True):
        r = [[[_first(child, len(parents)) for child in row] for _ in parents] for row in child_LI]
        for iteration in range(1, iterations + 1):
            last = iteration == iterations
            if last and gradient == "last":
                r = [[[number.detach() for number in row] for row in r_JI] for r_JI in r]
            mixtures = [_m_step(votes_LJIE[window], r[window], activations_LI[window]) for window in windows]
            if not last:
                logits = [
                    [[_log_density(vote, mixture, j) for vote in votes_LJIE[window][j]] for j in parents]
                    for window, mixture in enumerate(mixtures)
                ]
                r = share(logits, child_LI)
        found.means_BLJE.append([mixture.m for mixture in mixtures])
        found.logits_BLJ.append(
            [[_logit(mixture, j, beta_u_J[j], beta_a_J[j]) for j in parents] for mixture in mixtures]
        )
        found.coupling_BLJI.append(r)
    return found


def normalised(numbers_BLJ: Scalars, running: tuple[Scalars, Scalars] | None = None) -> Scalars:
    """Numbers [b][l][j] or [b][l][j][e] minus a parent's mean, divided by its deviation.

    Mean and variance are taken over images, windows and components, if they are not given.
    """
    parents = range(len(numbers_BLJ[0][0]))
    found: Scalars = [[[None for _ in parents] for _ in each] for each in numbers_BLJ]
    for j in parents:
        of_parent = [_listed(row[j]) for each in numbers_BLJ for row in each]
        flat = [x for row in of_parent for x in row]
        if running is None:
            mean = sum(flat) / len(flat)
            variance = sum((x - mean) ** 2 for x in flat) / len(flat)
        else:
            mean, variance = running[0][j], running[1][j]
        for image, each in enumerate(numbers_BLJ):
            for window, row in enumerate(each):
                done = [(x - mean) / (variance + EPSILON) ** 0.5 for x in _listed(row[j])]
                found[image][window][j] = done if isinstance(row[j], list) else done[0]
    return found


def _listed(value: Scalars | torch.Tensor) -> Scalars:
    return value if isinstance(value, list) else [value]


def _first(child: int, parents: int) -> torch.Tensor:
    return torch.tensor(0.0 if child < 0 else 1 / parents, dtype=torch.float64)


STIRLING = (-1 / 12, 1 / 120, -1 / 252, 1 / 240, -1 / 132, 691 / 32760)


def digamma(x: torch.Tensor) -> torch.Tensor:
    """Stirling's series at x + 12, and 12 steps back; the derivative of torch's own function is less exact."""
    far = x + 12
    square, power, series = 1 / far**2, 1.0, far.log() - 1 / (2 * far)
    for coefficient in STIRLING:
        power = power * square
        series = series + coefficient * power
    return series - sum(1 / (x + step) for step in range(12))  # type: ignore[no-any-return]


class _Mixture(NamedTuple):
    """The posterior of a window's parents: m [j][e], the inverse scale [j][e], kappa, nu [j], E ln pi, E ln |L| [j]."""

    m: Scalars
    inverse_scale: Scalars
    kappa: Scalars
    nu: Scalars
    log_share: Scalars
    log_precision: Scalars


def _m_step(votes_JIE: Scalars, r_JI: Scalars, activations_I: Scalars) -> _Mixture:
    parents, children = range(len(votes_JIE)), range(len(activations_I))
    components = range(len(votes_JIE[0][0]))
    size = len(components)
    found = _Mixture([], [], [], [], [], [])
    amounts = []
    for j in parents:
        w = [r_JI[j][i] * activations_I[i] for i in children]
        amount = sum(w)
        divisor = max(amount, torch.tensor(SMALLEST))
        mu = [sum(w[i] * votes_JIE[j][i][e] for i in children) / divisor for e in components]
        kappa, nu = 1 + amount, size + 1 + amount
        inverse = []
        for e in components:
            scatter = sum(w[i] * (votes_JIE[j][i][e] - mu[e]) ** 2 for i in children)
            inverse.append(1 + scatter + amount / kappa * mu[e] ** 2)
        digammas = sum(digamma((nu + 1 - d) / 2) for d in range(1, size + 1))
        found.m.append([amount * x / kappa for x in mu])
        found.inverse_scale.append(inverse)
        found.kappa.append(kappa)
        found.nu.append(nu)
        found.log_precision.append(digammas + size * math.log(2) - sum(x.log() for x in inverse))
        amounts.append(1 + amount)
    whole = digamma(sum(amounts))  # type: ignore[arg-type]
    found.log_share.extend(digamma(alpha) - whole for alpha in amounts)
    return found


def _log_density(vote: Scalars, mixture: _Mixture, j: int) -> torch.Tensor:
    size = len(vote)
    squares = [
        (x - m) ** 2 / inverse for x, m, inverse in zip(vote, mixture.m[j], mixture.inverse_scale[j], strict=True)
    ]
    distance = size / mixture.kappa[j] + mixture.nu[j] * sum(squares)
    density = mixture.log_share[j] + 0.5 * mixture.log_precision[j] - 0.5 * size * math.log(2 * math.pi)
    return density - 0.5 * distance  # type: ignore[no-any-return]


def _logit(mixture: _Mixture, j: int, beta_u: torch.Tensor, beta_a: torch.Tensor) -> torch.Tensor:
    size = len(mixture.m[j])
    entropy = 0.5 * size * math.log(2 * math.pi * math.e) - 0.5 * mixture.log_precision[j]
    return beta_a - (mixture.log_share[j].exp() * entropy + beta_u)  # type: ignore[no-any-return]
