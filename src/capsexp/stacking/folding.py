"""From many models of one architecture to one that computes all of them, and back."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from capsexp.models.autoencoder import SharedDeconvolution
from capsexp.nn.capsules import ClassCapsules
from capsexp.nn.decoder import Decoder
from capsexp.stacking import capsules, layers
from capsexp.stacking.convolutions import Impl


@dataclass
class Fold:
    """What the layers of one folded model share.

    Attributes:
        members: N, how many models are computed at once.
        impl: of the convolutions.
        format: in which a member alone would have its maps (B, C, H, W) in memory; noise is drawn in it.
        layout: in which the stack has them.  On a CPU a pixel's channels side by side make poolings and grouped
            convolutions about twice as fast: together the members have many, however few each has.
        widths_N: how many channels each member has in the maps as they are now; their layer says so.
        generators: each member's stream of dropout noise, set before training.
    """

    members: int
    impl: Impl
    format: torch.memory_format = torch.contiguous_format
    layout: torch.memory_format = torch.channels_last
    widths_N: list[int] = field(default_factory=list)
    generators: list[torch.Generator] | None = None

    def own(self, member: int, channels: int) -> int:
        """How many of ``channels`` values behind one another are the member's own; what follows is padding.

        Args:
            member: which.
            channels: of the widest member: its channels, or its channels' places behind a flattening.
        """
        return channels // max(self.widths_N) * self.widths_N[member]

    def laid_out(self, maps_BCHW: Tensor) -> Tensor:
        """Maps in the stack's layout."""
        return maps_BCHW.to(memory_format=self.layout)


Leaf = Callable[[Sequence[Any], Fold], layers.Folded]

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
"""What is replaced.  A subclass may compute something else, so types are compared, not families."""

CHANNEL_WISE = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.MaxPool2d, nn.AvgPool2d)
"""Layers without parameters that look at each channel alone and make zeros of zeros, so that padding stays padding."""


def foldable(model: nn.Module) -> bool:
    """True if :func:`fold` can compute models like this one.

    Every layer must be known, and each parameter belong to one layer.  What a model does between its layers cannot be
    seen from outside: it must treat the channels of a map alike (flattening, activations that are zero at zero).
    """
    named = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return len(named) == len(list(model.parameters())) and all(map(_known, _outermost(model)))


def _outermost(model: nn.Module) -> Iterator[nn.Module]:
    """Its parts, but those inside of a layer that is replaced, which are that layer's own matter."""
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
    """True if a layer of a known type has no setting that its folded one lacks."""
    if isinstance(leaf, nn.Conv2d | nn.ConvTranspose2d):
        return leaf.groups == 1 and leaf.padding_mode == "zeros" and not isinstance(leaf.padding, str)
    if isinstance(leaf, nn.BatchNorm2d):
        return leaf.momentum is not None
    return not isinstance(leaf, ClassCapsules) or capsules.routes_alone(leaf)


def fold(models: Sequence[nn.Module], impl: Impl) -> tuple[nn.Module, Fold]:
    """One model that computes all of ``models``, and what its layers share.

    Its parameters and buffers have the names that they have in one of them, with a first dimension more; they are zero
    until :class:`Slots` loads them.  It takes images (B, S*C, H, W) of S streams and gives (B, N*K) for what is (B, K).

    Args:
        models: N models for which :func:`foldable` holds, alike in all but widths and the shares of dropout.
        impl: of the convolutions.

    Raises:
        ValueError: they have other layers than the first.
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
    """The model with another layer under a name; the layer, where that is the model itself."""
    if not name:
        return layer
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
    return model


def _format(model: nn.Module) -> torch.memory_format:
    """That of the maps behind convolutions with such weights."""
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    nhwc = any(weight.stride(1) == 1 and weight.stride(3) != 1 for weight in weights)
    return torch.channels_last if nhwc else torch.contiguous_format


class Slots:
    """Where in stacked tensors each member's own ones lie: member m's of shape s at ``[m][:s[0], :s[1], ...]``.

    Args:
        stacked: (N, ...) each, by name.
        shapes: of each member's tensors, by the same names.
    """

    def __init__(self, stacked: Mapping[str, Tensor], shapes: Sequence[Mapping[str, Sequence[int]]]) -> None:
        self._stacked = [tensor.detach() for tensor in stacked.values()]
        self._views = [
            {name: stacked[name].detach()[member][tuple(map(slice, shape))] for name, shape in own.items()}
            for member, own in enumerate(shapes)
        ]

    @torch.no_grad()
    def load(self, members: Sequence[Mapping[str, Tensor]]) -> None:
        """Take the members' tensors over; all else becomes zero, also what a member does not name."""
        torch._foreach_zero_(self._stacked)
        views, tensors = self._pairs(members)
        if views:
            torch._foreach_copy_(views, tensors)

    @torch.no_grad()
    def store(self, members: Sequence[Mapping[str, Tensor]]) -> None:
        """Give the members' tensors their values, those that they name."""
        views, tensors = self._pairs(members)
        if views:
            torch._foreach_copy_(tensors, views)

    def _pairs(self, members: Sequence[Mapping[str, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
        each = zip(self._views, members, strict=True)
        pairs = [(views[name], tensor) for views, own in each for name, tensor in own.items()]
        return [view for view, _ in pairs], [tensor for _, tensor in pairs]


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a model, folded or not, by name: what :class:`Slots` moves."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def beside(values_N: Tensor, stacked: Tensor) -> Tensor:
    """A number a member as (N, 1, ...), to go with a tensor (N, ...)."""
    return values_N.view(-1, *(1 for _ in stacked.shape[1:]))
