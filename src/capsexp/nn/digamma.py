"""The digamma function of arguments from one half on, of operations that every device and exporter has."""

import torch
from torch import Tensor

SHIFT = 10
"""Steps up from the argument before the series begins; its first missing term is then below 5e-17."""

COEFFICIENTS = (-1 / 12, 1 / 120, -1 / 252, 1 / 240, -1 / 132, 691 / 32760, -1 / 12)
"""Of the powers -2, -4, ... of the argument in the asymptotic series: Bernoulli numbers B_2k / (2k), negative."""


def digamma(values: Tensor) -> Tensor:
    """The derivative of the logarithm of the gamma function.

    Source: Abramowitz and Stegun (1964), 6.3.5 (recurrence) and 6.3.18 (asymptotic series).

    Args:
        values: any shape, from 0.5 on.

    Example:
        >>> digamma(torch.tensor([1.0, 0.5]))  # minus Euler's constant, and that minus 2 ln 2
        tensor([-0.5772, -1.9635])
    """
    below = (values[..., None] + torch.arange(SHIFT, device=values.device)).reciprocal().sum(-1)
    far = values + SHIFT
    square = far.reciprocal().square()
    series = torch.zeros_like(far)
    for coefficient in reversed(COEFFICIENTS):
        series = (series + coefficient) * square
    return far.log() - 0.5 / far + series - below


def digamma_halves(freedom: Tensor, dim: int) -> Tensor:
    r"""The sum :math:`\sum_{d=1}^{D} \psi((\nu + 1 - d) / 2)`, which the mean log determinant of a Wishart matrix has.

    Two neighbours add up to one digamma of twice the argument, since :math:`\psi(z) + \psi(z + 1/2) = 2 \psi(2z) - 2
    \ln 2`, and steps of one are reciprocals.  So the sum has one digamma, or two for an odd D.

    Args:
        freedom: nu, degrees of freedom, at least D.
        dim: D.

    Example:
        >>> digamma_halves(torch.tensor(4.0), 3)  # of 2, 1.5 and 1
        tensor(-0.1179)
    """
    total = torch.zeros_like(freedom)
    if dim % 2:
        total, dim = digamma((freedom + 1 - dim) / 2), dim - 1
    if not dim:
        return total
    low = freedom + 1 - dim  # d = dim and dim - 1 are low / 2 and (low + 1) / 2
    pairs = dim // 2
    total = total + dim * (digamma(low) - _LN_2)
    steps = torch.arange(2 * (pairs - 1), device=low.device)
    return total + (2 * (pairs - 1 - steps // 2) / (low[..., None] + steps)).sum(-1)


_LN_2 = 0.6931471805599453
