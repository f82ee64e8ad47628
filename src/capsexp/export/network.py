"""A network prepared for tracing: in float32, for any batch size."""

import copy
import functools
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from capsexp.nn.capsules import CapsuleLayer, ClassCapsules, capsule_layers
from capsexp.nn.field import Field
from capsexp.nn.votes import GivenVotes, fold
from capsexp.routing.fixed import Fixed
from capsexp.types import RoutingOutput


def single(module: nn.Module) -> nn.Module:
    """A copy on the CPU in float32 and evaluation mode."""
    with torch.inference_mode(False):
        return copy.deepcopy(module).cpu().float().eval().requires_grad_(False)


def traceable(module: nn.Module) -> nn.Module:
    """A copy for tracing: capsule layers use materialised votes, and shared couplings are folded into weights."""
    module = copy.deepcopy(module)
    for layer in capsule_layers(module).values():
        shared_JI = _shared(layer)
        if shared_JI is not None:
            weight_JEDI = layer.weight.repeat_interleave(layer.child_count // layer.weight.shape[3], 3)
            layer.weight.data = fold(weight_JEDI, shared_JI).view_as(weight_JEDI)
        layer.route = functools.partial(_route, layer, shared_JI is not None)  # type: ignore[method-assign]
    return module


def _shared(layer: CapsuleLayer) -> Tensor | None:
    """The coupling (J, I) that a layer folds into its weight, if it has one; not one that weighs coordinates, too."""
    if isinstance(layer, ClassCapsules) and layer.offset_EI is not None:
        return None
    if layer.inference == "dynamic":
        return layer.routing.coupling_JI if type(layer.routing) is Fixed else None
    return layer.master_JI if layer.inference == "folded" else None


def _route(
    layer: CapsuleLayer,
    folded: bool,
    poses_BID: Tensor,
    mask_BI: Tensor | None = None,
    activations_BI: Tensor | None = None,
    field: Field | None = None,
    parents_BJE: Tensor | None = None,
) -> RoutingOutput:
    """``CapsuleLayer.route`` in plain operations that do not depend on the batch size."""
    votes = layer.votes(poses_BID, mask_BI, form="materialised")
    weigh = cast("Callable[..., RoutingOutput]", layer.routing.weigh)
    if folded:
        return weigh(votes, 1.0)
    built = GivenVotes(votes.materialise(), mask_BI, poses_BID, field)
    if layer.inference != "dynamic":
        return weigh(built, layer.master_JI)
    if layer.one_round:
        return cast("RoutingOutput", layer.routing.one_round(built, parents_BJE))
    used_BI = layer.activations_for_routing(poses_BID, mask_BI, activations_BI)
    return cast("RoutingOutput", layer.routing(built) if used_BI is None else layer.routing(built, used_BI))
