"""The margin loss of capsule networks."""

import torch.nn.functional as F
from torch import Tensor

from capsexp.errors import require_choice

REDUCTIONS = ("sum", "half_mean")


def margin_loss(
    lengths_BK: Tensor,
    labels_B: Tensor,
    *,
    present: float = 0.9,
    absent: float = 0.1,
    down_weight: float = 0.5,
    reduction: str = "sum",
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
        reduction: over the K classes: their ``sum`` (the paper), or ``half_mean``, half of their mean, as in the code
            that Sabour released and Zhao et al. (2019) adapted: 1 / (2 K) of the sum.

    Raises:
        ConfigError: ``reduction`` is neither of the two.

    Example:
        >>> margin_loss(torch.tensor([[0.8, 0.3]]), torch.tensor([0]))  # 0.1 ** 2 + 0.5 * 0.2 ** 2
        tensor(0.0300)
    """
    require_choice("reduction", reduction, REDUCTIONS)
    present_BK = F.one_hot(labels_B, lengths_BK.shape[1]).to(lengths_BK.dtype)
    missed_BK = (present - lengths_BK).clamp_min(0).square()
    wrong_BK = (lengths_BK - absent).clamp_min(0).square()
    losses_BK = present_BK * missed_BK + down_weight * (1 - present_BK) * wrong_BK
    return losses_BK.sum(1).mean() if reduction == "sum" else losses_BK.mean() / 2
