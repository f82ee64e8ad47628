"""The spread loss of EM routing."""

import torch.nn.functional as F
from torch import Tensor


def spread_loss(activations_BK: Tensor, labels_B: Tensor, *, margin: float) -> Tensor:
    """Zero if the activation of the true class is larger than every other by at least a margin.

    Hinton, Sabour and Frosst (2018): with the true class t, the sum over the wrong classes i of
    max(0, m - (a_t - a_i))^2, averaged over the batch.

    Args:
        activations_BK: activations of the class capsules (B, K).
        labels_B: the class of each image, int64.
        margin: m; in the paper it grows from .2 to .9 in the course of training.

    Example:
        >>> spread_loss(torch.tensor([[0.5, 0.25, 0.0]]), torch.tensor([0]), margin=0.5)  # .25 ** 2 + 0
        tensor(0.0625)
    """
    true_B1 = activations_BK.gather(1, labels_B[:, None])
    missed_BK = (margin - (true_B1 - activations_BK)).clamp_min(0).square()
    wrong_BK = 1 - F.one_hot(labels_B, activations_BK.shape[1]).to(activations_BK.dtype)
    return (wrong_BK * missed_BK).sum(1).mean()
