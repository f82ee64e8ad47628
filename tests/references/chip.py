"""Channel independence by its definition: one singular value decomposition a channel."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def nuclear_norm(matrix_CL: Array) -> float:
    """The sum of the singular values."""
    return float(np.linalg.svd(matrix_CL, compute_uv=False).sum())


def channel_independence(maps_CL: Array) -> Array:
    """||F||_* - ||F with row c set to zero||_*, for each c."""
    whole = nuclear_norm(maps_CL)
    scores = []
    for channel in range(len(maps_CL)):
        without_CL = maps_CL.copy()
        without_CL[channel] = 0
        scores.append(whole - nuclear_norm(without_CL))
    return np.array(scores)
