r"""Dead capsules of a layer, from sums over images without storing the poses.

There are two rules, for the pose :math:`u_b` of a capsule for image b.  Sahu and Altahhan (2024), section 3.5, use the
length of the mean, :math:`|\frac{1}{B} \sum_b u_b|`.  This length is also short if a capsule is alive but points in one
direction for some images and in the opposite direction for others.  The stricter rule uses the lengths
:math:`|u_b|`: a capsule is silent if their mean and their standard deviation are both small (Mitterreiter et al. 2023).

The code of Sahu and Altahhan counts *types*: the mean is over images and places, so a layer has C values, which are
rounded to three decimals before they are compared with the threshold.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from capsexp.errors import require, require_number


class Activity(NamedTuple):
    r"""The activity of the capsules of a layer over all images; each tensor is (T, H, W).

    Attributes:
        length_of_mean: length of the mean pose, the paper's activation of a capsule; float64.
        mean_length: mean length of the poses; float64.
        std_length: standard deviation of the lengths over all images (division by n, not n - 1); float64.
        dead: True where ``length_of_mean`` is at most the threshold: the rule of the paper.
        silent: True where ``mean_length`` and ``std_length`` are both below the threshold: the stricter rule.
        dead_types: (T,), True where the length of a type's mean pose over images and places, rounded to three decimals,
            is at most the threshold: the count of the authors' code.
        variation: share of a pose's size that changes with the image, :math:`\sqrt{1 - |E u|^2 / E |u|^2}` in 0..1;
            0 where all poses are zero; float64.  It does not depend on the scale of the poses.
    """

    length_of_mean: Tensor
    mean_length: Tensor
    std_length: Tensor
    dead: Tensor
    silent: Tensor
    dead_types: Tensor
    variation: Tensor


class Shares(NamedTuple):
    """The shares of capsules that are dead by each rule, in 0..1; the last one is that of types."""

    dead: float
    silent: float
    dead_types: float


def shares(layers: Iterable[Activity]) -> Shares:
    """Shares among all capsules of one or more layers together; each capsule counts once.

    Example:
        >>> metric = DeadCapsules()
        >>> metric.update(torch.tensor([[[0.5, 0.0], [0.0, 0.001]]]))  # of two capsules the second is dead
        >>> shares([metric.compute()])
        Shares(dead=0.5, silent=0.5, dead_types=0.5)
    """
    activities = list(layers)
    rules = [[getattr(activity, rule).flatten() for activity in activities] for rule in Shares._fields]
    return Shares(*(float(torch.cat(found).double().mean()) for found in rules))


class DeadCapsules(Metric):
    """Lengths of a layer's capsules over all images since the last reset, and the verdicts of both rules.

    The state is four sums: of poses, lengths, squared lengths, and images.  They are float64, so that the result does
    not depend on the division of the images into batches, and they are summed over devices.  An update never waits for
    the device.

    A standard deviation below about 1e-8 of the mean is lost in rounding; this is far from any sensible threshold.  A
    capsule with poses that are NaN or infinite is neither dead nor silent.

    Args:
        threshold: length up to which a capsule is dead.
        **kwargs: torchmetrics' own options (``dist_sync_on_step``, ...).

    Example:
        Two images, and three types of capsules with two components: one whose sign varies, one that is alive, and one
        that is dead.

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
        Shares(dead=0.6666666666666666, silent=0.3333333333333333, dead_types=0.6666666666666666)
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
        """Add the poses of a batch of images.

        Args:
            poses: (B, T, D, H, W), T types of capsules with D components on a grid; or (B, J, E), without a grid, which
                counts as a grid of 1 x 1.  Any floating type.

        Raises:
            ConfigError: the number of dimensions is wrong, or the shape differs from that of earlier poses.
        """
        require(poses.ndim in (3, 5), "poses", "be (B, T, D, H, W) or (B, J, E)", tuple(poses.shape))
        poses_BTDHW = poses.view(*poses.shape, *[1] * (5 - poses.ndim))
        known = tuple(self.poses_TDHW.shape) or poses_BTDHW.shape[1:]
        require(poses_BTDHW.shape[1:] == known, "poses", f"be of one layer, {known} per image", tuple(poses.shape))
        squares_BTHW = poses_BTDHW.double().square().sum(2)  # torch's own norm takes up to ten times as long here
        self.poses_TDHW = self.poses_TDHW + poses_BTDHW.sum(0, dtype=torch.float64)
        self.lengths_THW = self.lengths_THW + squares_BTHW.sqrt().sum(0)
        self.squares_THW = self.squares_THW + squares_BTHW.sum(0)
        self.count = self.count + len(poses)

    def compute(self) -> Activity:
        """The lengths of the capsules and the verdicts of both rules; NaN and False when nothing was added.

        For a layer with a single capsule torchmetrics removes the dimensions.
        """
        dim = -3 if self.poses_TDHW.ndim else 0
        length_of_mean_THW = (self.poses_TDHW / self.count).norm(dim=dim)
        mean_THW = self.lengths_THW / self.count
        # Where all lengths are equal, rounding may give a negative difference.
        std_THW = (self.squares_THW / self.count - mean_THW.square()).clamp_min(0).sqrt()
        dead_THW = length_of_mean_THW <= self.threshold
        silent_THW = (mean_THW < self.threshold) & (std_THW < self.threshold)
        mean_square_THW = self.squares_THW / self.count
        fixed_THW = length_of_mean_THW.square() / mean_square_THW
        variation_THW = (1 - fixed_THW).clamp_min(0).sqrt().where(mean_square_THW != 0, 0)
        return Activity(length_of_mean_THW, mean_THW, std_THW, dead_THW, silent_THW, self._dead_types(), variation_THW)

    def _dead_types(self) -> Tensor:
        if not self.poses_TDHW.ndim:
            return torch.zeros((), dtype=torch.bool)
        of_type_T = (self.poses_TDHW.mean((2, 3)) / self.count).norm(dim=1)
        dead_T: Tensor = of_type_T.round(decimals=3) <= self.threshold
        return dead_T
