"""The finish of a routing: the function from the weighted sum of votes to a parent's pose."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from capsexp.errors import require, require_choice, require_number
from capsexp.nn.functional import SQUASHES, lengths

MakeFinish = Callable[[int, int], nn.Module]
"""Constructor of a finish from J and E: a module from weighted sums (B, J, E) to poses (B, J, E)."""


class Squash(nn.Module):
    """A squashing function, with a trainable bias before it if one is wanted.

    Args:
        parents: J.
        dim: E, components of a parent's pose.
        kind: one of :data:`~capsexp.nn.functional.SQUASHES`.
        bias: True adds a trainable vector of each parent to its sum, zero at the start.
        epsilon: see :func:`squashed`.

    Example:
        >>> Squash(parents=2, dim=1)(torch.tensor([[[3.0], [-1.0]]]))
        tensor([[[ 0.9000],
                 [-0.5000]]])
    """

    bias_JE: Tensor | None

    def __init__(
        self, parents: int, dim: int, kind: str = "classic", *, bias: bool = False, epsilon: float = 0.0
    ) -> None:
        super().__init__()
        self.kind = require_choice("squash", kind, tuple(SQUASHES))
        require(isinstance(bias, bool), "bias", "be true or false", bias)
        self.epsilon = require_number("epsilon", epsilon, 0)
        self.register_parameter("bias_JE", nn.Parameter(torch.zeros(parents, dim)) if bias else None)

    def forward(self, sums_BJE: Tensor) -> Tensor:
        """Poses (B, J, E) of weighted sums (B, J, E)."""
        if self.bias_JE is not None:
            sums_BJE = sums_BJE + self.bias_JE
        return squashed(self.kind, sums_BJE, -1, self.epsilon)


def squashed(kind: str, sums: Tensor, dim: int, epsilon: float) -> Tensor:
    r"""Sums squashed along ``dim``; an epsilon shortens those that are not much longer than its root.

    The direction of a sum s of length n is :math:`s / n`.  Public code, among it that of Sahu and Altahhan (2024) with
    :math:`10^{-6}`, divides by :math:`\sqrt{n^2 + \epsilon}` instead, which lets short poses fade faster; at zero every
    squash then has the gradient zero.

    Args:
        kind: one of :data:`~capsexp.nn.functional.SQUASHES`.
        sums: any shape.
        dim: the dimension that holds a sum's components.
        epsilon: added to the squared length under the root; 0 for none.

    Example:
        >>> squashed("classic", torch.tensor([0.0, 3.0]), 0, epsilon=7.0)  # 9 / 10 * 3 / 4
        tensor([0.0000, 0.6750])
    """
    poses = SQUASHES[kind](sums, dim)
    if not epsilon:
        return poses
    n = lengths(sums, dim, keepdim=True)
    return poses * (n / (n.square() + epsilon).sqrt())


class LayerNorm(nn.LayerNorm):
    """Layer normalisation of each parent's components, with a gain and a shift that all parents share.

    Source: Ba, Kiros and Hinton (2016); Tsai et al. (2020) use it in place of a squash.  A single
    component has no variance and stays as it is.

    Args:
        parents: J; it has no effect.
        dim: E, components of a parent's pose.

    Example:
        >>> LayerNorm(2, 4)(torch.rand(5, 2, 4)).square().sum(2).round()[0]  # about E
        tensor([4., 4.], grad_fn=<SelectBackward0>)
    """

    def __init__(self, parents: int, dim: int) -> None:
        super().__init__(dim, elementwise_affine=dim > 1)

    def forward(self, sums_BJE: Tensor) -> Tensor:
        """Poses (B, J, E) of weighted sums (B, J, E)."""
        return sums_BJE if self.normalized_shape == (1,) else super().forward(sums_BJE)
