"""Variational-Bayes routing: Ribeiro, Leontidis and Kollias (2020), image by image, window by window, parent by parent.

The sums over a window's children and over components are sums of vectors.  Covariances are diagonal.
The priors are alpha0 = 1, m0 = 0, kappa0 = 1, Psi0 = 1, nu0 = components + 1.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.references.votes import Scalars, stacked
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
        **norms: ``activation_norm`` and ``finish`` with ``.running_mean`` and ``.running_var`` [j].
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
        for norm in ("activation_norm", "finish")
    }
    poses_BLJE = normalised(fitted.means_BLJE, running["finish"])
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
        votes, active_LI = (
            [list(map(stacked, votes_JIE)) for votes_JIE in votes_LJIE],
            list(map(stacked, activations_LI)),
        )
        for iteration in range(1, iterations + 1):
            last = iteration == iterations
            if last and gradient == "last":
                r = [[[number.detach() for number in row] for row in r_JI] for r_JI in r]
            mixtures = [_m_step(votes[window], list(map(stacked, r[window])), active_LI[window]) for window in windows]
            if not last:
                logits = [
                    [list(_log_density(votes[window][j], mixture, j)) for j in parents]
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
        if running is None:
            flat = torch.stack([row[j] for each in numbers_BLJ for row in each])
            mean = flat.sum() / flat.numel()
            variance = ((flat - mean) ** 2).sum() / flat.numel()
        else:
            mean, variance = running[0][j], running[1][j]
        for image, each in enumerate(numbers_BLJ):
            for window, row in enumerate(each):
                found[image][window][j] = (row[j] - mean) / (variance + EPSILON) ** 0.5
    return found


def _first(child: int, parents: int) -> Tensor:
    return torch.tensor(0.0 if child < 0 else 1 / parents, dtype=torch.float64)


class _Mixture(NamedTuple):
    """The posterior of each parent of a window: m (E), the inverse scale (E), kappa, nu, E ln pi, E ln |L|."""

    m: list[Tensor]
    inverse_scale: list[Tensor]
    kappa: list[Tensor]
    nu: list[Tensor]
    log_share: list[Tensor]
    log_precision: list[Tensor]


def _m_step(votes_JIE: list[Tensor], r_JI: list[Tensor], activations_I: Tensor) -> _Mixture:
    size = votes_JIE[0].shape[1]
    found = _Mixture([], [], [], [], [], [])
    amounts = []
    for votes_IE, r_I in zip(votes_JIE, r_JI, strict=True):
        w_I1 = (r_I * activations_I)[:, None]
        amount = w_I1.sum()
        mu_E = (w_I1 * votes_IE).sum(0) / max(amount, torch.tensor(SMALLEST))
        scatter_E = (w_I1 * (votes_IE - mu_E) ** 2).sum(0)
        kappa, nu = 1 + amount, size + 1 + amount
        inverse_E = 1 + scatter_E + amount / kappa * mu_E**2
        digammas = _digamma((nu + 1 - torch.arange(1, size + 1)) / 2).sum()
        found.m.append(amount * mu_E / kappa)
        found.inverse_scale.append(inverse_E)
        found.kappa.append(kappa)
        found.nu.append(nu)
        found.log_precision.append(digammas + size * math.log(2) - inverse_E.log().sum())
        amounts.append(1 + amount)
    whole = _digamma(sum(amounts))  # type: ignore[arg-type]
    found.log_share.extend(_digamma(alpha) - whole for alpha in amounts)
    return found


def _log_density(votes_IE: Tensor, mixture: _Mixture, j: int) -> Tensor:
    size = votes_IE.shape[1]
    squares_I = ((votes_IE - mixture.m[j]) ** 2 / mixture.inverse_scale[j]).sum(1)
    distance_I = size / mixture.kappa[j] + mixture.nu[j] * squares_I
    density = mixture.log_share[j] + 0.5 * mixture.log_precision[j] - 0.5 * size * math.log(2 * math.pi)
    return density - 0.5 * distance_I


def _logit(mixture: _Mixture, j: int, beta_u: Tensor, beta_a: Tensor) -> Tensor:
    size = len(mixture.m[j])
    entropy = 0.5 * size * math.log(2 * math.pi * math.e) - 0.5 * mixture.log_precision[j]
    return beta_a - (mixture.log_share[j].exp() * entropy + beta_u)


class _Digamma(torch.autograd.Function):
    """torch's function, whose own derivative has errors of 5e-10."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return torch.digamma(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (value,) = ctx.saved_tensors
        return grad * torch.special.zeta(torch.tensor(2.0, dtype=value.dtype), value)


def _digamma(value: Tensor) -> Tensor:
    found: Tensor = _Digamma.apply(value)  # type: ignore[no-untyped-call]
    return found
