"""Correlation of the channels of a layer, which training raises before channels are pruned."""

import torch
from torch import Tensor

from capsexp.nn.autocast import without_autocast
from capsexp.nn.functional import at_least_single

ROUNDINGS = 16
"""A channel is constant if it deviates from its mean by at most this many rounding errors of its largest value."""


def channel_correlation(maps_BCHW: Tensor) -> Tensor:
    r"""Mean absolute correlation of a layer's channels: Sahu and Altahhan (2024), equation (7).

    .. math:: \frac{1}{C^2} \sum_i \sum_j |\mathrm{corr}(f_i, f_j)|

    with f_i the mean map of channel i over the batch and Pearson's correlation over its H * W places; i = j counts too.
    Its gradient is finite everywhere.  A constant channel correlates with none, not even with itself: it adds 0 and
    gets no gradient.  (A channel also counts as constant if its deviations are only rounding errors: the mean of many
    0.1 is not 0.1.)

    Args:
        maps_BCHW: a layer's maps (B, C, H, W); half precision is computed in float32.

    Returns:
        A scalar from 0 to 1, at least 1 / C where no channel is constant.  NaN if a map holds NaN or
        infinite values.

    Example:
        >>> maps = torch.tensor([[0.0, 1.0], [0.0, 2.0], [1.0, 0.0]])[None, :, None, :]  # 3 channels of 1 x 2 places
        >>> channel_correlation(maps).round(decimals=4)
        tensor(1.)
    """
    maps_BCHW = at_least_single(maps_BCHW)
    with without_autocast(maps_BCHW.device.type):
        units_CL = _standardised(maps_BCHW)
        return (units_CL @ units_CL.T).abs().mean()


def _standardised(maps_BCHW: Tensor) -> Tensor:
    """Mean maps over the batch minus their mean over the L = H * W places, at length 1; constant maps are zero."""
    precision = torch.finfo(maps_BCHW.dtype)
    values_BCHW = maps_BCHW.detach()
    sizes_C = torch.maximum(values_BCHW.amax((0, 2, 3)), -values_BCHW.amin((0, 2, 3)))
    # Correlations do not depend on scale: after the division no square overflows or vanishes, and rounding is an eps.
    means_CL = maps_BCHW.mean(0).flatten(1) / sizes_C.clamp_min(precision.tiny**0.5)[:, None]
    centred_CL = means_CL - means_CL.mean(1, keepdim=True)
    squares_C1 = centred_CL.square().sum(1, keepdim=True)
    constant_C1 = squares_C1 <= (ROUNDINGS * precision.eps) ** 2 * centred_CL.shape[1]
    # Masked before the root and the division, whose gradients at zero are NaN or infinite.
    return centred_CL.masked_fill(constant_C1, 0) / squares_C1.masked_fill(constant_C1, 1).sqrt()
