"""What the capsules of a layer do, from all poses at once."""

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def activity(poses_NTDHW: Array, threshold: float) -> dict[str, npt.NDArray[np.generic]]:
    """Lengths and verdicts capsule by capsule, each (T, H, W)."""
    _, types, _, height, width = poses_NTDHW.shape
    shape = (types, height, width)
    numbers = {name: np.zeros(shape) for name in ("length_of_mean", "mean_length", "std_length")}
    verdicts = {name: np.zeros(shape, dtype=bool) for name in ("dead", "silent")}
    for capsule in np.ndindex(*shape):
        kind, row, column = capsule
        poses_ND = poses_NTDHW[:, kind, :, row, column]
        lengths = [math.hypot(*pose) for pose in poses_ND]
        length_of_mean = math.hypot(*(math.fsum(component) / len(component) for component in poses_ND.T))
        mean = math.fsum(lengths) / len(lengths)
        std = math.sqrt(math.fsum((length - mean) ** 2 for length in lengths) / len(lengths))
        for name, value in zip(numbers, (length_of_mean, mean, std), strict=True):
            numbers[name][capsule] = value
        verdicts["dead"][capsule] = length_of_mean <= threshold
        verdicts["silent"][capsule] = mean < threshold and std < threshold
    means_TD = poses_NTDHW.mean(axis=(0, 3, 4))
    types_dead = np.array([round(math.hypot(*mean), 3) <= threshold for mean in means_TD])
    return {**numbers, **verdicts, "dead_types": types_dead}
