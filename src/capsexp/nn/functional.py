"""Lengths of capsules, and the squashing functions."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

Squash = Callable[[Tensor, int], Tensor]
"""``squash(poses, dim)``: shortens every pose along ``dim`` to a length below one and keeps its direction."""


def at_least_single(values: Tensor) -> Tensor:
    """Half-precision values as float32, others unchanged: sums and squashing functions need the precision."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def lengths(poses: Tensor, dim: int = -1, *, keepdim: bool = False) -> Tensor:
    """Euclidean length of every pose, up to about 1e19 in float32; at zero its gradient is zero, not NaN.

    Args:
        poses: any shape.
        dim: the dimension that holds a pose's components.
        keepdim: True keeps ``dim``, with size one.

    Example:
        >>> lengths(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        tensor([5., 2.])
    """
    squares = poses.square().sum(dim, keepdim=keepdim)
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()


def squash(poses: Tensor, dim: int = -1) -> Tensor:
    """Length n becomes n^2 / (1 + n^2): Sabour et al. (2017), equation (1).  At zero, value and gradient are zero.

    Example:
        >>> squash(torch.tensor([0.0, 3.0]))  # 9 / 10
        tensor([0.0000, 0.9000])
    """
    n = lengths(poses, dim, keepdim=True)
    return poses * (n / (1 + n.square()))


def squash_linear(poses: Tensor, dim: int = -1) -> Tensor:
    """Length n becomes n / (1 + n): Sahu and Altahhan (2024), equation (4) as it is printed.

    At zero the value is zero, and the gradient is the identity.

    Example:
        >>> squash_linear(torch.tensor([0.0, 3.0]))  # 3 / 4
        tensor([0.0000, 0.7500])
    """
    return poses / (1 + lengths(poses, dim, keepdim=True))


def squash_exponential(poses: Tensor, dim: int = -1) -> Tensor:
    """Length n becomes 1 - exp(-n): Mazzia et al. (2021), Efficient-CapsNet, equation (1), after Xi et al. (2017).

    At zero the value is zero, and the gradient is the identity.

    Example:
        >>> squash_exponential(torch.tensor([0.0, 3.0]))  # 1 - exp(-3)
        tensor([0.0000, 0.9502])
    """
    n = lengths(poses, dim, keepdim=True)
    return poses * (-torch.expm1(-n) / n)


SQUASHES: Mapping[str, Squash] = MappingProxyType(
    {"classic": squash, "linear": squash_linear, "exponential": squash_exponential}
)
"""Squashing functions by the names that configurations use."""
