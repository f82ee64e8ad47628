"""The negative log-likelihood of activations that stand for probabilities."""

import torch.nn.functional as F
from torch import Tensor

LEAST = 1e-9
"""Activations and sums below this count as this, so that logarithm, quotient and gradient stay finite.

An image whose true class has a smaller share gives no gradient.
"""


def nll_loss(activations_BK: Tensor, labels_B: Tensor) -> Tensor:
    """The mean of -ln of the true class' part of the activations.

    Hahn et al. (2019) train with it: self-routing gives activations that add up to 1; those of other algorithms (their
    DR-n and EM-n) are divided by their sum.  A share below 1e-9 counts as 1e-9 and gives no gradient.

    Args:
        activations_BK: activations of the class capsules (B, K), at least 0.
        labels_B: the class of each image, int64.

    Example:
        >>> nll_loss(torch.tensor([[0.5, 1.5]]), torch.tensor([0]))  # -ln 0.25
        tensor(1.3863)
    """
    shares_BK = activations_BK / activations_BK.sum(1, keepdim=True).clamp_min(LEAST)
    return F.nll_loss(shares_BK.clamp_min(LEAST).log(), labels_B)
