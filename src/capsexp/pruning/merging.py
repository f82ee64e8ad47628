"""Which survivor takes over the work of a channel that goes, and by how much.

Reference: Wang 2019, *Research on Pruning Convolutional Neural Network, Autoencoder and Capsule Network*, section 2.1:
if w_i ~ c w_j with c > 0, unit i can go, and its outgoing weights, times c, are added to those of unit j.
"""

from typing import cast

import torch
from torch import Tensor, nn

from capsexp.metrics.kernel_similarity import cosine_similarity
from capsexp.nn.capsules import CapsuleLayer
from capsexp.nn.channels import ChannelLayer, Prunable
from capsexp.pruning.base import Layer
from capsexp.pruning.cosine import DECIMALS

Into = dict[int, tuple[int, float]]
"""Of one layer: a channel that goes, and the channel that stays and stands in for it, with the ratio c of the two."""

FAINT = 1e-6
"""A filter whose norm is at most this share of the layer's largest counts as zero.  Weight decay takes filters that
never answer towards zero without reaching it; as a partner such a one would get a ratio of millions."""


def partners(model: Prunable, name: str, kept: Tensor) -> Into:
    """For each channel of a layer that goes, the most similar one that stays.

    Filters are compared as the network uses them: those behind which a batch normalisation stands are scaled by its
    gamma / std (the sign of gamma counts), since the channel is relu(gamma * (conv - mean) / std + beta).  The ratio c
    is that of the least squares w_removed ~ c * w_kept, namely (w_removed . w_kept) / (w_kept . w_kept).

    What ``shrink`` makes of it gives the scores of the whole model where the two filters are proportional, and so are
    their biases (beta - gamma * mean / std behind a batch normalisation), by one positive ratio: ReLU and max pooling
    let a positive factor through.  Everywhere else it is an approximation.

    Channels that become capsules have no partners: a squashed pose does not grow with its length, so no ratio between
    two channels passes through.

    Args:
        model: before it is cut; of its batch normalisation the running statistics are used.
        name: one of its ``channel_layers``.
        kept: the indices of the channels that stay, as ``shrink`` takes them.

    Returns:
        By removed channel, in order.  Left out is a filter to which no survivor has a similarity above 0, and one that
        is zero (see :data:`FAINT`): there is nothing to fold.  Of equally similar survivors (to
        :data:`~capsexp.pruning.cosine.DECIMALS` decimals) the one with the lower index is taken.

    Raises:
        ConfigError: the filters hold NaN or infinity.
    """
    if not mergeable(model, model.channel_layers()[name]):
        return {}
    filters_OF = _without_faint(_as_used(model, name))
    similarity_OO = cosine_similarity(filters_OF).round(decimals=DECIMALS)
    stay = kept.cpu().sort().values
    found: Into = {}
    for gone in sorted(set(range(len(filters_OF))) - set(stay.tolist())):
        nearest = int(stay[similarity_OO[gone, stay].argmax()])  # of equal ones the first
        if similarity_OO[gone, nearest] > 0:
            found[gone] = (nearest, _ratio(filters_OF[gone], filters_OF[nearest]))
    return found


def mergeable(model: Prunable, layer: ChannelLayer) -> bool:
    """Whether a layer's channels reach all their readers as they are, not as components of capsules."""
    capsules = any(isinstance(model.get_submodule(reader.name), CapsuleLayer) for reader in layer.readers)
    return layer.dim == 1 and not capsules


def _as_used(model: Prunable, name: str) -> Tensor:
    """(O, F), float64 on the CPU: the filters, with the batch normalisation behind them folded in."""
    filters_OF = Layer(name, model.convolution(name).weight).filters.cpu()
    norm_name = model.channel_layers()[name].norm
    if norm_name is None:
        return filters_OF
    norm = cast("nn.BatchNorm2d", model.get_submodule(norm_name))
    variance_O = cast("Tensor", norm.running_var).cpu().double()
    return filters_OF * (norm.weight.detach().cpu().double() / (variance_O + norm.eps).sqrt())[:, None]


def _without_faint(filters_OF: Tensor) -> Tensor:
    norms_O1: Tensor = torch.linalg.vector_norm(filters_OF, dim=1, keepdim=True)
    return filters_OF.masked_fill(norms_O1 <= FAINT * norms_O1.max(), 0)


def _ratio(removed_F: Tensor, kept_F: Tensor) -> float:
    return float(removed_F @ kept_F) / float(kept_F @ kept_F)
