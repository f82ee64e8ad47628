r"""Which capsules of a layer have died: sums over images, which are never stored.

Two things can be meant by it, for the pose :math:`u_b` that a capsule has for image b.  Sahu and Altahhan (2024),
section 3.5, look at the length of the mean, :math:`|\frac{1}{B} \sum_b u_b|`.  It is also short where a capsule is
alive, but points one way for some images and the other way for others.  The stricter rule looks at the lengths
:math:`|u_b|`: a capsule is silent if their mean and their standard deviation are both small.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from capsexp.errors import require, require_number


class Activity(NamedTuple):
    """What the capsules of a layer do over all images, each (T, H, W).

    Attributes:
        length_of_mean: length of the mean pose, the paper's activation of a capsule; float64.
        mean_length: mean length of its poses; float64.
        std_length: standard deviation of the same, over all images (no n - 1); float64.
        dead: where ``length_of_mean`` is at most the threshold: the paper's rule.
        silent: where ``mean_length`` and ``std_length`` are both below the threshold: the stricter rule.
    """

    length_of_mean: Tensor
    mean_length: Tensor
    std_length: Tensor
    dead: Tensor
    silent: Tensor


class Shares(NamedTuple):
    """How many of the capsules are dead by either rule, in 0..1."""

    dead: float
    silent: float


def shares(layers: Iterable[Activity]) -> Shares:
    """Shares of all capsules of one or more layers together, each capsule counting once."""
    activities = list(layers)
    dead = torch.cat([activity.dead.flatten() for activity in activities])
    silent = torch.cat([activity.silent.flatten() for activity in activities])
    return Shares(float(dead.double().mean()), float(silent.double().mean()))


class DeadCapsules(Metric):
    """Lengths of a layer's capsules over all images seen since the last reset, and which of them are dead.

    The state is four sums: of poses, lengths, squared lengths, and images.  They are float64, so that the result does
    not depend on how the images were divided into batches; devices add up.  An update never waits for the device.

    A standard deviation below about 1e-8 of the mean is lost in rounding, far from any threshold that makes sense.  A
    capsule whose poses are not finite is neither dead nor silent.

    Args:
        threshold: length up to which a capsule is dead.
        **kwargs: torchmetrics' own options (``dist_sync_on_step``, ...).

    Example:
        Two images, and three types of capsules with two components: one whose sign varies, one that is alive, and one
        that is not.

        >>> metric = DeadCapsules(threshold=0.01)
        >>> metric.update(torch.tensor([[[0.5, 0.0], [0.3, 0.4], [0.0, 0.001]]]))
        >>> metric.update(torch.tensor([[[-0.5, 0.0], [0.0, 0.4], [0.0, 0.003]]]))
        >>> activity = metric.compute()
        >>> activity.length_of_mean.flatten().round(decimals=4).tolist()
        [0.0, 0.4272, 0.002]
        >>> activity.mean_length.flatten().round(decimals=4).tolist()
        [0.5, 0.45, 0.002]
        >>> activity.std_length.flatten().round(decimals=4).tolist()
        [0.0, 0.05, 0.001]
        >>> activity.dead.flatten().tolist(), activity.silent.flatten().tolist()
        ([True, False, True], [False, False, True])
        >>> shares([activity])
        Shares(dead=0.6666666666666666, silent=0.3333333333333333)
    """

    is_differentiable = False
    full_state_update = False
    poses_TDHW: Tensor
    lengths_THW: Tensor
    squares_THW: Tensor
    count: Tensor

    def __init__(self, threshold: float = 0.01, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = require_number("threshold", threshold, 0, open_ends="<")
        for name in ("poses_TDHW", "lengths_THW", "squares_THW", "count"):
            # A single zero takes the shape of the first poses that are added to it.
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, poses: Tensor) -> None:
        """Add the poses that a batch of images gave.

        Args:
            poses: (B, T, D, H, W), T types of capsules with D components on a grid; or (B, J, E), without a grid, which
                is taken as one of 1 x 1.  Any floating type.

        Raises:
            ConfigError: they have another number of dimensions, or do not fit those that were added before.
        """
        require(poses.ndim in (3, 5), "poses", "be (B, T, D, H, W) or (B, J, E)", tuple(poses.shape))
        poses_BTDHW = poses.view(*poses.shape, *[1] * (5 - poses.ndim))
        known = tuple(self.poses_TDHW.shape) or poses_BTDHW.shape[1:]
        require(poses_BTDHW.shape[1:] == known, "poses", f"be of one layer, {known} an image", tuple(poses.shape))
        squares_BTHW = poses_BTDHW.double().square().sum(2)  # torch's own norm takes up to ten times as long here
        self.poses_TDHW = self.poses_TDHW + poses_BTDHW.sum(0, dtype=torch.float64)
        self.lengths_THW = self.lengths_THW + squares_BTHW.sqrt().sum(0)
        self.squares_THW = self.squares_THW + squares_BTHW.sum(0)
        self.count = self.count + len(poses)

    def compute(self) -> Activity:
        """The capsules' lengths and both verdicts; not a number, and no verdict, when nothing was added.

        torchmetrics takes the dimensions off a layer that has a single capsule.
        """
        dim = -3 if self.poses_TDHW.ndim else 0
        length_of_mean_THW = (self.poses_TDHW / self.count).norm(dim=dim)
        mean_THW = self.lengths_THW / self.count
        # Where all lengths are alike, rounding may leave a difference below zero.
        std_THW = (self.squares_THW / self.count - mean_THW.square()).clamp_min(0).sqrt()
        dead_THW = length_of_mean_THW <= self.threshold
        silent_THW = (mean_THW < self.threshold) & (std_THW < self.threshold)
        return Activity(length_of_mean_THW, mean_THW, std_THW, dead_THW, silent_THW)
