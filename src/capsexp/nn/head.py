"""Class scores from the poses of class capsules, where a routing's activations are none."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SharedScore(nn.Module):
    """One linear map from the pose of a class capsule to its score, shared by all classes.

    Source: Tsai et al. (2020).  The scores are logits: they are trained by the cross-entropy.

    Args:
        dim: E, components of a class capsule.

    Example:
        >>> SharedScore(16)(torch.rand(5, 10, 16)).shape
        torch.Size([5, 10])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(dim)  # as torch.nn.Linear begins
        self.weight_E = nn.Parameter(torch.empty(dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(()).uniform_(-bound, bound))

    def forward(self, poses_BKE: Tensor) -> Tensor:
        """Scores (B, K) of poses (B, K, E)."""
        return F.linear(poses_BKE, self.weight_E[None]).squeeze(2) + self.bias  # an exporter wants a matrix
