"""Greedy elimination of the most similar filters.

Reference: Wang 2019, *Research on Pruning Convolutional Neural Network, Autoencoder and Capsule Network*, section 2.1:
if w_i ~ c w_j with c > 0, unit i adds nothing that unit j lacks.  The paper picks pairs; the order of elimination that
turns pairs into a score for every filter is ours.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from capsexp.metrics.kernel_similarity import cosine_similarity
from capsexp.pruning.base import Criterion, Layer

DECIMALS = 12
"""Similarities that differ by less are equal: two copies of a filter must not be told apart by rounding."""


class Cosine(Criterion):
    """Score = the turn at which a filter is eliminated: 0 for the first to go, O - 1 for the last one left.

    Each turn takes the most similar pair (cosine similarity) among the filters still there and eliminates the one of
    the two with the larger similarity to its next nearest filter, since it is the easier one to replace.  If these are
    equal too, the one with the smaller norm goes, then the one with the higher index.  If several pairs are equally
    similar, all their members compete by these same rules.

    Because the score is an order of elimination, of two twins only one goes early; the other one is then judged without
    its twin.  The sign counts: opposite filters are not alike (after a ReLU neither can stand in for the other).  A
    zero filter has similarity 0 to all, so this criterion does not treat a dead filter as a redundant one.

    The cost is O(O^2) a turn: 256 filters take a fraction of a second.

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
            layer: its weight is read.

        Returns:
            (O,), float64, on the CPU: a permutation of 0 .. O - 1.
        """
        filters_OF = layer.filters.cpu()
        similarity_OO = cosine_similarity(filters_OF).round(decimals=DECIMALS).fill_diagonal_(-math.inf)
        norms_O = torch.linalg.vector_norm(filters_OF, dim=1)
        # Whoever is never eliminated keeps the last turn.
        turns_O = torch.full((layer.channels,), float(layer.channels - 1), dtype=torch.float64)
        for turn in range(layer.channels - 1):
            gone = _next_to_go(similarity_OO, norms_O)
            turns_O[gone] = turn
            similarity_OO[gone, :] = similarity_OO[:, gone] = -math.inf
        return turns_O


def _next_to_go(similarity_OO: Tensor, norms_O: Tensor) -> int:
    """The filter to eliminate; -inf in ``similarity_OO`` marks the eliminated and a filter with itself."""
    nearest_O, next_nearest_O = similarity_OO.topk(2, dim=1).values.unbind(dim=1)
    # The members of the most similar pair (or pairs) are the filters whose nearest is nearest of all.  For a member,
    # the second largest of its row is the largest similarity to a filter outside the pair.
    contenders_O = nearest_O == nearest_O.max()
    for key_O in (next_nearest_O, -norms_O):
        contenders_O &= key_O == key_O[contenders_O].max()
    return int(contenders_O.nonzero()[-1])
