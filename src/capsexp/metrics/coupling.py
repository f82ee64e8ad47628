r"""Statistics of the couplings of a trained network, summed image by image without storing the couplings.

The ground-truth column of an image holds its couplings with the capsule of its own class, one per child (Zhao et al.
2019, section 4).  Correlations are Pearson's.  A column is standardised once, to mean 0 and length 1, and the
correlation of two columns is then their scalar product.  So the mean correlation of all pairs of two classes follows
from one sum per class,

.. math:: \frac{1}{n_k n_l} \sum_{a \in k} \sum_{b \in l} z_a \cdot z_b
   = \frac{1}{n_k n_l} \Big(\sum_{a \in k} z_a\Big) \cdot \Big(\sum_{b \in l} z_b\Big).

All sums are float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


def ground_truth_columns(coupling_BJI: Tensor, labels_B: Tensor) -> Tensor:
    """Each image's couplings with the capsule of its own class, (B, I).

    Example:
        >>> coupling = torch.tensor([[[0.9, 0.2], [0.1, 0.8]]])  # of 2 children with 2 classes
        >>> ground_truth_columns(coupling, torch.tensor([1]))
        tensor([[0.1000, 0.8000]])
    """
    return coupling_BJI[torch.arange(len(labels_B), device=labels_B.device), labels_B]


def standardised(columns_NI: Tensor) -> Tensor:
    """Rows minus their mean, scaled to length 1, in float64; a row of equal numbers becomes zero."""
    columns_NI = columns_NI.double()
    centred_NI = columns_NI - columns_NI.mean(1, keepdim=True)
    size_N1 = centred_NI.norm(dim=1, keepdim=True)
    # Equal float32 couplings may differ in their last digit, and their mean in float64 may differ from all of them.
    noise_N1 = columns_NI.abs().amax(1, keepdim=True) * (torch.finfo(torch.float32).eps * columns_NI.shape[1] ** 0.5)
    return torch.where(size_N1 > noise_N1, centred_NI / size_N1, 0)


class _Sums(Metric):
    """Running sums; each state is summed over devices."""

    full_state_update = False

    def _add_sum(self, name: str, *shape: int) -> None:
        self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")


class ClassMean(_Sums):
    """Mean of the values of the images of each class.

    Zhao et al. (2019): the means of coupling matrices (J, I) are the containers of section 5, divided by class
    frequency; the means of the lengths (K,) of the class capsules are the curves of figure 7.

    Args:
        classes: K.
        *shape: shape of the values of one image.

    Example:
        >>> mean = ClassMean(2, 1)
        >>> mean.update(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]))
        >>> mean.compute()
        tensor([[2.],
                [5.]], dtype=torch.float64)
    """

    sums: Tensor
    counts_K: Tensor

    def __init__(self, classes: int, *shape: int) -> None:
        super().__init__()
        self._add_sum("sums", classes, *shape)
        self._add_sum("counts_K", classes)

    def update(self, values: Tensor, labels_B: Tensor, kept_B: Tensor | None = None) -> None:
        """Add the values (B, ...) of a batch of images; with ``kept_B``, only those of the kept images.

        Images that are not kept add zeros: a selection of the others would have to wait for their number.
        """
        if kept_B is None:
            kept_B = torch.ones_like(labels_B, dtype=torch.bool)
        else:
            values = values.masked_fill(kept_B.logical_not().view(-1, *[1] * (values.dim() - 1)), 0)
        self.sums.index_add_(0, labels_B, values.double())
        self.counts_K.index_add_(0, labels_B, kept_B.double())

    def compute(self) -> Tensor:
        """The means (K, ...), float64; NaN for a class without images."""
        return self.sums / self.counts_K.view(-1, *[1] * (self.sums.dim() - 1))


class MeanCoupling(_Sums):
    """Mean coupling matrix over all images, and over all windows of a layer that has windows.

    Args:
        parents: J.
        children: I.

    Example:
        >>> mean = MeanCoupling(parents=2, children=1)
        >>> mean.update(torch.tensor([[[0.75], [0.25]], [[0.25], [0.75]]]))
        >>> mean.compute()
        tensor([[0.5000],
                [0.5000]], dtype=torch.float64)
    """

    sums_JI: Tensor
    counts_I: Tensor

    def __init__(self, parents: int, children: int) -> None:
        super().__init__()
        self._add_sum("sums_JI", parents, children)
        self._add_sum("counts_I", children)

    def update(self, coupling_BJI: Tensor, mask_BI: Tensor | None = None) -> None:
        """Add couplings (B, J, I); with a mask (B, I), only those of children that exist."""
        if mask_BI is None:
            self.sums_JI += coupling_BJI.sum(0, dtype=torch.float64)
            self.counts_I += len(coupling_BJI)
        else:
            self.sums_JI += (coupling_BJI * mask_BI[:, None]).sum(0, dtype=torch.float64)
            self.counts_I += mask_BI.sum(0)

    def compute(self) -> Tensor:
        """The mean (J, I), float64; NaN for a child that exists in no window."""
        return self.sums_JI / self.counts_I


class ColumnCorrelation(_Sums):
    """Mean correlation between the ground-truth columns of all images of two classes.

    Source: Zhao et al. (2019), figures 3 and 5.  Within a class no image is paired with itself.

    Args:
        classes: K.
        children: I.

    Example:
        >>> correlation = ColumnCorrelation(classes=2, children=3)
        >>> columns = torch.tensor([[0.1, 0.2, 0.3], [0.2, 0.4, 0.6], [0.3, 0.2, 0.1], [0.6, 0.4, 0.2]])
        >>> correlation.update(columns, torch.tensor([0, 0, 1, 1]))
        >>> correlation.compute().round(decimals=4)
        tensor([[ 1., -1.],
                [-1.,  1.]], dtype=torch.float64)
    """

    sums_KI: Tensor
    squares_K: Tensor
    counts_K: Tensor

    def __init__(self, classes: int, children: int) -> None:
        super().__init__()
        self._add_sum("sums_KI", classes, children)
        self._add_sum("squares_K", classes)
        self._add_sum("counts_K", classes)

    def update(self, columns_BI: Tensor, labels_B: Tensor) -> None:
        """Add the ground-truth columns (B, I) of images of these classes."""
        unit_BI = standardised(columns_BI)
        self.sums_KI.index_add_(0, labels_B, unit_BI)
        self.squares_K.index_add_(0, labels_B, unit_BI.square().sum(1))
        self.counts_K.index_add_(0, labels_B, torch.ones_like(labels_B, dtype=torch.float64))

    def compute(self) -> Tensor:
        """Correlations (K, K), symmetric; NaN where there is no pair."""
        pairs_KK = torch.outer(self.counts_K, self.counts_K) - self.counts_K.diag()
        sums_KK = self.sums_KI @ self.sums_KI.T - self.squares_K.diag()
        return torch.where(pairs_KK > 0, sums_KK / pairs_KK, torch.nan)

    def with_master(self, master_JI: Tensor) -> Tensor:
        """Mean correlation of the master's column of parent j (row) with the images of class k (column), (J, K)."""
        means_KI = self.sums_KI / self.counts_K[:, None]
        return standardised(master_JI.to(means_KI.device)) @ means_KI.T


class FirstColumns(_Sums):
    """The ground-truth columns of the first images, and their correlations: Zhao et al. (2019), figure 2.

    It works on one device only, since several devices have no common first images.

    Args:
        images: N, number of images.
        children: I.

    Example:
        >>> first = FirstColumns(images=2, children=3)
        >>> first.update(torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.5, 0.5, 0.5]]), torch.tensor([4, 7, 9]))
        >>> correlation, labels = first.compute()
        >>> round(float(correlation[0, 1]), 4), labels.tolist()
        (-1.0, [4, 7])
    """

    columns_NI: Tensor
    labels_N: Tensor

    def __init__(self, images: int, children: int) -> None:
        super().__init__()
        self._add_sum("columns_NI", images, children)
        self._add_sum("labels_N", images)
        self._seen = 0

    def reset(self) -> None:
        """Forget the images."""
        super().reset()
        self._seen = 0

    def update(self, columns_BI: Tensor, labels_B: Tensor) -> None:
        """Add the columns (B, I) and labels of a batch until N images are stored."""
        start, end = self._seen, min(self._seen + len(labels_B), len(self.labels_N))
        self.columns_NI[start:end] = columns_BI[: end - start].double()
        self.labels_N[start:end] = labels_B[: end - start].double()
        self._seen = end

    def compute(self) -> tuple[Tensor, Tensor]:
        """Correlations (n, n) and labels (n,) of the images seen, at most N."""
        unit_NI = standardised(self.columns_NI[: self._seen])
        return unit_NI @ unit_NI.T, self.labels_N[: self._seen].long()


class IntraInter(NamedTuple):
    """Mean correlation within the classes, and between pairs of different classes."""

    intra: float
    inter: float


def intra_inter(correlation_KK: Tensor) -> IntraInter:
    """Mean of the diagonal and mean of all other entries, without those that are NaN.

    Example:
        >>> intra_inter(torch.tensor([[0.75, 0.25], [0.25, 0.5]]))
        IntraInter(intra=0.625, inter=0.25)
    """
    own = torch.eye(len(correlation_KK), dtype=torch.bool, device=correlation_KK.device)
    return IntraInter(float(correlation_KK[own].nanmean()), float(correlation_KK[~own].nanmean()))
