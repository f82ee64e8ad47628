"""Self-routing: every child chooses its parents by a small classifier of its own."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from capsexp.errors import ConfigError
from capsexp.nn.childwise import childwise
from capsexp.nn.votes import Votes
from capsexp.routing.one_pass import OnePass
from capsexp.types import RoutingOutput

LEAST = 1e-9
"""Sums of activations up to this give zeros, and no gradients, which would grow from layer to layer."""


class SelfRouting(OnePass):
    r"""Hahn, Pyeon and Kim (2019), *Self-Routing Capsule Networks*: no agreement and no loop.

    A child's couplings are :math:`c_{ji} = \mathrm{softmax}_j (W_{ji} \cdot u_i + b_{ji})` of its pose u.  With the
    children's activations a, the activation of a parent is :math:`\sum_i c_{ji} a_i / \sum_i a_i`, a distribution over
    the parents, and its pose the mean of the votes, weighted by :math:`c_{ji} a_i`.

    Args:
        **sizes: children, parents, dim_in and dim_out; with dim_out = 0 there are activations alone, as in the paper's
            class layer.  And what :class:`~capsexp.routing.one_pass.OnePass` takes.

    Example:
        >>> from capsexp.nn import Capsules, ClassCapsules
        >>> layer = ClassCapsules(36, 10, 8, 16, SelfRouting)
        >>> layer(Capsules(torch.rand(5, 36, 8), torch.rand(5, 36))).activations_BJ[0, :3]  # 1 / J at the start
        tensor([0.1000, 0.1000, 0.1000], grad_fn=<SliceBackward0>)
    """

    shares = "parents"
    activation = "share"
    needs_activations = True
    poses_optional = True
    has_master = False
    children_at: ClassVar[Mapping[str, int]] = {"weight_JDI": 2, "bias_JI": 1}

    def __init__(self, **sizes: Any) -> None:
        super().__init__(finish=lambda _parents, _dim: nn.Identity(), **sizes)
        self.weight_JDI = nn.Parameter(torch.zeros(self.parent_count, sizes["dim_in"], self.child_count))
        self.bias_JI = nn.Parameter(torch.zeros(self.parent_count, self.child_count))

    @torch.no_grad()
    def start(self, weight_JEDI: Tensor) -> None:
        """Uniform numbers up to sqrt(6 / (J E D)): He et al. (2015), as the authors' code calls it."""
        parents, dim_out, components, _ = weight_JEDI.shape
        bound = math.sqrt(6 / max(1, parents * dim_out * components))
        weight_JEDI.copy_((2 * torch.rand_like(weight_JEDI) - 1) * bound)

    def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
        """Poses, activations, and the couplings, which the activations have not multiplied.

        Raises:
            ConfigError: the votes do not know the children's poses, or there are no activations.
        """
        if votes.poses_BID is None:
            raise ConfigError("votes", "know the poses of the children", type(votes).__name__)
        if activations_BI is None:
            raise ConfigError("activations", "be there for SelfRouting", None)
        logits_BJI = childwise(votes.poses_BID, self.weight_JDI) + self.bias_JI
        coupling_BJI = logits_BJI.softmax(1)
        taken_BJI = coupling_BJI * activations_BI[:, None]
        sums_BJ = taken_BJI.sum(2)
        activations_BJ = sums_BJ * _reciprocal(activations_BI.sum(1, keepdim=True))
        poses_BJE = votes.weighted_sum(taken_BJI) * _reciprocal(sums_BJ)[:, :, None]
        return RoutingOutput(poses_BJE, activations_BJ, coupling_BJI)

    def weights(self, coupling_BJI: Tensor, activations_BI: Tensor | None = None) -> Tensor:
        """The couplings times the children's activations, divided by their sum over the children."""
        assert activations_BI is not None, "self-routing has activations"
        taken_BJI = coupling_BJI * activations_BI[:, None]
        return taken_BJI * _reciprocal(taken_BJI.sum(2, keepdim=True))


def _reciprocal(sums: Tensor) -> Tensor:
    """1 / sum, and 0 without a gradient for sums that are hardly above zero."""
    return torch.where(sums > LEAST, sums.clamp_min(LEAST).reciprocal(), 0.0)
