"""Variational-Bayes routing: the parents are a mixture of Gaussians with priors on all that describes them."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from capsexp.errors import ConfigError, require_choice, require_int
from capsexp.nn.digamma import digamma, digamma_halves
from capsexp.nn.functional import at_least_single
from capsexp.nn.vote_pieces import in_pieces
from capsexp.nn.votes import Votes
from capsexp.routing.base import GRADIENTS, Routing
from capsexp.types import RoutingOutput


class VariationalBayes(Routing):
    r"""Ribeiro, Leontidis and Kollias (2020), *Capsule Routing via Variational Bayes*.

    A child with activation a and assignment r weighs w = r a.  With the priors :math:`\alpha_0 = 1, m_0 = 0, \kappa_0 =
    1, \Psi_0 = I, \nu_0 = D + 1` (D components of a pose), the amounts of data :math:`R_j = \sum_i w_{ji}` give
    :math:`\alpha = \alpha_0 + R`, :math:`\kappa = \kappa_0 + R`, :math:`\nu = \nu_0 + R`, and the M step

    .. math:: m_j = \frac{1}{\kappa_j} \sum_i w_{ji} v_{ji}, \quad
       s_{je} = 1 + \sum_i w_{ji} (v_{jei} - m_{je})^2 + m_{je}^2,

    with a diagonal covariance (the authors' ``invPsi`` in a form without differences).  The E step assigns every child
    to the parents of all windows that hold it.  A parent's activation is the logistic function of :math:`\beta_a -
    (e^{\mathrm{E} \ln \pi} H + \beta_u)`, with the entropy H of its Gaussian, after a batch normalisation; its pose is
    the mean m, after another one.

    Args:
        iterations: number of M steps, at least 1; the first has equal assignments.
        gradient: ``full`` differentiates every step; ``last`` treats the assignments as constants, so gradients flow
            through the last M step only.
        **sizes: children, parents, dim_in and dim_out.

    Example:
        >>> from capsexp.nn import Capsules, ClassCapsules
        >>> layer = ClassCapsules(36, 10, 16, 16, VariationalBayes, matrix=True)
        >>> output = layer(Capsules(torch.rand(5, 36, 16), torch.rand(5, 36)))
        >>> output.poses_BJE.shape, output.coupling_BJI.sum(1).round(decimals=4).unique()
        (torch.Size([5, 10, 16]), tensor([1.], grad_fn=<Unique2Backward0>))
    """

    shares = "field"
    activation = "probability"
    needs_activations = True
    has_master = False

    def __init__(self, *, iterations: int = 3, gradient: str = "full", **sizes: Any) -> None:
        super().__init__(finish=lambda parents, _dim: PosteriorNorm(parents), **sizes)
        self.iterations = require_int("iterations", iterations, 1)
        self.gradient = require_choice("gradient", gradient, GRADIENTS)
        self.beta_u_J = nn.Parameter(torch.zeros(self.parent_count))
        self.beta_a_J = nn.Parameter(torch.zeros(self.parent_count))
        self.activation_norm = PosteriorNorm(self.parent_count)

    @torch.no_grad()
    def start(self, weight_JEDI: Tensor) -> None:
        """Uniform numbers up to sqrt(6 / (I D D + J D D)): Glorot and Bengio (2010), with poses of D D components."""
        parents, _, components, children = weight_JEDI.shape
        bound = math.sqrt(6 / (max(1, components) ** 2 * (parents + children)))
        weight_JEDI.copy_((2 * torch.rand_like(weight_JEDI) - 1) * bound)

    def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
        """Poses, activations, and the assignments of the last M step, which the activations have not multiplied.

        Raises:
            ConfigError: there are no activations.
        """
        if activations_BI is None:
            raise ConfigError("activations", "be there for VariationalBayes", None)
        alongside, betas = (at_least_single(activations_BI),), (self.beta_u_J, self.beta_a_J)
        # Statistics are counted once, so the normalisations stay outside of the work that is done again.
        mean_BJE, logits_BJ, share_BJI = in_pieces(self._route, votes, betas, alongside, built=True)
        return RoutingOutput(self.finish(mean_BJE), self.activation_norm(logits_BJ).sigmoid(), share_BJI)

    def weights(self, coupling_BJI: Tensor, activations_BI: Tensor | None = None) -> Tensor:
        """The assignments times the children's activations, divided by 1 + their sum over the children."""
        assert activations_BI is not None, "variational Bayes has activations"
        taken_BJI = coupling_BJI * activations_BI[:, None]
        return taken_BJI / (1 + taken_BJI.sum(2, keepdim=True))

    def _route(self, votes: Votes, activations_BI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, logits of the activations, and assignments."""
        batch, parents, dim, children = votes.shape
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.gradient == "full"):
            share_BJI = activations_BI.new_full((batch, parents, children), 1 / parents)
            for _ in range(self.iterations - 1):
                mean_BJE, precision_BJE, kappa_BJ, log_pi_BJ, log_det_BJ = _maximise(votes, share_BJI, activations_BI)
                freedom_BJ1 = kappa_BJ[:, :, None] + dim
                distances_BJI = votes.distances(mean_BJE, precision_BJE * freedom_BJ1)
                # The term D ln 2 pi is the same for all parents.
                above_BJ = log_pi_BJ + 0.5 * (log_det_BJ - dim / kappa_BJ)
                share_BJI = votes.share(above_BJ[:, :, None] - 0.5 * distances_BJI)
        mean_BJE, _, _, log_pi_BJ, log_det_BJ = _maximise(votes, share_BJI, activations_BI)
        entropy_BJ = 0.5 * (dim * math.log(2 * math.pi * math.e) - log_det_BJ)
        return mean_BJE, self.beta_a_J - (log_pi_BJ.exp() * entropy_BJ + self.beta_u_J), share_BJI


class PosteriorNorm(nn.BatchNorm1d):
    """Batch normalisation of each parent over images, places and components, without gain and shift.

    A single number has no variance; then the running statistics are used, and not changed.

    Args:
        parents: J.

    Example:
        >>> PosteriorNorm(2)(torch.tensor([[1.0, 5.0], [3.0, 9.0]])).round(decimals=3)
        tensor([[-1., -1.],
                [ 1.,  1.]])
    """

    def __init__(self, parents: int) -> None:
        super().__init__(parents, affine=False)

    def forward(self, values: Tensor) -> Tensor:
        """Normalised values, (B, J) or (B, J, E)."""
        if self.training and values.numel() == values.shape[1]:
            return nn.functional.batch_norm(values, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(values)


def _maximise(votes: Votes, share_BJI: Tensor, activations_BI: Tensor) -> tuple[Tensor, ...]:
    """Means m, 1 / s, kappa, E ln pi and E ln |Lambda| of the parents."""
    taken_BJI = share_BJI * activations_BI[:, None]
    kappa_BJ = 1 + taken_BJI.sum(2)  # with these priors alpha is the same, and nu = kappa + D
    weights_BJI = taken_BJI / kappa_BJ[:, :, None]
    mean_BJE = votes.weighted_sum(weights_BJI)
    width_BJE = 1 + kappa_BJ[:, :, None] * votes.scatter(weights_BJI, mean_BJE) + mean_BJE.square()
    log_pi_BJ = digamma(kappa_BJ) - digamma(kappa_BJ.sum(1, keepdim=True))
    dim = votes.shape[2]
    log_det_BJ = digamma_halves(kappa_BJ + dim, dim) + dim * math.log(2) - width_BJE.log().sum(2)
    return mean_BJE, width_BJE.reciprocal(), kappa_BJ, log_pi_BJ, log_det_BJ
