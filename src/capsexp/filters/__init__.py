"""Filters of the images whose couplings enter the master coefficients, see :func:`capsexp.accumulate`.

:class:`Everything` keeps all images, :class:`KMeans` and :class:`GaussianMixture` those outside the small clusters of
their class, :class:`Pearson` and :class:`DotProduct` those that are most similar to the mean of their class.  One's own
inherits from :class:`Filter`.
"""

from capsexp.filters.base import Filter
from capsexp.filters.clusters import GaussianMixture, KMeans
from capsexp.filters.everything import Everything
from capsexp.filters.similarity import DotProduct, Pearson

__all__ = ["DotProduct", "Everything", "Filter", "GaussianMixture", "KMeans", "Pearson"]
