"""Merging: the partner of each removed channel among the kept ones, and the ratio of the two.

Reference: Wang 2019, *Research on Pruning Convolutional Neural Network, Autoencoder and Capsule Network*, section 2.1:
if w_i ~ c w_j with c > 0, unit i can be removed, and its outgoing weights, times c, are added to those of unit j.
"""

from typing import cast

import torch
from torch import Tensor, nn

from capsexp.errors import require
from capsexp.metrics.kernel_similarity import cosine_similarity
from capsexp.nn.capsules import CapsuleLayer
from capsexp.nn.channels import ChannelLayer, ChannelNetwork, convolution_of
from capsexp.pruning.base import Layer
from capsexp.pruning.cosine import DECIMALS

Into = dict[int, tuple[int, float]]
"""Of one layer: a removed channel, and the kept channel that replaces it, with the ratio c of the two."""

FAINT = 1e-6
"""A filter whose norm is at most this share of the largest of the layer counts as zero.  Weight decay moves filters
without a response towards zero, but not to zero; with such a partner a ratio would be in the millions."""


def partners(model: ChannelNetwork, name: str, kept: Tensor) -> Into:
    """For each removed channel of a layer, the most similar kept one.

    Filters are compared as the network uses them: filters with a batch normalisation after them are scaled by its
    gamma / std (the sign of gamma counts), since the channel is relu(gamma * (conv - mean) / std + beta).  The ratio c
    is that of the least squares w_removed ~ c * w_kept, namely (w_removed . w_kept) / (w_kept . w_kept).

    The model that ``shrink`` merges by this result gives the scores of the whole model if the two filters are
    proportional, and so are their biases (beta - gamma * mean / std with a batch normalisation), by one positive ratio:
    ReLU and max pooling preserve a positive factor.  Everywhere else it is an approximation.

    Channels that become capsules have no partners: a squashed pose does not grow in proportion to its length, so the
    ratio between two channels is lost.

    Args:
        model: the model before pruning; the running statistics of its batch normalisation are used.
        name: one of its ``channel_layers``.
        kept: the indices of the kept channels, as for ``shrink``.

    Returns:
        The partners by removed channel, in order.  A filter has none if no kept filter has a similarity above 0 to it,
        or if it is zero (see :data:`FAINT`): there is nothing to merge.  Of equally similar kept filters (to
        :data:`~capsexp.pruning.cosine.DECIMALS` decimals) the one with the lower index is the partner.

    Raises:
        ConfigError: the filters hold NaN or infinity, or the model has no such layer.

    Example:
        >>> from capsexp.models import CNN
        >>> model = CNN(image_shape=(1, 8, 8), classes=10, c1=2)
        >>> with torch.no_grad():
        ...     model.convolution("conv1").weight[1] = 3 * model.convolution("conv1").weight[0]
        >>> found = partners(model, "conv1", kept=torch.tensor([0]))
        >>> {gone: (partner, round(ratio, 3)) for gone, (partner, ratio) in found.items()}
        {1: (0, 3.0)}
    """
    layers = model.channel_layers()
    require(name in layers, "name", f"be one of the layers {', '.join(layers)}", name)
    if not mergeable(model, layers[name]):
        return {}
    filters_OF = _without_faint(_as_used(model, name))
    similarity_OO = cosine_similarity(filters_OF).round(decimals=DECIMALS)
    stay = kept.cpu().sort().values
    found: Into = {}
    for gone in sorted(set(range(len(filters_OF))) - set(stay.tolist())):
        nearest = int(stay[similarity_OO[gone, stay].argmax()])  # the first of equal ones
        if similarity_OO[gone, nearest] > 0:
            found[gone] = (nearest, _ratio(filters_OF[gone], filters_OF[nearest]))
    return found


def mergeable(model: ChannelNetwork, layer: ChannelLayer) -> bool:
    """True if the channels of a layer reach all their readers unchanged, not as components of capsules."""
    module = cast("nn.Module", model)
    capsules = any(isinstance(module.get_submodule(reader.name), CapsuleLayer) for reader in layer.readers)
    return layer.dim == 1 and not capsules


def _as_used(model: ChannelNetwork, name: str) -> Tensor:
    """(O, F), float64 on the CPU: the filters, with the batch normalisation after them folded in."""
    filters_OF = Layer(name, convolution_of(model, name).weight).filters.cpu()
    norm_name = model.channel_layers()[name].norm
    if norm_name is None:
        return filters_OF
    norm = cast("nn.BatchNorm2d", cast("nn.Module", model).get_submodule(norm_name))
    variance_O = cast("Tensor", norm.running_var).cpu().double()
    return filters_OF * (norm.weight.detach().cpu().double() / (variance_O + norm.eps).sqrt())[:, None]


def _without_faint(filters_OF: Tensor) -> Tensor:
    norms_O1: Tensor = torch.linalg.vector_norm(filters_OF, dim=1, keepdim=True)
    return filters_OF.masked_fill(norms_O1 <= FAINT * norms_O1.max(), 0)


def _ratio(removed_F: Tensor, kept_F: Tensor) -> float:
    return float(removed_F @ kept_F) / float(kept_F @ kept_F)
