"""Folding: many models of one architecture become one model that computes all of them."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from capsexp.models.autoencoder import SharedDeconvolution
from capsexp.nn.capsules import ClassCapsules
from capsexp.nn.decoder import Decoder
from capsexp.stacking import capsules, layers
from capsexp.stacking.convolutions import Impl
from capsexp.stacking.layers import Fold

Leaf = Callable[[Sequence[Any], Fold], layers.FoldedLayer]

LEAVES: Mapping[type[nn.Module], Leaf] = MappingProxyType(
    {
        nn.Conv2d: layers.FoldedConv2d,
        nn.ConvTranspose2d: layers.FoldedConvTranspose2d,
        SharedDeconvolution: layers.FoldedSharedDeconvolution,
        nn.Linear: layers.FoldedLinear,
        nn.BatchNorm2d: layers.FoldedBatchNorm2d,
        nn.Dropout: layers.FoldedDropout,
        ClassCapsules: capsules.FoldedClassCapsules,
        Decoder: capsules.FoldedDecoder,
    }
)
"""The folded layer of each layer type.  Types are compared exactly, since a subclass may compute something else."""

CHANNEL_WISE = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.MaxPool2d, nn.AvgPool2d)
"""Layers without parameters that treat each channel independently and map zero to zero, so that padding stays zero."""


def foldable(model: nn.Module) -> bool:
    """True if :func:`fold` can compute models like this one.

    Every layer must be of a known type, and each parameter must belong to one layer.  The operations between the layers
    cannot be checked here: they must treat the channels of a map alike (flattening, activations that are zero at zero).
    """
    named = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return len(named) == len(list(model.parameters())) and all(map(_known, _outermost(model)))


def _outermost(model: nn.Module) -> Iterator[nn.Module]:
    """The modules of a model, without those inside a layer that is replaced as a whole."""
    yield model
    if type(model) not in LEAVES:
        for part in model.children():
            yield from _outermost(part)


def _known(module: nn.Module) -> bool:
    if type(module) in LEAVES:
        return _plain(module)
    if type(module) is nn.Flatten:
        return (module.start_dim, module.end_dim) == (1, -1)
    if type(module) in CHANNEL_WISE:
        return True
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return not own and next(module.children(), None) is not None


def _plain(leaf: nn.Module) -> bool:
    """True if a layer of a known type has only settings that its folded layer supports."""
    if isinstance(leaf, nn.Conv2d | nn.ConvTranspose2d):
        return leaf.groups == 1 and leaf.padding_mode == "zeros" and not isinstance(leaf.padding, str)
    if isinstance(leaf, nn.BatchNorm2d):
        return leaf.momentum is not None
    return not isinstance(leaf, ClassCapsules) or capsules.routes_alone(leaf)


def fold(models: Sequence[nn.Module], impl: Impl) -> tuple[nn.Module, Fold]:
    """One model that computes all of ``models``, and the shared state of its layers.

    Its parameters and buffers have the same names as in a single model and one more dimension in front.  They are zero
    until :class:`Slots` loads them.  The input is (B, S*C, H, W) for S streams; an output (B, K) becomes (B, N*K).

    Args:
        models: N models for which :func:`foldable` holds; they may differ in widths and dropout probabilities only.
        impl: the implementation of the convolutions.

    Raises:
        ValueError: a layer has another type than in the first model.
    """
    first = models[0]
    cpu = all(tensor.is_cpu for tensor in first.parameters())
    shared = Fold(len(models), impl, _format(first), torch.channels_last if cpu else torch.contiguous_format)
    folded = copy.deepcopy(first)
    for name, layer in first.named_modules(remove_duplicate=False):
        leaves = [model.get_submodule(name) for model in models]
        if any(type(leaf) is not type(layer) for leaf in leaves):
            raise ValueError(f"{name} is not the same kind of layer in all models")
        if type(layer) in LEAVES:
            folded = _replaced(folded, name, LEAVES[type(layer)](leaves, shared))
    return folded, shared


def _replaced(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """The model with one layer replaced; an empty name replaces the model itself."""
    if not name:
        return layer
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
    return model


def _format(model: nn.Module) -> torch.memory_format:
    """The memory format of the maps after the model's convolutions."""
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    nhwc = any(weight.stride(1) == 1 and weight.stride(3) != 1 for weight in weights)
    return torch.channels_last if nhwc else torch.contiguous_format


class Slots:
    """The position of each member's tensors in the stacked ones: shape s of member m at ``[m][:s[0], :s[1], ...]``.

    Args:
        stacked: tensors (N, ...), by name.
        shapes: the shapes of each member's tensors, by the same names.
    """

    def __init__(self, stacked: Mapping[str, Tensor], shapes: Sequence[Mapping[str, Sequence[int]]]) -> None:
        self._stacked = [tensor.detach() for tensor in stacked.values()]
        self._views = [
            {name: stacked[name].detach()[member][tuple(map(slice, shape))] for name, shape in own.items()}
            for member, own in enumerate(shapes)
        ]

    @torch.no_grad()
    def load(self, members: Sequence[Mapping[str, Tensor]]) -> None:
        """Copy the members' tensors into the stack; all other values become zero, also missing tensors of a member."""
        torch._foreach_zero_(self._stacked)
        views, tensors = self._pairs(members)
        if views:
            torch._foreach_copy_(views, tensors)

    @torch.no_grad()
    def store(self, members: Sequence[Mapping[str, Tensor]]) -> None:
        """Copy the stacked values back into the given tensors of the members."""
        views, tensors = self._pairs(members)
        if views:
            torch._foreach_copy_(tensors, views)

    def _pairs(self, members: Sequence[Mapping[str, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
        each = zip(self._views, members, strict=True)
        pairs = [(views[name], tensor) for views, own in each for name, tensor in own.items()]
        return [view for view, _ in pairs], [tensor for _, tensor in pairs]


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a model, folded or not, by name; :class:`Slots` copies them."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def beside(values_N: Tensor, stacked: Tensor) -> Tensor:
    """One number per member as (N, 1, ...), to broadcast with a tensor (N, ...)."""
    return values_N.view(-1, *(1 for _ in stacked.shape[1:]))
