"""Filters that keep the images whose columns are most similar to the mean column of their class."""

from abc import abstractmethod

import torch
from torch import Tensor

from capsexp.errors import require, require_number
from capsexp.filters.base import Filter
from capsexp.filters.memory import Scores
from capsexp.metrics.coupling import standardised

NOISE = 1e-6
"""Largest difference of similarities that count as equal, relative to the similarity of a mean column with itself.

Couplings are float32, and their last digit may differ when the network processes the images again.
"""


class Similarity(Filter):
    """A filter that keeps the images of each class with the highest scores.

    Source: Zhao et al. (2019), appendix A, 3(c): "the routing coefficients that are most similar with respect to its
    own class are kept".  The score is the similarity of an image's ground-truth column with the mean column of its
    class, over all images; with ``contrast``, minus the largest similarity with the mean of another class.

    The filter makes two passes: for the means, and for the scores.  During the second pass it holds one number per
    image, the only state that grows with their number; afterwards only the lowest kept score per class.

    Args:
        keep: share of the images of every class to keep, rounded to whole images, at least one; images with the same
            score as the last of them are kept too.
        contrast: True if similarity with another class lowers the score of an image.
    """

    looks = 2

    def __init__(self, *, keep: float = 0.8, contrast: bool = False) -> None:
        self.share = require_number("keep", keep, 0, 1, open_ends="<")
        require(isinstance(contrast, bool), "contrast", "be true or false", contrast)
        self.contrast = contrast

    @abstractmethod
    def comparable(self, columns_NI: Tensor) -> Tensor:
        """Columns (N, I) as float64, transformed so that the scalar product of two is their similarity."""

    def reset(self, classes: int, children: int) -> None:
        """Drop means and scores."""
        self._sums_KI = torch.zeros(classes, children, dtype=torch.float64)
        self._counts_K = torch.zeros(classes, dtype=torch.int64)
        self._scores: Scores | None = None

    def observe(self, columns_BI: Tensor, labels_B: Tensor) -> None:
        """Sum the columns in the first pass, store the scores in the second one."""
        if self._scores is not None:
            self._scores.add(self._score(columns_BI, labels_B), labels_B)
            return
        self._sums_KI = self._sums_KI.to(columns_BI.device).index_add(0, labels_B, columns_BI.double())
        self._counts_K += labels_B.cpu().bincount(minlength=len(self._counts_K))

    def end_look(self) -> None:
        """Compute the means after the first pass, the lowest kept scores after the second one."""
        if self._scores is None:
            counts_K1 = self._counts_K[:, None].clamp_min(1).to(self._sums_KI.device)
            self._absent_K = self._counts_K == 0
            self._means_KI = self.comparable(self._sums_KI / counts_K1)
            self._scores = Scores(self._counts_K)
            return
        lowest = [self._lowest(self._scores.of(label)) for label in range(len(self._counts_K))]
        noise = NOISE * float(self._means_KI.square().sum(1).amax())
        self._lowest_K = torch.tensor(lowest, dtype=torch.float64, device=self._means_KI.device) - noise
        self._scores = None

    def keep(self, columns_BI: Tensor, labels_B: Tensor) -> Tensor:
        """Mask of the images whose score is at least the lowest kept score of their class, bool (B,)."""
        return self._score(columns_BI, labels_B) >= self._lowest_K[labels_B]

    def _score(self, columns_BI: Tensor, labels_B: Tensor) -> Tensor:
        """The scores of a batch, float64 (B,)."""
        similarity_BK = self.comparable(columns_BI) @ self._means_KI.T
        own_B1 = labels_B[:, None]
        scores_B = similarity_BK.gather(1, own_B1)[:, 0]
        if self.contrast:
            no_rival_BK = self._absent_K.to(labels_B.device).expand_as(similarity_BK).scatter(1, own_B1, True)
            rivals_B = similarity_BK.masked_fill(no_rival_BK, -torch.inf).amax(1)
            scores_B = scores_B - rivals_B.masked_fill(rivals_B.isinf(), 0)
        return scores_B

    def _lowest(self, scores_N: Tensor) -> float:
        """The lowest kept score of a class, by exact rank."""
        kept = max(1, round(self.share * len(scores_N)))
        return float(scores_N.sort(descending=True).values[kept - 1]) if len(scores_N) else torch.inf


class Pearson(Similarity):
    """The similarity is Pearson's correlation; 0 for a column of equal couplings.

    Example:
        >>> columns, labels = torch.tensor([[0.1, 0.2, 0.6], [0.1, 0.3, 0.9], [0.5, 0.4, 0.3]]), torch.zeros(3).long()
        >>> chosen = Pearson(keep=0.67)
        >>> chosen.reset(classes=1, children=3)
        >>> for _ in range(chosen.looks):  # the means, then the scores
        ...     chosen.observe(columns, labels)
        ...     chosen.end_look()
        >>> chosen.keep(columns, labels)
        tensor([ True,  True, False])
    """

    def comparable(self, columns_NI: Tensor) -> Tensor:
        """Columns minus their mean, at length 1."""
        return standardised(columns_NI)


class DotProduct(Similarity):
    """The similarity is the scalar product, so the strength of the couplings counts too.

    Example:
        >>> columns, labels = torch.tensor([[0.1, 0.2, 0.6], [0.1, 0.3, 0.9], [0.1, 0.1, 0.1]]), torch.zeros(3).long()
        >>> chosen = DotProduct(keep=0.67)
        >>> chosen.reset(classes=1, children=3)
        >>> for _ in range(chosen.looks):  # the means, then the scores
        ...     chosen.observe(columns, labels)
        ...     chosen.end_look()
        >>> chosen.keep(columns, labels)
        tensor([ True,  True, False])
    """

    def comparable(self, columns_NI: Tensor) -> Tensor:
        """Columns as float64, otherwise unchanged."""
        return columns_NI.double()
