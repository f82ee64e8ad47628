"""The mean absolute correlation of channels, one pair and one image at a time."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def mean_maps(maps_BCHW: Array) -> Array:
    """Each channel's mean map as one row of its places."""
    batch, channels, height, width = maps_BCHW.shape
    rows = np.zeros((channels, height * width))
    for image in maps_BCHW:
        for channel in range(channels):
            rows[channel] += image[channel].reshape(-1) / batch
    return rows


def correlation(a: Array, b: Array) -> float:
    """Pearson's, and 0 where one of them is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def channel_correlation(maps_BCHW: Array) -> float:
    """Mean of |corr| over all pairs, a channel with itself included."""
    rows = mean_maps(maps_BCHW)
    return float(np.mean([abs(correlation(a, b)) for a in rows for b in rows]))
