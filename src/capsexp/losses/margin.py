"""The margin loss of capsule networks."""

import torch.nn.functional as F
from torch import Tensor


def margin_loss(
    lengths_BK: Tensor, labels_B: Tensor, *, present: float = 0.9, absent: float = 0.1, down_weight: float = 0.5
) -> Tensor:
    """The margin loss, small if the capsule of the true class is long and all others are short.

    Sabour et al. (2017), equation (4): L_k = T_k max(0, m+ - |v_k|)^2 + lambda (1 - T_k) max(0, |v_k| - m-)^2, summed
    over the classes, averaged over the batch.

    Args:
        lengths_BK: lengths of the class capsules (B, K), at least 0; below 1 after a squash, not after ``Optimised``.
        labels_B: the class of each image, int64.
        present: m+, the length above which a present class adds nothing.
        absent: m-, the length below which an absent class adds nothing.
        down_weight: lambda, the weight of absent classes.

    Example:
        >>> margin_loss(torch.tensor([[0.8, 0.3]]), torch.tensor([0]))  # 0.1 ** 2 + 0.5 * 0.2 ** 2
        tensor(0.0300)
    """
    present_BK = F.one_hot(labels_B, lengths_BK.shape[1]).to(lengths_BK.dtype)
    missed_BK = (present - lengths_BK).clamp_min(0).square()
    wrong_BK = (lengths_BK - absent).clamp_min(0).square()
    return (present_BK * missed_BK + down_weight * (1 - present_BK) * wrong_BK).sum(1).mean()
