"""CHIP's channel independence: the part of a layer's feature maps that is lost without a channel.

References: Sui, Yin, Xie, Phan, Zonouz & Yuan 2021, *CHIP: CHannel Independence-based Pruning for Compact Neural
Networks* (NeurIPS), section 3; Sahu & Altahhan 2024, *Mitigating Vanishing Activations in Deep CapsNets Using Channel
Pruning*.  For the maps F (C, L) of one image, L = H x W, the score of channel c is

    CI(c) = ||F||_* - ||F with row c set to zero||_*        (nuclear norms: sums of the singular values s_r).

Without row c, F^T F changes by a matrix of rank one.  So with the singular vectors U of the rows of F

    CI(c) = -1/pi * integral over t in (0, inf) of log w_c(t),   w_c(t) = 1 - sum_r U_cr^2 s_r^2 / (s_r^2 + t^2),

and one eigendecomposition per image, of the smaller one of F F^T and F^T F, replaces C + 1 singular value
decompositions.  Local letters: R, the min(C, L) singular values; Q, the nodes of the quadrature.
"""

import math
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from capsexp.errors import ConfigError, require, require_choice, require_int
from capsexp.nn.functional import at_least_single
from capsexp.pruning.base import Criterion, Layer

Per = Literal["image", "batch_mean", "rounded_batch_mean"]

CHUNK = {"cpu": 2**20, "cuda": 2**25}
"""Number of float64 values in use at once, by device: 8 MB fit into the cache of a CPU, a GPU needs many images.  An
image that needs more is scored alone."""

DOUBTFUL = 1e-8
"""An eigenvalue below this share of the largest is computed again: all have an error of about 1e-15 of the largest."""

EPSILON = torch.finfo(torch.float64).eps


class Quadrature(NamedTuple):
    """A quadrature rule over t, in units of the largest singular value.

    Attributes:
        floor: resolution of the rule: the error of the scores is up to three times the floor.
        nodes_Q: float64, values of t.
        weights_Q: float64, the factor 1/pi included.
    """

    floor: float
    nodes_Q: Tensor
    weights_Q: Tensor

    def on(self, device: torch.device) -> "Quadrature":
        """The rule with its tensors on a device."""
        return Quadrature(self.floor, self.nodes_Q.to(device), self.weights_Q.to(device))


class Chip(Criterion):
    """Score = channel independence, the mean over the images of a batch: low if other channels can replace the channel.

    A channel that is zero on every image scores exactly 0; no channel scores more than the mean norm of its maps.  The
    computation is in float64, on the device of the maps if it supports float64 and else on the CPU, in chunks of images
    so that memory stays bounded.

    The scores of a data set are the mean of the scores of its batches, weighted by their numbers of images (for
    ``per="image"`` they do not depend on the division into batches).  The caller takes this mean; this class scores one
    batch.

    Example:
        >>> maps = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 4.0]])[None, :, None, :]
        >>> Chip().scores(Layer("conv1", torch.ones(3, 1, 1, 1), maps)).round(decimals=6)  # 4 (sqrt(2) - 1) for twins
        tensor([3.0000, 1.6569, 1.6569], dtype=torch.float64)
    """

    needs: ClassVar[Literal["weights", "maps"]] = "maps"
    redundancy: ClassVar[bool] = True

    def __init__(self, per: Per = "image", nodes: int = 48) -> None:
        """Set the unit that is scored, and the precision.

        Args:
            per: "image" scores each image and takes the mean (CHIP's own code); "batch_mean" scores the mean of the
                batch's maps; "rounded_batch_mean" rounds this mean to 4 decimals first, in the precision of the maps,
                as the code of Sahu & Altahhan does (which then computes each norm by a decomposition in float32).
            nodes: nodes of the quadrature.  The error is up to 3 exp(-pi sqrt(nodes)) of the largest singular value
                of an image: 6e-8 with 32, 1e-9 with 48, 4e-11 with 64.  Rounding adds up to 1e-8 where singular values
                differ that much.

        Raises:
            ConfigError: ``per`` is none of the three, or ``nodes`` is not an integer from 8 to 128.
        """
        self.per = require_choice("per", per, get_args(Per))
        self.nodes = require_int("nodes", nodes, minimum=8, maximum=128)
        self._rule = quadrature(self.nodes)

    def scores(self, layer: Layer) -> Tensor:
        """The channel independence of each channel.

        Args:
            layer: the layer, with its maps.

        Returns:
            (O,), float64, on the CPU, in the unit of the maps.

        Raises:
            ConfigError: the layer has no maps, or maps without images or with NaN or infinity.
        """
        maps_BCL = _maps(layer)
        self._rule = self._rule.on(maps_BCL.device)  # kept, since a transfer makes the device wait
        if self.per == "batch_mean":
            maps_BCL = maps_BCL.mean(0, keepdim=True, dtype=torch.float64)
        elif self.per == "rounded_batch_mean":
            maps_BCL = at_least_single(maps_BCL).mean(0, keepdim=True).round(decimals=4)
        images, step = len(maps_BCL), _images_at_once(maps_BCL, self.nodes)
        chunks = (maps_BCL[first : first + step] for first in range(0, images, step))
        sums_C = [channel_independence(chunk_BCL, self._rule).sum(0) for chunk_BCL in chunks]
        return torch.stack(sums_C).sum(0).cpu() / images


def channel_independence(maps_BCL: Tensor, rule: Quadrature) -> Tensor:
    """CI(c) of each image, for all images at once.

    Args:
        maps_BCL: floating point, of any scale, finite.
        rule: from :func:`quadrature`, on the device of ``maps_BCL``.

    Returns:
        (B, C), float64, between 0 and the norm of the map of the channel, on the device of ``maps_BCL``.
    """
    # With this scale no square overflows or vanishes, and the largest singular value is at least 1 unless all are 0.
    scale_B11 = maps_BCL.abs().amax((1, 2), keepdim=True).double()
    unit_BCL = maps_BCL / torch.where(scale_B11 > 0, scale_B11, 1.0)
    wide = maps_BCL.shape[1] <= maps_BCL.shape[2]
    scores_BC = (_from_rows if wide else _from_columns)(unit_BCL, rule)
    # Bounds that hold by definition and that rounding must not break.
    return scores_BC.clamp_(min=0.0).minimum(torch.linalg.vector_norm(unit_BCL, dim=2)) * scale_B11[:, :, 0]


def quadrature(nodes: int) -> Quadrature:
    """The rule with the fewest nodes for an error bound that holds for all singular values.

    Hale, Higham & Trefethen 2008, *Computing A^alpha, log(A), and related matrix functions by contour integrals* (SIAM
    J. Numer. Anal. 46), section 3.  The singularities of log w lie on the imaginary axis, from -i to i.  Except for
    those within floor of 0, which only add to the error, log w is periodic and analytic in u for t = floor * sc(u | 1 -
    floor^2), a Jacobian elliptic function.  The midpoint rule then converges like exp(-2 pi^2 nodes / log(1 /
    floor^2)), and both errors have the same size for floor = exp(-pi sqrt(nodes)).

    To a relative error of the floor's size, sc(u) is sinh(u) in the lower half of the quarter period
    K = log(4 / floor), and 1 / (floor sinh(K - u)) in the upper half.

    Args:
        nodes: number of nodes, at least 8.
    """
    floor = math.exp(-math.pi * math.sqrt(nodes))
    period = math.log(4 / floor)
    u_Q = (torch.arange(nodes, dtype=torch.float64) + 0.5) * (period / nodes)
    upper_Q = u_Q > period / 2
    lower_half_Q = torch.where(upper_Q, period - u_Q, u_Q)
    t_Q, slope_Q = floor * lower_half_Q.sinh(), floor * lower_half_Q.cosh()
    # t -> floor / t takes one half to the other.
    nodes_Q = torch.where(upper_Q, floor / t_Q, t_Q)
    slopes_Q = torch.where(upper_Q, floor * slope_Q / t_Q.square(), slope_Q)
    return Quadrature(floor, nodes_Q, slopes_Q * (period / nodes / math.pi))


def _maps(layer: Layer) -> Tensor:
    """(B, C, L), the maps of the layer, detached, on a device that supports float64."""
    key, maps_BCHW = f"{layer.name}.maps", layer.maps_BCHW
    if maps_BCHW is None:
        raise ConfigError(key, "be given to a criterion that needs them", None)
    require(maps_BCHW.numel() > 0, key, "hold at least one image", tuple(maps_BCHW.shape))
    maps_BCL = maps_BCHW.detach().flatten(start_dim=2)
    # Extrema propagate NaN; isfinite() of all values would take a tenth of the time of the scores.
    finite = bool(maps_BCL.amax().maximum(-maps_BCL.amin()).isfinite())
    require(finite, key, "be finite", "NaN or infinity (did training diverge?)")
    return maps_BCL.cpu() if maps_BCL.device.type == "mps" else maps_BCL


def _images_at_once(maps_BCL: Tensor, nodes: int) -> int:
    """The number of images that fit into CHUNK, at least 1."""
    budget = CHUNK.get(maps_BCL.device.type, CHUNK["cpu"])
    _, channels, places = maps_BCL.shape
    rank = min(channels, places)
    return max(1, budget // (2 * channels * places + 4 * rank**2 + 2 * channels * (rank + nodes)))


# -- one eigendecomposition -------------------------------------------------------------------------------------------


def _from_rows(maps_BCL: Tensor, rule: Quadrature) -> Tensor:
    """(B, C), scores by F F^T = U diag(s^2) U^T; for C <= L, where U is square."""
    squares_BR, vectors_BCR = torch.linalg.eigh(maps_BCL @ maps_BCL.mT)
    # Rounding destroys a small eigenvalue, but not the projection on its vector: s = |F^T u|.
    doubtful = int((squares_BR < DOUBTFUL * squares_BR[:, -1:]).sum(1).max())
    squares_BR[:, :doubtful] = (vectors_BCR[:, :, :doubtful].mT @ maps_BCL).square_().sum(2)
    return _integral(vectors_BCR.square_(), squares_BR, None, rule)


def _from_columns(maps_BCL: Tensor, rule: Quadrature) -> Tensor:
    """(B, C), scores by F^T F = V diag(s^2) V^T, U = F V / s; for C > L, where U lacks columns."""
    _, vectors_BLR = torch.linalg.eigh(maps_BCL.mT @ maps_BCL)
    shares_BCR = (maps_BCL @ vectors_BLR).square_()
    squares_BR = shares_BCR.sum(1)
    # Where s is below the floor, u is only noise: its share goes to the rest.
    above_BR = squares_BR > rule.floor**2 * squares_BR.amax(1, keepdim=True)
    shares_BCR *= torch.where(above_BR, 1.0 / squares_BR, 0.0)[:, None]
    return _integral(shares_BCR, squares_BR, 1.0 - shares_BCR.sum(2, keepdim=True), rule)


def _integral(shares_BCR: Tensor, squares_BR: Tensor, rest_BC1: Tensor | None, rule: Quadrature) -> Tensor:
    """(B, C), the scores from U^2 and s^2.

    w(t) is written as rest + sum_r U_r^2 t^2 / (s_r^2 + t^2), rest = 1 - sum_r U_r^2.  All terms are positive, so that
    small values of w, which have the largest effect, are exact wherever U is square.

    Args:
        shares_BCR: U^2.
        squares_BR: s^2, in any order, the largest at least 1 unless all are 0.
        rest_BC1: None where U is square.
        rule: from :func:`quadrature`.
    """
    t2_Q, weights_Q = rule.nodes_Q.square(), rule.weights_Q
    largest_B1 = squares_BR.amax(1, keepdim=True).clamp(min=1.0)
    w_BCQ = shares_BCR @ (t2_Q / ((squares_BR / largest_B1)[:, :, None] + t2_Q))
    if rest_BC1 is not None:
        # The rest of a channel without which the rank is lower is 0, up to rounding.
        w_BCQ = (w_BCQ + rest_BC1).clamp_(min=EPSILON)
    return (w_BCQ.log_() @ -weights_Q) * largest_B1.sqrt()
