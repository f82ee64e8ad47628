"""Which images the filters keep, with all columns in memory, one image and one number at a time."""

import math
import statistics

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def correlation(a: Array, b: Array) -> float:
    """Pearson's; 0 where one of the two does not vary."""
    try:
        return statistics.correlation(a.tolist(), b.tolist())
    except statistics.StatisticsError:
        return 0.0


def dot_product(a: Array, b: Array) -> float:
    """The sum of the products."""
    return math.fsum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


MEASURES = {"pearson": correlation, "dot_product": dot_product}


def scores(name: str, columns_NI: Array, labels_N: Labels, contrast: bool = False) -> list[float]:
    """Every image's similarity with its class' mean, less the largest with another class' mean if there is contrast."""
    means = {}
    for label in sorted(set(labels_N.tolist())):
        own = [column.tolist() for column, each in zip(columns_NI, labels_N, strict=True) if each == label]
        means[label] = np.array([math.fsum(values) / len(values) for values in zip(*own, strict=True)])
    found = []
    for column, label in zip(columns_NI, labels_N.tolist(), strict=True):
        score = MEASURES[name](column, means[label])
        if contrast and len(means) > 1:
            score -= max(MEASURES[name](column, mean) for other, mean in means.items() if other != label)
        found.append(score)
    return found


def best(scores_N: list[float], labels_N: Labels, keep: float) -> list[bool]:
    """Which images are among the first of their class, that share of it; ties with the last of these stay."""
    kept = [False] * len(scores_N)
    for label in set(labels_N.tolist()):
        own = [image for image, each in enumerate(labels_N) if each == label]
        ranked = sorted((scores_N[image] for image in own), reverse=True)
        last = ranked[max(1, round(keep * len(own))) - 1]
        for image in own:
            kept[image] = scores_N[image] >= last - 1e-9
    return kept


def clusters(name: str, columns_NI: Array, labels_N: Labels, clusters: int, seed: int, floor: float = 0.1) -> Labels:
    """The cluster of every image within its class, as scikit-learn predicts it."""
    found = np.zeros(len(labels_N), dtype=np.int64)
    for label in set(labels_N.tolist()):
        own = columns_NI[labels_N == label]
        if name == "kmeans":
            model = KMeans(clusters, n_init=10, random_state=seed)
        else:
            least = floor * own.var(axis=0).mean()
            model = GaussianMixture(clusters, covariance_type="diag", reg_covar=least, random_state=seed)
        found[labels_N == label] = model.fit(own).predict(own)
    return found


def large(clusters_N: Labels, labels_N: Labels, smallest_share: float) -> list[bool]:
    """Which images are in a cluster that holds that share of its class, or in the class' largest."""
    kept = []
    for cluster, label in zip(clusters_N.tolist(), labels_N.tolist(), strict=True):
        own = clusters_N[labels_N == label].tolist()
        sizes = {each: own.count(each) for each in own}
        kept.append(sizes[cluster] / len(own) >= smallest_share or sizes[cluster] == max(sizes.values()))
    return kept
