r"""The choice of a layer's children among its parents, from sums over images without storing the couplings.

Source: Mitterreiter, Koch, Giesen and Laue (2023), "Why capsule neural networks do not scale", and the code of their
experiments.  A coupling :math:`c_{bij}` of child i with parent j counts as *kept* where it exceeds 1.5 / J, one and a
half times what an even choice among J parents gives.  A child is *active* for an image if any of its couplings is kept.
With the share :math:`a_i` of images for which child i is active,

.. math:: \mathrm{bonding} = \frac{\sum_i a_i \beta_i}{\sum_i a_i}, \qquad
   \beta_i = \frac{1}{a_i} \frac{1}{B} \sum_b \max_j k_{bij},

where k is the kept coupling, or 0.  The dynamics of a child are the standard deviation of its kept couplings over the
images for which it is active, averaged over the parents, and divided by the largest of these couplings and by
:math:`\sqrt{(1 - 1/J) / J}`, the largest deviation that numbers in 0..1 with the mean 1/J can have.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from capsexp.errors import require, require_int, require_number

TINY = 1e-9
"""Added to denominators, as in the authors' code."""


class Vibrance(NamedTuple):
    """Shares of the children of a layer, in 0..1.

    Attributes:
        alive: children whose lengths have a mean or a standard deviation of at least the threshold.
        active: mean over the children of the share of images for which they are active.
        active_alive: the same mean over the children that are alive; NaN where none is.
    """

    alive: float
    active: float
    active_alive: float


class Dynamics(NamedTuple):
    """The choice of a layer's children, float64.

    Attributes:
        dead: (I,), True where the mean and the standard deviation of a child's lengths are below the threshold.
        inactive_rate: (I,), share of images for which a child has no kept coupling.
        mean_max: (I,), mean of a child's largest kept coupling over the images for which it is active.
        std: (J, I), standard deviation of kept couplings over these images.
        bonding: the mean of ``mean_max`` over the children, weighted by their active rates.
        dynamics: the mean of the children's dynamics, weighted by their active rates.
        vibrance: shares of children that are alive and active.
        correlation: Pearson's correlation of a child's length with its largest kept coupling over all images and
            children; NaN where one of them is constant.
    """

    dead: Tensor
    inactive_rate: Tensor
    mean_max: Tensor
    std: Tensor
    bonding: float
    dynamics: float
    vibrance: Vibrance
    correlation: float


class CouplingDynamics(Metric):
    """Bonding strength, dynamics and vibrance of a layer's children over all images since the last reset.

    The state is sums per child and parent, in float64, and the largest kept coupling of each child; an update never
    waits for the device.  Children of a layer of windows are those of a window, and its windows count as images; with
    a mask, only children that exist count.

    Couplings are taken as the algorithm returns them.  Those that do not add up to 1 over the parents, as max-min's,
    are kept by the same bound.

    Args:
        parents: J, at least 2: one parent leaves no choice.
        children: I.
        factor: a coupling is kept above this factor divided by J.
        threshold: bound of the mean and of the standard deviation of lengths below which a child is dead.
        **kwargs: torchmetrics' own options.

    Example:
        One of two children chooses the same parent for both images, the other does not choose:

        >>> metric = CouplingDynamics(parents=2, children=2)
        >>> coupling, lengths = torch.tensor([[[0.9, 0.5], [0.1, 0.5]]]), torch.tensor([[0.6, 0.0]])
        >>> metric.update(coupling.repeat(2, 1, 1), lengths.repeat(2, 1))
        >>> found = metric.compute()
        >>> found.inactive_rate.tolist(), round(found.bonding, 4), round(found.dynamics, 4)
        ([0.0, 1.0], 0.9, 0.0)
        >>> found.vibrance
        Vibrance(alive=0.5, active=0.5, active_alive=1.0)
    """

    full_state_update = False
    images_I: Tensor
    active_I: Tensor
    max_I: Tensor
    largest_I: Tensor
    kept_JI: Tensor
    squares_JI: Tensor
    lengths_I: Tensor
    length_squares_I: Tensor
    max_squares_I: Tensor
    products_I: Tensor

    def __init__(
        self, parents: int, children: int, *, factor: float = 1.5, threshold: float = 0.01, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.factor = require_number("factor", factor, 0)
        self.threshold = require_number("threshold", threshold, 0, open_ends="<")
        self.parents = require_int("parents", parents, 2)
        self.child_count = require_int("children", children, 1)
        one = ("images_I", "active_I", "max_I", "lengths_I", "length_squares_I", "max_squares_I", "products_I")
        for name in one:
            self.add_state(name, torch.zeros(children, dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("kept_JI", "squares_JI"):
            self.add_state(name, torch.zeros(parents, children, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("largest_I", torch.zeros(children, dtype=torch.float64), dist_reduce_fx="max")

    def update(self, coupling_BJI: Tensor, lengths_BI: Tensor, mask_BI: Tensor | None = None) -> None:
        """Add the couplings and the children's lengths of a batch of images.

        Args:
            coupling_BJI: (B, J, I), any floating type.
            lengths_BI: lengths of the children's poses, or their activations.
            mask_BI: the children that exist; None if all do.

        Raises:
            ConfigError: the shapes are not those of the layer.
        """
        expected = (self.parents, self.child_count)
        require(
            coupling_BJI.shape[1:] == expected,
            "coupling",
            f"be (B, J, I) with J, I = {expected}",
            tuple(coupling_BJI.shape),
        )
        require(lengths_BI.shape == coupling_BJI[:, 0].shape, "lengths", "be (B, I)", tuple(lengths_BI.shape))
        kept_BJI = coupling_BJI.double()
        kept_BJI = torch.where(kept_BJI > self.factor / self.parents, kept_BJI, 0)
        lengths_BI = lengths_BI.double()
        there_BI = torch.ones_like(lengths_BI) if mask_BI is None else mask_BI.double()
        if mask_BI is not None:
            kept_BJI = kept_BJI.masked_fill(mask_BI.logical_not()[:, None], 0)
            lengths_BI = lengths_BI.masked_fill(mask_BI.logical_not(), 0)
        largest_BI = kept_BJI.amax(1)
        self.images_I = self.images_I + there_BI.sum(0)
        self.active_I = self.active_I + (largest_BI > 0).sum(0)
        self.max_I = self.max_I + largest_BI.sum(0)
        self.max_squares_I = self.max_squares_I + largest_BI.square().sum(0)
        self.kept_JI = self.kept_JI + kept_BJI.sum(0)
        self.squares_JI = self.squares_JI + kept_BJI.square().sum(0)
        self.lengths_I = self.lengths_I + lengths_BI.sum(0)
        self.length_squares_I = self.length_squares_I + lengths_BI.square().sum(0)
        self.products_I = self.products_I + (lengths_BI * largest_BI).sum(0)
        if len(largest_BI):
            self.largest_I = torch.maximum(self.largest_I, largest_BI.amax(0))

    def compute(self) -> Dynamics:
        """The figures of all images; NaN where nothing was added."""
        rate_I = self.active_I / self.images_I
        mean_max_I = self.max_I / self.images_I / (rate_I + TINY)
        std_JI = self._std(rate_I)
        bound = (1 / self.parents * (1 - 1 / self.parents)) ** 0.5
        own_I = std_JI.mean(0) / (self.largest_I + TINY) / bound
        mean_I = self.lengths_I / self.images_I
        std_I = (self.length_squares_I / self.images_I - mean_I.square()).clamp_min(0).sqrt()
        dead_I = (mean_I < self.threshold) & (std_I < self.threshold)
        alive_I = dead_I.logical_not() & (self.images_I > 0)
        vibrance = Vibrance(float(alive_I.double().mean()), float(rate_I.nanmean()), float(rate_I[alive_I].nanmean()))
        return Dynamics(
            dead_I,
            1 - rate_I,
            mean_max_I,
            std_JI,
            _weighted(mean_max_I, rate_I),
            _weighted(own_I, rate_I),
            vibrance,
            self._correlation(),
        )

    def _std(self, rate_I: Tensor) -> Tensor:
        """Standard deviation of kept couplings over the images for which a child is active, (J, I)."""
        rate_I = rate_I + TINY
        mean_JI = self.kept_JI / self.images_I / rate_I
        # The mean of (k - m)^2 over all images, less m^2 for each of those without a kept coupling.
        spread_JI = self.squares_JI / self.images_I - 2 * mean_JI * self.kept_JI / self.images_I + mean_JI.square()
        without_I = 1 - self.active_I / self.images_I
        return (spread_JI / rate_I - mean_JI.square() * without_I / rate_I).clamp_min(0).sqrt()

    def _correlation(self) -> float:
        n = self.images_I.sum()
        x, y = self.lengths_I.sum() / n, self.max_I.sum() / n
        covariance = self.products_I.sum() / n - x * y
        variances = (self.length_squares_I.sum() / n - x * x) * (self.max_squares_I.sum() / n - y * y)
        # Sums of equal numbers differ from zero by their rounding.
        noise = 1e-14 * float((self.length_squares_I.sum() / n) * (self.max_squares_I.sum() / n))
        return float(covariance / variances.sqrt()) if float(variances) > noise else float("nan")


def _weighted(values_I: Tensor, weights_I: Tensor) -> float:
    """The mean over the children that exist, by their weights; 0 if all weights are 0."""
    there_I = weights_I.isfinite()
    weights_I, values_I = weights_I[there_I], values_I[there_I]
    return float((values_I * weights_I).mean() / (weights_I.mean() + TINY))
