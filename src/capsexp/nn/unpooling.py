"""Max pooling that records the positions of the maxima, and the unpooling that puts values back there."""

import torch
import torch.nn.functional as F
from torch import Tensor


def max_pool(maps_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of every 2x2 values, and its position.

    Args:
        maps_BCHW: both sides even.

    Returns:
        The maxima (B, C, H/2, W/2), and their positions y*W + x in their map, int64; of equal values the first counts.

    Example:
        >>> max_pool(torch.tensor([[[[1.0, 4.0], [3.0, 2.0]]]]))
        (tensor([[[[4.]]]]), tensor([[[[1]]]]))
    """
    pooled, places = F.max_pool2d(maps_BCHW, 2, return_indices=True)
    return pooled, places


def max_unpool(maps_BCHW: Tensor, places_BCHW: Tensor) -> Tensor:
    """Maps of twice the height and width, with the values at their positions and zero everywhere else.

    The result is that of torch's ``max_unpool2d``, which raises an error under deterministic algorithms.  No two 2x2
    windows share a position, so neither sums nor the order of writes matter here.

    Args:
        maps_BCHW: the values.
        places_BCHW: positions of the same shape, from :func:`max_pool` of maps of twice the height and width.

    Example:
        >>> max_unpool(*max_pool(torch.tensor([[[[1.0, 4.0], [3.0, 2.0]]]])))
        tensor([[[[0., 4.],
                  [0., 0.]]]])
    """
    batch, channels, height, width = maps_BCHW.shape
    # Convolutions leave the channels of a pixel adjacent, so these are views, and an image is contiguous in memory.
    in_image_BCHW = places_BCHW * channels + torch.arange(channels, device=places_BCHW.device)[:, None, None]
    empty_BN = maps_BCHW.new_zeros(batch, channels * 4 * height * width)
    filled_BN = empty_BN.scatter_(1, _pixel_by_pixel(in_image_BCHW), _pixel_by_pixel(maps_BCHW))
    return filled_BN.view(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


def _pixel_by_pixel(maps_BCHW: Tensor) -> Tensor:
    return maps_BCHW.permute(0, 2, 3, 1).flatten(1)
