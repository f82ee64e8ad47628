"""Streaming metrics of a network, as ``torchmetrics.Metric`` subclasses, and the pure functions that they use.

Means and correlations of couplings (:class:`ClassMean`, :class:`MeanCoupling`, :class:`ColumnCorrelation`,
:class:`FirstColumns`), the choice of a layer's children (:class:`CouplingDynamics`), dead capsules
(:class:`DeadCapsules`, :func:`shares`), the similarity of filters (:class:`KernelSimilarity`,
:func:`cosine_similarity`) and a running mean.  Each keeps sums or extremes, never lists.
"""

from capsexp.metrics.coupling import (
    ClassMean,
    ColumnCorrelation,
    FirstColumns,
    MeanCoupling,
    ground_truth_columns,
    intra_inter,
)
from capsexp.metrics.coupling_dynamics import CouplingDynamics
from capsexp.metrics.dead_capsules import DeadCapsules, shares
from capsexp.metrics.kernel_similarity import KernelSimilarity, cosine_similarity, most_similar_pair
from capsexp.metrics.running import RunningMean

__all__ = [
    "ClassMean",
    "ColumnCorrelation",
    "CouplingDynamics",
    "DeadCapsules",
    "FirstColumns",
    "KernelSimilarity",
    "MeanCoupling",
    "RunningMean",
    "cosine_similarity",
    "ground_truth_columns",
    "intra_inter",
    "most_similar_pair",
    "shares",
]
