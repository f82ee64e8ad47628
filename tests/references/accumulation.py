"""Master coefficients and correlations of couplings, from every image's coupling matrix, which are all kept.

Zhao et al. (2019), sections 4 to 6 and appendix A.  A coupling matrix is [j][i], parents by children: the paper's rows
(one a child) are the columns here, and its ground-truth column is the row of the image's own class.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Normalise = Callable[[Array], Array]


# -- normalisations, child by child ------------------------------------------------------------------------------------


def max_min(matrix_JI: Array, lower: float = 0.0, upper: float = 1.0) -> Array:
    """Each child's numbers mapped onto [lower, upper] over its parents; upper where they are all alike."""
    result_JI = np.empty_like(matrix_JI)
    for i in range(matrix_JI.shape[1]):
        least, most = min(matrix_JI[:, i]), max(matrix_JI[:, i])
        for j in range(matrix_JI.shape[0]):
            share = 1.0 if most == least else (matrix_JI[j, i] - least) / (most - least)
            result_JI[j, i] = lower + share * (upper - lower)
    return result_JI


def softmax(matrix_JI: Array) -> Array:
    """The softmax of each child's numbers over its parents."""
    result_JI = np.empty_like(matrix_JI)
    for i in range(matrix_JI.shape[1]):
        total = sum(np.exp(matrix_JI[j, i]) for j in range(matrix_JI.shape[0]))
        for j in range(matrix_JI.shape[0]):
            result_JI[j, i] = np.exp(matrix_JI[j, i]) / total
    return result_JI


def unchanged(matrix_JI: Array) -> Array:
    """For algorithms without a normalisation."""
    return matrix_JI


# -- master coefficients -----------------------------------------------------------------------------------------------


def containers(couplings_NJI: Array, labels_N: Labels, classes: int) -> Array:
    """Section 5, summation and division by class frequency; not a number for a class without images."""
    result_KJI = np.zeros((classes, *couplings_NJI.shape[1:]))
    for k in range(classes):
        count = 0
        for coupling_JI, label in zip(couplings_NJI, labels_N, strict=True):
            if label == k:
                result_KJI[k] += coupling_JI
                count += 1
        result_KJI[k] = result_KJI[k] / count if count else np.nan
    return result_KJI


def master(couplings_NJI: Array, labels_N: Labels, normalise: Normalise) -> Array:
    """Section 5: summation, normalisation of every container, and of container k its column k."""
    classes, children = couplings_NJI.shape[1:]
    result_JI = np.empty((classes, children))
    for k, container_JI in enumerate(containers(couplings_NJI, labels_N, classes)):
        result_JI[k] = normalise(container_JI)[k]
    return result_JI


def master_of_columns(couplings_NJI: Array, labels_N: Labels, normalise: Normalise) -> Array:
    """Appendix A, item 4: ground-truth columns alone, by class frequency, then normalised as one matrix."""
    classes, children = couplings_NJI.shape[1:]
    container_JI, counts_J = np.zeros((classes, children)), np.zeros(classes)
    for coupling_JI, label in zip(couplings_NJI, labels_N, strict=True):
        container_JI[label] += coupling_JI[label]
        counts_J[label] += 1
    return normalise(container_JI / counts_J[:, None])


def mean_coupling(couplings_NJI: Array, masks_NI: npt.NDArray[np.bool_] | None = None) -> Array:
    """The mean over images, child by child over those in which it is there; not a number where it never is."""
    parents, children = couplings_NJI.shape[1:]
    result_JI = np.full((parents, children), np.nan)
    for i in range(children):
        there = [n for n in range(len(couplings_NJI)) if masks_NI is None or masks_NI[n, i]]
        for j in range(parents):
            if there:
                result_JI[j, i] = sum(couplings_NJI[n, j, i] for n in there) / len(there)
    return result_JI


# -- correlations ------------------------------------------------------------------------------------------------------


def ground_truth(couplings_NJI: Array, labels_N: Labels) -> Array:
    """Each image's couplings with the capsule of its own class."""
    return np.array([coupling_JI[label] for coupling_JI, label in zip(couplings_NJI, labels_N, strict=True)])


def pearson(one_I: Array, other_I: Array) -> float:
    """Pearson's correlation; 0 where one of them is constant."""
    if np.ptp(one_I) == 0 or np.ptp(other_I) == 0:
        return 0.0
    return float(np.corrcoef(one_I, other_I)[0, 1])


def image_correlation(columns_NI: Array) -> Array:
    """Every pair of images, an image with itself included (figure 2)."""
    return np.array([[pearson(one_I, other_I) for other_I in columns_NI] for one_I in columns_NI])


def class_correlation(columns_NI: Array, labels_N: Labels, classes: int) -> Array:
    """Figure 3: the mean over all pairs of an image of class k and another image of class l."""
    result_KK = np.full((classes, classes), np.nan)
    for k in range(classes):
        for m in range(classes):
            pairs = [
                pearson(columns_NI[a], columns_NI[b])
                for a in range(len(labels_N))
                for b in range(len(labels_N))
                if a != b and labels_N[a] == k and labels_N[b] == m
            ]
            if pairs:
                result_KK[k, m] = sum(pairs) / len(pairs)
    return result_KK


def master_correlation(master_JI: Array, columns_NI: Array, labels_N: Labels) -> Array:
    """Figure 5: [j][k] is the mean correlation of the master's column j with the images of class k."""
    classes = len(master_JI)
    result_JK = np.full((classes, classes), np.nan)
    for j in range(classes):
        for k in range(classes):
            found = [pearson(master_JI[j], columns_NI[n]) for n in range(len(labels_N)) if labels_N[n] == k]
            if found:
                result_JK[j, k] = sum(found) / len(found)
    return result_JK


def class_responses(lengths_NK: Array, labels_N: Labels) -> Array:
    """Figure 7: [true class][capsule], the mean length."""
    classes = lengths_NK.shape[1]
    result_KK = np.full((classes, classes), np.nan)
    for k in range(classes):
        own = [lengths_NK[n] for n in range(len(labels_N)) if labels_N[n] == k]
        for capsule in range(classes):
            if own:
                result_KK[k, capsule] = sum(lengths_K[capsule] for lengths_K in own) / len(own)
    return result_KK


def intra_inter(correlation_KK: Array) -> tuple[float, float]:
    """Mean of the diagonal and mean of all else, without what is not a number."""
    own, others = [], []
    for k in range(len(correlation_KK)):
        for m in range(len(correlation_KK)):
            if not np.isnan(correlation_KK[k, m]):
                (own if k == m else others).append(correlation_KK[k, m])
    return (sum(own) / len(own) if own else np.nan, sum(others) / len(others) if others else np.nan)
