"""The margin loss of capsule networks."""

import torch.nn.functional as F
from torch import Tensor


def margin_loss(
    lengths_BK: Tensor, labels_B: Tensor, *, present: float = 0.9, absent: float = 0.1, down_weight: float = 0.5
) -> Tensor:
    """The class that is there should be long, the others short: Sabour et al. (2017), equation (4).

    L_k = T_k max(0, m+ - |v_k|)^2 + lambda (1 - T_k) max(0, |v_k| - m-)^2, summed over the classes, averaged over the
    batch.

    Args:
        lengths_BK: lengths of the class capsules (B, K), in [0, 1).
        labels_B: the class of each image, int64.
        present: m+, the length from which on a present class costs nothing.
        absent: m-, the length up to which an absent class costs nothing.
        down_weight: lambda, the weight of absent classes.
    """
    present_BK = F.one_hot(labels_B, lengths_BK.shape[1]).to(lengths_BK.dtype)
    missed_BK = (present - lengths_BK).clamp_min(0).square()
    wrong_BK = (lengths_BK - absent).clamp_min(0).square()
    return (present_BK * missed_BK + down_weight * (1 - present_BK) * wrong_BK).sum(1).mean()
