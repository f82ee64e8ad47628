"""Pixel operations of the variations of images: rotated images, and pieces of photographs.

The functions compute all images of a data set at once, in integers or float64, so that every machine gives the same
bytes.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

TURNED_AT_ONCE = 2048
"""Number of images whose pixels are computed together: 13 MB in float64 for images of the size of MNIST."""


def rotated(images_NHW: NDArray[np.uint8], angles_N: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Every image rotated clockwise about its centre.

    The value of a pixel is the bilinear interpolation, in float64, of the image at the place from which it comes.  All
    pixels outside the image are black (0).  The value is rounded at the end.

    Args:
        images_NHW: uint8.
        angles_N: in radians.

    Returns:
        uint8 (N, H, W).
    """
    turned = np.empty_like(images_NHW)
    for start in range(0, len(images_NHW), TURNED_AT_ONCE):
        part = slice(start, start + TURNED_AT_ONCE)
        turned[part] = _turn(images_NHW[part], angles_N[part])
    return turned


def _turn(images_BHW: NDArray[np.uint8], angles_B: NDArray[np.float64]) -> NDArray[np.uint8]:
    count, height, width = images_BHW.shape
    down, right = np.mgrid[:height, :width] - np.array([height - 1, width - 1])[:, None, None] / 2
    cosine, sine = np.cos(angles_B)[:, None, None], np.sin(angles_B)[:, None, None]
    # All is black more than one pixel outside the image, so places farther out may be moved to there.
    rows = np.clip(cosine * down - sine * right + (height - 1) / 2, -1, height)
    columns = np.clip(sine * down + cosine * right + (width - 1) / 2, -1, width)
    top, left = np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)
    lower, righter = rows - top, columns - left
    # One black row above, two below (the lower neighbour of row `height` is read too), and so for columns.
    pixels, stride = np.pad(images_BHW, ((0, 0), (1, 2), (1, 2))).ravel(), width + 3
    place = (np.arange(count)[:, None, None] * (height + 3) + top + 1) * stride + left + 1
    above = pixels[place] * (1 - righter) + pixels[place + 1] * righter
    below = pixels[place + stride] * (1 - righter) + pixels[place + stride + 1] * righter
    values: NDArray[np.float64] = above * (1 - lower) + below * lower
    return np.rint(values).astype(np.uint8)


def gray_photographs() -> NDArray[np.uint8]:
    """scikit-learn's two photographs (2, 427, 640) in gray: .299 red + .587 green + .114 blue, rounded."""
    from sklearn.datasets import load_sample_images

    coloured = np.stack(load_sample_images().images).astype(np.int64)
    # In integers, so that the rounding is the same on every machine.
    thousandths = 299 * coloured[..., 0] + 587 * coloured[..., 1] + 114 * coloured[..., 2]
    gray: NDArray[np.uint8] = ((thousandths + 500) // 1000).astype(np.uint8)
    return gray


def windows(images_PHW: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Every piece of ``height`` x ``width`` as a view (P, rows, columns, height, width)."""
    view: NDArray[np.uint8] = sliding_window_view(images_PHW, (height, width), axis=(1, 2))
    return view


def textured(images_PHW: NDArray[np.uint8], height: int, width: int, min_std: float) -> NDArray[np.intp]:
    """The pieces of ``height`` x ``width`` whose pixels have a standard deviation of ``min_std`` or more.

    Returns:
        (M, 3): image, top row and left column of each, in ascending order.
    """
    pixels, count = images_PHW.astype(np.int64), height * width
    sums, squares = _window_sums(pixels, height, width), _window_sums(pixels**2, height, width)
    # count^2 times the variance, an integer.
    return np.argwhere(count * squares - sums**2 >= (count * min_std) ** 2)


def _window_sums(values_PHW: NDArray[np.int64], height: int, width: int) -> NDArray[np.int64]:
    sums: NDArray[np.int64] = np.pad(values_PHW, ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)
    above, below = sums[:, :-height], sums[:, height:]
    return below[..., width:] - below[..., :-width] - above[..., width:] + above[..., :-width]
