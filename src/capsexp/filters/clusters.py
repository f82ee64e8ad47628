"""Filters that cluster the columns of a class and drop the clusters of outliers."""

import contextlib
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from capsexp.errors import require_int, require_number
from capsexp.filters.base import Filter
from capsexp.filters.memory import ColumnSample


class Clusters(NamedTuple):
    r"""Clusters of columns: of a class, or (with a leading dimension K) of all classes.

    A column x has the cost :math:`o_c + \sum_i p_{ci} (x_i - m_{ci})^2` in cluster c, and belongs to the cluster of
    least cost.

    Attributes:
        centres: m, (C, I) or (K, C, I), float64.
        precisions: p, of the same shape.
        offsets: o, (C,) or (K, C); infinite for a cluster that does not exist.
    """

    centres: Tensor
    precisions: Tensor
    offsets: Tensor

    def nearest(self, columns_BI: Tensor, labels_B: Tensor) -> Tensor:
        """Index of the cluster of each column, among the clusters of its class: int64 (B,)."""
        columns_BI = columns_BI.double()
        costs = [self._costs(columns_BI, labels_B, number) for number in range(self.offsets.shape[-1])]
        return torch.stack(costs).argmin(0)

    def _costs(self, columns_BI: Tensor, labels_B: Tensor, number: int) -> Tensor:
        distances_BI = (columns_BI - self.centres[labels_B, number]).square() * self.precisions[labels_B, number]
        return distances_BI.sum(1) + self.offsets[labels_B, number]


class Clustering(Filter):
    """A filter that clusters a sample of the ground-truth columns of each class and drops outliers.

    Source: Zhao et al. (2019), appendix A, 3(b), which only names the idea.  Here a cluster consists of outliers if
    less than ``smallest_share`` of the sample of its class belongs to it; the largest cluster of a class always stays.
    An image is kept if the nearest cluster of its own class stays.

    During the pass the filter holds ``sample`` columns per class, for any number of images; afterwards it holds only
    the clusters.

    Args:
        clusters: number of clusters of a class; fewer if its sample has fewer different columns.
        sample: number of columns of a class that are clustered; they are drawn at random if there are more.
        smallest_share: smallest share of the sample of a class in a cluster that stays.
        seed: seed of the sample and of the clustering, which otherwise depend only on the images and their order.
    """

    looks = 1

    def __init__(self, *, clusters: int = 3, sample: int = 500, smallest_share: float = 0.15, seed: int = 0) -> None:
        self.clusters = require_int("clusters", clusters, 1)
        self.sample = require_int("sample", sample, 1)
        self.smallest_share = require_number("smallest_share", smallest_share, 0, 1)
        self.seed = require_int("seed", seed, 0, 2**32 - 1)
        self._sample: ColumnSample | None = None

    @abstractmethod
    def fit(self, columns_NI: NDArray[np.float64], clusters: int) -> Clusters:
        """``clusters`` >= 2 clusters of the columns (N, I) of a class, of which at least as many differ."""

    def reset(self, classes: int, children: int) -> None:
        """Start a new sample."""
        self._classes = classes
        self._sample = ColumnSample(classes, children, self.sample, self.seed)

    def observe(self, columns_BI: Tensor, labels_B: Tensor) -> None:
        """Add a batch to the sample."""
        assert self._sample is not None
        self._sample.add(columns_BI, labels_B)

    def end_look(self) -> None:
        """Cluster the sample of every class, and drop the sample."""
        assert self._sample is not None
        found, stays = [], []
        for label in range(self._classes):
            columns_NI = self._sample.of(label)
            found.append(self._cluster(columns_NI))
            stays.append(self._staying(found[-1], columns_NI))
        self._clusters = Clusters(*(torch.stack(parts) for parts in zip(*found, strict=True)))
        self._stays_KC = torch.stack(stays)
        self._sample = None

    def keep(self, columns_BI: Tensor, labels_B: Tensor) -> Tensor:
        """Mask of the images in clusters that stay, bool (B,)."""
        self._clusters = Clusters(*(part.to(columns_BI.device) for part in self._clusters))
        self._stays_KC = self._stays_KC.to(columns_BI.device)
        return self._stays_KC[labels_B, self._clusters.nearest(columns_BI, labels_B)]

    def _cluster(self, columns_NI: NDArray[np.float64]) -> Clusters:
        """The clusters of a class, padded to ``self.clusters`` with clusters that do not exist."""
        if not len(columns_NI):  # a class without images gets a cluster that is never used
            columns_NI = np.zeros((1, columns_NI.shape[1]))
        number = min(self.clusters, len(np.unique(columns_NI, axis=0)))
        with _calm():
            found = self.fit(columns_NI, number) if number > 1 else _single(columns_NI)
        missing = self.clusters - number
        return Clusters(
            F.pad(found.centres, (0, 0, 0, missing)),
            F.pad(found.precisions, (0, 0, 0, missing)),
            F.pad(found.offsets, (0, missing), value=torch.inf),
        )

    def _staying(self, clusters: Clusters, columns_NI: NDArray[np.float64]) -> Tensor:
        """Mask of the clusters of a class that are not outliers, bool (C,)."""
        alone = Clusters(*(part[None] for part in clusters))
        numbers_N = alone.nearest(torch.from_numpy(columns_NI), torch.zeros(len(columns_NI), dtype=torch.int64))
        sizes_C = numbers_N.bincount(minlength=self.clusters)
        return (sizes_C.double() / max(1, len(columns_NI)) >= self.smallest_share) | (sizes_C == sizes_C.max())


class KMeans(Clustering):
    """K-means (Lloyd), the best of ``starts`` runs with k-means++; a column belongs to the nearest centre.

    Args:
        starts: number of random starts.
        **options: clusters, sample, smallest_share, seed.

    Example:
        >>> columns, labels = torch.tensor([[0.9, 0.1]] * 8 + [[0.1, 0.9]] * 8 + [[9.0, 9.0]]), torch.zeros(17).long()
        >>> chosen = KMeans(clusters=3, smallest_share=0.2)
        >>> chosen.reset(classes=1, children=2)
        >>> chosen.observe(columns, labels)
        >>> chosen.end_look()
        >>> chosen.keep(columns, labels).nonzero().flatten().tolist()  # the last one is an outlier
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    """

    def __init__(self, *, starts: int = 10, **options: Any) -> None:
        super().__init__(**options)
        self.starts = require_int("starts", starts, 1)

    def fit(self, columns_NI: NDArray[np.float64], clusters: int) -> Clusters:
        """The clusters of K-means, with precisions of 1 and offsets of 0."""
        from sklearn.cluster import KMeans as Estimator

        estimator = Estimator(clusters, n_init=self.starts, random_state=self.seed).fit(columns_NI)
        centres_CI = torch.from_numpy(estimator.cluster_centers_)
        return Clusters(centres_CI, torch.ones_like(centres_CI), centres_CI.new_zeros(clusters))


class GaussianMixture(Clustering):
    """A mixture of Gaussians with diagonal covariance, by expectation maximisation from a K-means start.

    A column belongs to its most probable Gaussian.

    Args:
        floor: number added to each variance, as a share of the mean variance of the columns of the class; otherwise a
            child with an almost constant coupling would determine the result alone.
        **options: clusters, sample, smallest_share, seed.

    Example:
        >>> columns, labels = torch.tensor([[0.9, 0.1]] * 8 + [[0.1, 0.9]] * 8 + [[9.0, 9.0]]), torch.zeros(17).long()
        >>> chosen = GaussianMixture(clusters=3, smallest_share=0.2)
        >>> chosen.reset(classes=1, children=2)
        >>> chosen.observe(columns, labels)
        >>> chosen.end_look()
        >>> chosen.keep(columns, labels).nonzero().flatten().tolist()  # the last one is an outlier
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    """

    def __init__(self, *, floor: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        self.floor = require_number("floor", floor, 0, open_ends="<")

    def fit(self, columns_NI: NDArray[np.float64], clusters: int) -> Clusters:
        """The Gaussians; the cost of a column is -2 times the logarithm of its probability, up to a constant."""
        from sklearn.mixture import GaussianMixture as Estimator

        # Centred and scaled, since the estimator's sums of squares need small numbers.
        mean_I, scale = columns_NI.mean(0), np.sqrt(columns_NI.var(0).mean())
        estimator = Estimator(clusters, covariance_type="diag", reg_covar=self.floor, random_state=self.seed)
        estimator.fit((columns_NI - mean_I) / scale)
        centres_CI = estimator.means_ * scale + mean_I
        precisions_CI = 1 / (estimator.covariances_ * scale**2)
        offsets_C = np.log(estimator.covariances_).sum(1) - 2 * np.log(estimator.weights_)
        return Clusters(*(torch.from_numpy(part) for part in (centres_CI, precisions_CI, offsets_C)))


def _single(columns_NI: NDArray[np.float64]) -> Clusters:
    """One cluster, to which all columns belong, with any centre."""
    centre_1I = torch.from_numpy(columns_NI[:1])
    return Clusters(centre_1I, torch.ones_like(centre_1I), centre_1I.new_zeros(1))


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """A context with one thread, since several would sum in any order, and without warnings about similar columns."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with threadpool_limits(1):
            yield
