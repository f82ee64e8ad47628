"""The state of filters: a sample of columns, or one number per image.

Both are on the CPU: they are a small part of the data, and the CPU processes them further.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def earlier_alike(labels_B: Tensor, classes: int) -> Tensor:
    """For each image, the number of earlier images of its class in the batch, int64 (B,)."""
    order_B = labels_B.argsort(stable=True)
    counts_K = labels_B.bincount(minlength=classes)
    begins_K = counts_K.cumsum(0) - counts_K
    earlier_B = torch.empty_like(labels_B)
    earlier_B[order_B] = torch.arange(len(labels_B)) - begins_K[labels_B[order_B]]
    return earlier_B


class ColumnSample:
    """A random sample of at most ``size`` columns of every class, in which all columns of a class are equally likely.

    Each image gets a random number, and the images with the smallest numbers of their class stay.  The numbers are
    drawn in the order of the images, so the sample does not depend on the division into batches.  It takes K * size * I
    numbers of float32, for any number of images: 23 MB for 10 classes, 500 columns each, and 1152 children.

    Args:
        classes: K.
        children: I.
        size: S.
        seed: seed of the random numbers.
    """

    def __init__(self, classes: int, children: int, size: int, seed: int) -> None:
        self._columns_KSI = torch.zeros(classes, size, children)
        self._numbers_KS = torch.full((classes, size), torch.inf, dtype=torch.float64)
        self._random = np.random.default_rng(seed)

    def add(self, columns_BI: Tensor, labels_B: Tensor) -> None:
        """Add a batch; only the columns that enter the sample are copied."""
        classes, size = self._numbers_KS.shape
        labels_B = labels_B.cpu()
        numbers_B = torch.from_numpy(self._random.random(len(labels_B)))
        promising = (numbers_B < self._numbers_KS.amax(1)[labels_B]).nonzero()[:, 0]
        promising = promising[numbers_B[promising].argsort()]
        # The smallest new number of a class competes with the largest in its sample, the second smallest with the
        # second largest, and so on.
        ranks = earlier_alike(labels_B[promising], classes)
        promising, ranks = promising[ranks < size], ranks[ranks < size]
        labels = labels_B[promising]
        places = self._numbers_KS.argsort(1, descending=True)[labels, ranks]
        better = numbers_B[promising] < self._numbers_KS[labels, places]
        chosen, labels, places = promising[better], labels[better], places[better]
        self._numbers_KS[labels, places] = numbers_B[chosen]
        self._columns_KSI[labels, places] = columns_BI[chosen.to(columns_BI.device)].float().cpu()

    def of(self, label: int) -> NDArray[np.float64]:
        """The columns (n, I) of a class, n <= S, in the order of their random numbers."""
        order_S = self._numbers_KS[label].argsort()
        filled = int(self._numbers_KS[label].isfinite().sum())
        columns: NDArray[np.float64] = self._columns_KSI[label, order_S[:filled]].double().numpy()
        return columns


class Scores:
    """One float64 number per image, class by class, in the order of the images.

    Args:
        counts_K: int64, the number of images of each class.
    """

    def __init__(self, counts_K: Tensor) -> None:
        self._counts_K = counts_K
        self._filled_K = torch.zeros_like(counts_K)
        self._scores_N = torch.zeros(int(counts_K.sum()), dtype=torch.float64)

    def add(self, scores_B: Tensor, labels_B: Tensor) -> None:
        """Add the scores of a batch."""
        scores_B, labels_B = scores_B.cpu(), labels_B.cpu()
        begins_K = self._counts_K.cumsum(0) - self._counts_K + self._filled_K
        self._scores_N[begins_K[labels_B] + earlier_alike(labels_B, len(begins_K))] = scores_B.double()
        self._filled_K += labels_B.bincount(minlength=len(begins_K))

    def of(self, label: int) -> Tensor:
        """The scores of a class."""
        return self._scores_N[int(self._counts_K[:label].sum()) :][: int(self._counts_K[label])]
