"""Similarity of the filters of a layer.

Each quantity has one name: *similarity* is the cosine similarity ``s = a.b / (|a| |b|)``, *distance* is ``1 - s``.
(Wang 2019 calls s itself "cosine distance" in one place and speaks of the "minimum cosine distance" in others; that
minimum is 1 - the largest similarity here.)

Reference: Wang 2019, *Research on Pruning Convolutional Neural Network, Autoencoder and Capsule Network*, section 2.1.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from capsexp.errors import require


class Pair(NamedTuple):
    """Two filters of a layer, ``i < j``, and their cosine similarity."""

    i: int
    j: int
    similarity: float


class Extremes(NamedTuple):
    """The most similar two filters since the last reset.

    Attributes:
        max: largest off-diagonal cosine similarity, in [-1, 1]; a scalar.
        min_distance: 1 - ``max``, in [0, 2]; a scalar.
    """

    max: Tensor
    min_distance: Tensor


def flatten_filters(weight: Tensor) -> Tensor:
    """The weight of a layer, one row per filter.

    Args:
        weight: (O, ...), filters first: the weight of ``Conv2d`` (O, C, kH, kW) or ``Linear`` (O, F).  That of
            ``ConvTranspose2d`` is stored as (C, O, kH, kW): pass ``weight.transpose(0, 1)``.  In a grouped convolution
            a row holds only the inputs of its group, so rows of different groups belong to different channels.

    Returns:
        (O, F), F = the product of all other dimensions; a view where the weight is contiguous.

    Raises:
        ConfigError: the weight has fewer than two dimensions.
    """
    require(weight.ndim >= 2, "weight", "have the shape (filters, ...)", tuple(weight.shape))
    return weight.flatten(start_dim=1)


def cosine_similarity(filters_OF: Tensor) -> Tensor:
    """Cosine similarity of every two rows: ``s_ij = a_i.a_j / (|a_i| |a_j|)``.

    Args:
        filters_OF: (O, F), any floating type.  Its device must support float64 (Apple's MPS does not: move it first).

    Returns:
        (O, O), float64, exactly symmetric, in [-1, 1].  A zero row has similarity 0 to every row and to itself; the
        rest of the diagonal is 1 up to rounding.

    Example:
        >>> cosine_similarity(torch.tensor([[2.0, 0.0], [3.0, 3.0], [0.0, 0.0]])).round(decimals=4)
        tensor([[1.0000, 0.7071, 0.0000],
                [0.7071, 1.0000, 0.0000],
                [0.0000, 0.0000, 0.0000]], dtype=torch.float64)
    """
    filters_OF = filters_OF.double()
    norms_O1: Tensor = torch.linalg.vector_norm(filters_OF, dim=1, keepdim=True)
    # The division precedes the product: a zero row stays zero, and no product of two norms can overflow or vanish.
    units_OF = filters_OF / norms_O1.masked_fill(norms_O1 == 0, 1.0)
    products_OO = units_OF @ units_OF.T
    # A matrix product may round s_ij and s_ji differently.
    symmetric_OO: Tensor = (products_OO + products_OO.T) / 2
    return symmetric_OO.clamp(-1.0, 1.0)


def _without_diagonal(similarity_OO: Tensor) -> Tensor:
    """The similarities with -inf for every filter with itself."""
    own_OO = torch.eye(len(similarity_OO), dtype=torch.bool, device=similarity_OO.device)
    return similarity_OO.masked_fill(own_OO, -math.inf)


def most_similar_pair(filters_OF: Tensor) -> Pair:
    """The two filters with the largest cosine similarity; of equal ones the first in reading order.

    Args:
        filters_OF: (O, F), at least two rows.

    Returns:
        Their indices, the lower one first, and their similarity.

    Raises:
        ConfigError: there are fewer than two filters.

    Example:
        >>> most_similar_pair(torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]]))
        Pair(i=1, j=2, similarity=0.8)
    """
    count = len(filters_OF)
    require(count >= 2, "filters", "hold at least two filters", count)
    similarity_OO = _without_diagonal(cosine_similarity(filters_OF.detach()))
    # Row by row, the first of equal maxima lies above the diagonal: its mirror image comes later.
    i, j = divmod(int(similarity_OO.argmax()), count)
    return Pair(i, j, float(similarity_OO[i, j]))


class KernelSimilarity(Metric):
    """The largest cosine similarity between two different filters of a layer, over all updates since the last reset.

    ``max = max over i != j of a_i.a_j / (|a_i| |a_j|)`` and ``min_distance = 1 - max``.  The state is one float64
    number, the largest similarity so far, so devices combine by ``max``.  An update never waits for the device.

    A layer with one filter has no pair: both values are NaN.  They are also NaN if a weight is NaN.

    Reference: Wang 2019, section 2.1 (its figures plot ``min_distance``).

    Example:
        >>> metric = KernelSimilarity()
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]]))
        >>> largest, distance = metric.compute()
        >>> round(largest.item(), 4), round(distance.item(), 4)
        (0.8, 0.2)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    largest: Tensor

    def __init__(self, **kwargs: Any) -> None:
        """Initialise with torchmetrics' own options (``dist_sync_on_step``, ...)."""
        super().__init__(**kwargs)
        self.add_state("largest", torch.tensor(-math.inf, dtype=torch.float64), dist_reduce_fx="max")

    def update(self, weight: Tensor) -> None:
        """Add the weight of a layer.

        Args:
            weight: (O, ...), filters first, see :func:`flatten_filters`; calls may differ in the number of filters.
        """
        similarity_OO = cosine_similarity(flatten_filters(weight.detach()))
        self.largest = torch.maximum(self.largest, _without_diagonal(similarity_OO).amax())

    def compute(self) -> Extremes:
        """The largest similarity and the smallest distance, scalars on the metric's device; NaN without any pair."""
        largest = self.largest.masked_fill(self.largest == -math.inf, math.nan)
        return Extremes(max=largest, min_distance=1.0 - largest)
