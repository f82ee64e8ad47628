"""The three squashing functions of one pose, a list of numbers that is not zero."""

from torch import Tensor

Pose = list[Tensor]


def length(pose: Pose) -> Tensor:
    """The root of the sum of squares."""
    return sum(x * x for x in pose) ** 0.5


def classic(pose: Pose) -> Pose:
    """Sabour et al. (2017), equation (1): |s|^2 / (1 + |s|^2) times s / |s|."""
    n = length(pose)
    return [n**2 / (1 + n**2) * (x / n) for x in pose]


def linear(pose: Pose) -> Pose:
    """Sahu and Altahhan (2024), equation (4): |s| / (1 + |s|) times s / |s|."""
    n = length(pose)
    return [n / (1 + n) * (x / n) for x in pose]


def exponential(pose: Pose) -> Pose:
    """Mazzia et al. (2021), equation (1): 1 - 1 / e^|s| times s / |s|."""
    n = length(pose)
    return [(1 - (-n).exp()) * (x / n) for x in pose]


SQUASHES = {"classic": classic, "linear": linear, "exponential": exponential}
