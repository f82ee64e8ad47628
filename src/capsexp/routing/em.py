"""EM routing: every parent is a Gaussian that explains votes, and is active where that is cheap."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.errors import ConfigError, require_choice, require_int, require_number
from capsexp.nn.functional import at_least_single
from capsexp.nn.vote_pieces import in_pieces
from capsexp.nn.votes import Votes
from capsexp.routing.base import GRADIENTS, Routing
from capsexp.types import RoutingOutput

LEAST = 1e-9
"""Least amount of data by which weights are divided: a parent whose children are all inactive has zero poses."""


class EM(Routing):
    r"""Hinton, Sabour and Frosst (2018), *Matrix Capsules with EM Routing*, procedure 1.

    A child with activation a and assignment r weighs w = r a.  The M step makes each parent's mean and variance of the
    weighted votes, and from its amount of data :math:`R_j = \sum_i w_{ji}` the activation

    .. math:: a_j = \mathrm{logistic}\Big(\lambda_t \big(\beta_{a,j} -
       R_j \sum_e (\beta_{u,j} + \tfrac12 \ln \sigma_{je}^2)\big)\Big), \quad \lambda_t = \lambda (1 - 0.95^t)

    in iteration t.  The E step assigns every child to the parents of all windows that hold it, by their activations and
    the densities of its votes.  All is computed from logarithms.

    Args:
        iterations: number of M steps, at least 1; the first has equal assignments.
        gradient: ``full`` differentiates every step; ``last`` treats the assignments as constants, so gradients flow
            through the last M step only.
        inverse_temperature: lambda, above 0.
        least_variance: added to every variance, above 0.
        **sizes: children, parents, dim_in and dim_out.

    Example:
        >>> from capsexp.nn import Capsules, ClassCapsules
        >>> layer = ClassCapsules(36, 10, 16, 16, EM, matrix=True)
        >>> output = layer(Capsules(torch.rand(5, 36, 16), torch.rand(5, 36)))
        >>> output.poses_BJE.shape, output.coupling_BJI.sum(1).round(decimals=4).unique()
        (torch.Size([5, 10, 16]), tensor([1.], grad_fn=<Unique2Backward0>))
    """

    shares = "field"
    activation = "probability"
    needs_activations = True
    has_master = False

    def __init__(
        self,
        *,
        iterations: int = 3,
        gradient: str = "full",
        inverse_temperature: float = 0.01,
        least_variance: float = 1e-9,
        **sizes: Any,
    ) -> None:
        super().__init__(finish=lambda _parents, _dim: nn.Identity(), **sizes)
        self.iterations = require_int("iterations", iterations, 1)
        self.gradient = require_choice("gradient", gradient, GRADIENTS)
        self.inverse_temperature = require_number("inverse_temperature", inverse_temperature, 0, open_ends="<")
        self.least_variance = require_number("least_variance", least_variance, 0, open_ends="<")
        self.beta_u_J = nn.Parameter(torch.zeros(self.parent_count))
        self.beta_a_J = nn.Parameter(torch.zeros(self.parent_count))

    @torch.no_grad()
    def start(self, weight_JEDI: Tensor) -> None:
        """Normal numbers of variance 1 / D, so that votes have the scale of poses; D counts a matrix pose's columns."""
        weight_JEDI.copy_(torch.randn_like(weight_JEDI) / math.sqrt(weight_JEDI.shape[2]))

    def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
        """Means, activations, and the assignments of the last M step, which the activations have not multiplied.

        Raises:
            ConfigError: there are no activations.
        """
        if activations_BI is None:
            raise ConfigError("activations", "be there for EM", None)
        alongside = (at_least_single(activations_BI),)
        return RoutingOutput(*in_pieces(self._route, votes, self.parameters(), alongside, built=True))

    def weights(self, coupling_BJI: Tensor, activations_BI: Tensor | None = None) -> Tensor:
        """The assignments times the children's activations, divided by their sum over the children."""
        assert activations_BI is not None, "EM has activations"
        return _weights(coupling_BJI, activations_BI)[0]

    def _route(self, votes: Votes, activations_BI: Tensor) -> RoutingOutput:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.gradient == "full"):
            share_BJI = equal_shares(votes, activations_BI)
            for number in range(1, self.iterations):
                mean_BJE, variance_BJE, logits_BJ = self._maximise(votes, share_BJI, activations_BI, number)
                distances_BJI = votes.distances(mean_BJE, variance_BJE.reciprocal())
                spread_BJ = (2 * math.pi * variance_BJE).log().sum(2)
                above_BJ = F.logsigmoid(logits_BJ) - 0.5 * spread_BJ
                share_BJI = votes.share(above_BJ[:, :, None] - 0.5 * distances_BJI)
        mean_BJE, _, logits_BJ = self._maximise(votes, share_BJI, activations_BI, self.iterations)
        return RoutingOutput(mean_BJE, logits_BJ.sigmoid(), share_BJI)

    def _maximise(
        self, votes: Votes, share_BJI: Tensor, activations_BI: Tensor, number: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Means, variances, and logits of the activations."""
        weights_BJI, amount_BJ = _weights(share_BJI, activations_BI)
        mean_BJE = votes.weighted_sum(weights_BJI)
        variance_BJE = votes.scatter(weights_BJI, mean_BJE) + self.least_variance
        cost_BJ = amount_BJ * (self.beta_u_J[:, None] + 0.5 * variance_BJE.log()).sum(2)
        return mean_BJE, variance_BJE, self.inverse_temperature * (1 - 0.95**number) * (self.beta_a_J - cost_BJ)


def equal_shares(votes: Votes, like_BI: Tensor) -> Tensor:
    """Equal shares of each child over the parents of all windows that hold it: (B, J, I).

    Args:
        votes: the votes, with their field.
        like_BI: a tensor of their type and device.
    """
    batch, parents, _, children = votes.shape
    if votes.field is None:
        return like_BI.new_full((batch, parents, children), 1 / parents)
    windows_LI = votes.field.windows_of_child(children // votes.field.positions)
    share_LI = 1 / (parents * windows_LI.to(like_BI))
    return share_LI.repeat(batch // len(windows_LI), 1)[:, None].repeat(1, parents, 1)


def _weights(share_BJI: Tensor, activations_BI: Tensor) -> tuple[Tensor, Tensor]:
    """What multiplies the votes in a mean, and the amounts of data (B, J)."""
    taken_BJI = share_BJI * activations_BI[:, None]
    amount_BJ = taken_BJI.sum(2)
    return taken_BJI / amount_BJ.clamp_min(LEAST)[:, :, None], amount_BJ
