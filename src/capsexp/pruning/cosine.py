"""Greedy elimination of the most similar filters.

Reference: Wang 2019, *Research on Pruning Convolutional Neural Network, Autoencoder and Capsule Network*, section 2.1:
if w_i ~ c w_j with c > 0, unit i is redundant to unit j.  The paper picks pairs; the order of elimination, which turns
pairs into a score for every filter, is ours.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from capsexp.metrics.kernel_similarity import cosine_similarity
from capsexp.pruning.base import Criterion, Layer

DECIMALS = 12
"""Similarities are rounded to so many decimals, so that two copies of a filter do not differ by rounding errors."""


class Cosine(Criterion):
    """Score = the turn at which a filter is eliminated: 0 for the first one, O - 1 for the last one that is left.

    Each turn takes the most similar pair (cosine similarity) among the remaining filters.  Of the two it eliminates the
    one with the larger similarity to its next nearest filter, since this one is easier to replace.  If these
    similarities are equal too, it eliminates the one with the smaller norm, then the one with the higher index.  If
    several pairs are equally similar, the same rules apply to all their members.

    Because the score is an order of elimination, only one of two equal filters is eliminated early; the other one is
    then scored without it.  The sign counts: opposite filters are not similar (after a ReLU neither can replace the
    other).  A zero filter has similarity 0 to all, so this criterion does not treat a dead filter as a redundant one.

    The cost is O(O^2) per turn: 256 filters take a fraction of a second.

    Example:
        >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])[:, :, None, None]
        >>> Cosine().scores(Layer("conv1", weight))  # 1 and 2 are the closest, and 2 is near 0 as well
        tensor([2., 1., 0.], dtype=torch.float64)
    """

    needs: ClassVar[Literal["weights", "maps"]] = "weights"
    redundancy: ClassVar[bool] = True

    def scores(self, layer: Layer) -> Tensor:
        """The turn of each filter, see the class.

        Args:
            layer: the layer; only its weight is used.

        Returns:
            (O,), float64, on the CPU: a permutation of 0 .. O - 1.
        """
        filters_OF = layer.filters.cpu()
        similarity_OO = cosine_similarity(filters_OF).round(decimals=DECIMALS).fill_diagonal_(-math.inf)
        norms_O = torch.linalg.vector_norm(filters_OF, dim=1)
        # The filter that is never eliminated keeps the last turn.
        turns_O = torch.full((layer.channels,), float(layer.channels - 1), dtype=torch.float64)
        for turn in range(layer.channels - 1):
            gone = _next_to_go(similarity_OO, norms_O)
            turns_O[gone] = turn
            similarity_OO[gone, :] = similarity_OO[:, gone] = -math.inf
        return turns_O


def _next_to_go(similarity_OO: Tensor, norms_O: Tensor) -> int:
    """The filter to eliminate; -inf in ``similarity_OO`` marks eliminated filters and the diagonal."""
    nearest_O, next_nearest_O = similarity_OO.topk(2, dim=1).values.unbind(dim=1)
    # The members of the most similar pair (or pairs) are the filters with the largest maximum of their rows.  For a
    # member, the second largest value of its row is the largest similarity to a filter outside the pair.
    contenders_O = nearest_O == nearest_O.max()
    for key_O in (next_nearest_O, -norms_O):
        contenders_O &= key_O == key_O[contenders_O].max()
    return int(contenders_O.nonzero()[-1])
