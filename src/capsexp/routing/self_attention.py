"""Self-attention routing: a child's coupling from how well its votes agree with those of all children."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from capsexp.errors import require, require_choice
from capsexp.nn.votes import Votes
from capsexp.routing.one_pass import OnePass
from capsexp.types import RoutingOutput

SCALES = ("parents", "children")


class SelfAttention(OnePass):
    r"""Mazzia, Salvetti and Chiaberge (2021), *Efficient-CapsNet*: one pass, no loop.

    With votes :math:`v_{ji}`, the logits :math:`\sum_k v_{ji} \cdot v_{jk} / \sqrt{E}` are the row sums of a parent's
    Gram matrix.  A softmax over the parents makes couplings of them, to which trainable log priors :math:`B_{ji}` are
    added; :math:`\sum_i (c_{ji} + B_{ji}) v_{ji}` is squashed.  The sum over k is taken first, so the I x I matrix is
    never built.

    Args:
        prior: True for the trainable B (J, I), zero at the start; False for none.
        scale: the dimension under the root: of the ``parents`` (E, as in the authors' code) or of the ``children`` (D,
            as in the paper).
        squash: squashing function; the paper's is ``exponential``.
        **sizes: children, parents, dim_in and dim_out, and what :class:`~capsexp.routing.one_pass.OnePass` takes.

    Example:
        >>> from capsexp.nn import GivenVotes
        >>> votes = GivenVotes(torch.tensor([[[[3.0, 2.0]], [[1.0, -1.0]]]]))  # of 2 children for 2 parents
        >>> routing = SelfAttention(children=2, parents=2, dim_in=1, dim_out=1, prior=False)
        >>> routing(votes).coupling_BJI.round(decimals=4)  # softmax of 3 * (3 + 2) and 1 * (1 - 1), and of the like
        tensor([[[1., 1.],
                 [0., 0.]]])
    """

    shares = "parents"
    has_master = False
    children_at: ClassVar[Mapping[str, int]] = {"prior_JI": 1}

    prior_JI: Tensor | None

    def __init__(
        self, *, prior: bool = True, scale: str = "parents", squash: str = "exponential", **sizes: Any
    ) -> None:
        super().__init__(squash=squash, **sizes)
        require(isinstance(prior, bool), "prior", "be true or false", prior)
        components = sizes["dim_out" if require_choice("scale", scale, SCALES) == "parents" else "dim_in"]
        self._divisor = math.sqrt(components)
        zeros_JI = torch.zeros(self.parent_count, self.child_count)
        self.register_parameter("prior_JI", nn.Parameter(zeros_JI) if prior else None)

    @torch.no_grad()
    def start(self, weight_JEDI: Tensor) -> None:
        """Normal numbers of variance 2 / (D J I): the authors' ``he_normal`` counts these as inputs of one weight."""
        parents, _, components, children = weight_JEDI.shape
        weight_JEDI.copy_(torch.randn_like(weight_JEDI) * math.sqrt(2 / (components * parents * children)))

    def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
        """Poses, lengths, and the couplings without the priors."""
        logits_BJI = votes.agreement(votes.weighted_sum(1.0)) / self._divisor
        coupling_BJI = logits_BJI.softmax(1)
        poses_BJE, lengths_BJ, _ = self.weigh(votes, self.weights(coupling_BJI))
        return RoutingOutput(poses_BJE, lengths_BJ, coupling_BJI)

    def weights(self, coupling_BJI: Tensor, activations_BI: Tensor | None = None) -> Tensor:
        """The couplings with the priors."""
        return coupling_BJI if self.prior_JI is None else coupling_BJI + self.prior_JI
