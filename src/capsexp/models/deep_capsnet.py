"""The deep capsule network of Sahu and Altahhan (2024), sized by its arguments."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from capsexp.errors import require, require_choice, require_int, require_number
from capsexp.models.base import CapsuleClassifier, check_activations, count_parameters, make_head
from capsexp.nn.capsules import ClassCapsules, ConvCapsules, MakeRouting, as_children
from capsexp.nn.channels import ChannelLayer, Reader
from capsexp.nn.primary import PrimaryCapsules
from capsexp.types import Capsules, RoutingOutput

MOST_LAYERS = 1000
"""Largest number of intermediate layers; the paper goes to some 30, and a mistyped number would fill the memory."""

GAIN = 2.0
"""Initial gain of poses before the squash with ``intermediate_std=preserving``, see :func:`preserving_std`."""


class DeepCapsNet(CapsuleClassifier):
    """A network of convolutions with batch normalisation, primary, intermediate and class capsules.

    Source: Sahu and Altahhan (2024), section 3.1.  With 32x32 images the maps are 32x32, 16x16 and 16x16.  Then
    come C types of capsules of D components on a grid of 7x7, which every intermediate layer keeps.

    Args:
        image_shape: (C, H, W) of the images.
        classes: number of classes K.
        routing: makes each capsule layer's routing from children, parents, dim_in and dim_out.
        capsules: C, types of primary and intermediate capsules.
        dim: D, components of these capsules.
        depth: I, number of intermediate layers, at most :data:`MOST_LAYERS`.
        dim_class: E, components of a class capsule.
        kernels: kernel size of each convolution of the backbone.
        strides: stride of each convolution of the backbone.
        paddings: padding of each convolution of the backbone.
        primary_kernel: kernel size of the primary capsules' convolution.
        primary_stride: stride of the primary capsules' convolution.
        primary_padding: padding of the primary capsules' convolution.
        intermediate_kernel: side of an intermediate capsule's window, odd; the padding keeps the grid.
        intermediate_std: initial standard deviation of the intermediate layers' matrices, or ``preserving``: see
            :func:`preserving_std`; None begins as the routing does.
        intermediate_normaliser: ``batch_norm`` normalises each component of each type's poses after an intermediate
            layer (Hahn et al. 2019); ``none`` leaves them.
        squash: squash of the primary capsules (the routing has its own).
        epsilon: of the primary capsules' squash, see :func:`~capsexp.nn.finish.squashed`.
        normaliser: what makes the primary capsules' poses: see :class:`~capsexp.nn.primary.PrimaryCapsules`.
        activation: the primary capsules' activations: as there.
        head: source of the class scores: ``activations`` of the class capsules, or ``linear``, a map from their poses.
        recompute: True to repeat an intermediate layer's forward pass in the backward pass instead of storing its
            values: less memory, more time, the same numbers.
        backbone: channels of the convolutions; None for C*D/4, C*D/2 and C*D (a pruned network has others).
        primary: channels of the primary capsules' convolution, a multiple of D; None for C*D.

    Example:
        >>> from capsexp.routing import Dynamic
        >>> model = DeepCapsNet(image_shape=(3, 16, 16), classes=10, routing=Dynamic, capsules=2, dim=4, depth=1)
        >>> model(torch.rand(2, 3, 16, 16)).shape, model.grid
        (torch.Size([2, 10]), (3, 3))
    """

    @classmethod
    def check_study(cls, study: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        """Check that the study names the network by its sizes: C20D8 has 20 capsules of 8 components."""
        name = study.get("net")
        if name is not None and "capsules" in arguments:
            require("dim" in arguments, "model.dim", "be there, since study.net names the network", None)
            true = f"C{arguments['capsules']}D{arguments['dim']}"
            require(name == true, "study.net", f"be {true}, what model.capsules and model.dim say, or null", name)

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        routing: MakeRouting,
        capsules: int = 20,
        dim: int = 8,
        depth: int = 0,
        dim_class: int = 16,
        kernels: Sequence[int] = (3, 3, 3),
        strides: Sequence[int] = (1, 2, 1),
        paddings: Sequence[int] = (1, 1, 1),
        primary_kernel: int = 3,
        primary_stride: int = 2,
        primary_padding: int = 0,
        intermediate_kernel: int = 3,
        intermediate_std: float | str | None = 0.5,
        intermediate_normaliser: str = "none",
        squash: str = "classic",
        epsilon: float = 0.0,
        normaliser: str = "squash",
        activation: str = "length",
        head: str = "activations",
        recompute: bool = False,
        backbone: Sequence[int] | None = None,
        primary: int | None = None,
    ) -> None:
        super().__init__()
        for key, value in (("capsules", capsules), ("dim", dim), ("dim_class", dim_class)):
            require_int(key, value, 0 if key == "dim_class" else 1)
        require(isinstance(recompute, bool), "recompute", "be true or false", recompute)
        self.depth, self.dim, self.recompute = require_int("depth", depth, 0, MOST_LAYERS), dim, recompute
        shapes = _convolutions(kernels, strides, paddings)
        last = _convolution("primary", primary_kernel, primary_stride, primary_padding)
        self.grid = _grid(image_shape, [*shapes, last])
        widths = _widths(backbone, capsules * dim, len(shapes))
        channels = capsules * dim if primary is None else require_int("primary", primary, 1)
        require(channels % dim == 0, "primary", f"be a multiple of dim ({dim})", primary)
        self.backbone = _backbone([image_shape[0], *widths], shapes)
        kernel, stride, padding = last
        self.primary = PrimaryCapsules(
            widths[-1],
            channels,
            dim,
            kernel=kernel,
            stride=stride,
            padding=padding,
            squash=squash,
            epsilon=epsilon,
            normaliser=normaliser,
            activation=activation,
        )
        require_choice("intermediate_normaliser", intermediate_normaliser, ("none", "batch_norm"))
        rule = "be false with intermediate_normaliser=batch_norm, whose statistics would count twice"
        require(not recompute or intermediate_normaliser == "none", "recompute", rule, recompute)
        self.intermediate = _intermediate(
            depth,
            channels // dim,
            dim,
            routing,
            intermediate_kernel,
            intermediate_std,
            intermediate_normaliser,
        )
        places = self.grid[0] * self.grid[1]
        self.class_capsules = ClassCapsules(channels // dim * places, classes, dim, dim_class, routing)
        check_activations(activation, self.class_capsules)
        self.head = make_head(head, self.class_capsules)

    def capsules(self, images_BCHW: Tensor) -> RoutingOutput:
        """Poses (B, K, E), activations (B, K) and coupling (B, K, I) of the class capsules."""
        capsules: Capsules = self.primary(self.backbone(images_BCHW))
        again = self.recompute and torch.is_grad_enabled()
        for layer in self.intermediate.values():
            capsules = checkpoint(_next, layer, capsules, use_reentrant=False) if again else _next(layer, capsules)
        output: RoutingOutput = self.class_capsules(as_children(capsules))
        return output

    def params_paper(self) -> int:
        """The true number of parameters, since the paper gives no formula."""
        return count_parameters(self)

    # -- pruning ------------------------------------------------------------------------------------------------------

    def channel_layers(self) -> dict[str, ChannelLayer]:
        """The backbone's convolutions and the primary capsules', each cut in multiples of D."""
        names = [f"conv{number}" for number in range(1, len(self.backbone) // 3 + 1)]
        readers = [*((Reader(f"backbone.{name}"),) for name in names[1:]), self.primary.readers("primary")]
        found = {
            name: ChannelLayer(
                f"backbone.{name}",
                f"backbone.relu{number}",
                reader,
                norm=f"backbone.norm{number}",
                step=self.dim,
            )
            for number, (name, reader) in enumerate(zip(names, readers, strict=True), 1)
        }
        return found | {"primary": self.primary.channel_layer("primary", [self._after_primary()])}

    def sized(self, widths: Mapping[str, int]) -> dict[str, Any]:
        """The arguments of a network like this one with other widths of these layers."""
        found = {**self.widths(), **widths}
        return {"primary": found.pop("primary"), "backbone": list(found.values()), "depth": self.depth}

    def _after_primary(self) -> Reader:
        if not self.depth:
            return Reader("class_capsules", self.grid[0] * self.grid[1])
        return Reader("intermediate.layer1", cast("ConvCapsules", self.intermediate["layer1"]).kernel ** 2)


def preserving_std(children: int, parents: int, dim: int) -> float:
    """The initial standard deviation of matrices at which poses do not fade, whatever the number of layers.

    Before training, a parent is 1/J of the sum of its children's votes.  Its length is g |u| for children of length
    |u|, where g = std * sqrt(D * I) / J.  The squash makes it (g|u|)^2 / (1 + (g|u|)^2), which has a fixed point above
    zero only for g >= 2.  For a smaller g, each further layer squares the remaining length.  ``preserving`` starts with
    g = 2.  (A position at the border of the grid has fewer children, so its g is smaller.)

    Args:
        children: I, number of children in a window.
        parents: J, number of parents.
        dim: D = E, components of children and parents.
    """
    return GAIN * parents / math.sqrt(dim * children)


def _next(layer: nn.Module, capsules: Capsules) -> Capsules:
    output: RoutingOutput = layer(capsules)
    return Capsules(output.poses_BJE, output.activations_BJ)


def _intermediate(
    depth: int,
    types: int,
    dim: int,
    routing: MakeRouting,
    kernel: int,
    std: float | str | None,
    normaliser: str,
) -> nn.ModuleDict:
    rule = "be odd, so that a padding keeps the grid"
    require(require_int("intermediate_kernel", kernel, 1) % 2 == 1, "intermediate_kernel", rule, kernel)
    scale = _std(std, types * kernel**2, types, dim)

    def layer() -> ConvCapsules:
        return ConvCapsules(
            types,
            types,
            dim,
            dim,
            routing,
            kernel=kernel,
            padding=kernel // 2,
            weight_std=scale,
            normaliser=normaliser,
        )

    return nn.ModuleDict({f"layer{number}": layer() for number in range(1, depth + 1)})


def _std(given: float | str | None, children: int, parents: int, dim: int) -> float | None:
    if given == "preserving":
        return preserving_std(children, parents, dim)
    if given is None:
        return None
    rule = "be a number above 0, preserving, or null"
    require(not isinstance(given, str), "intermediate_std", rule, given)
    return require_number("intermediate_std", given, 0, open_ends="<")


Shape = tuple[int, int, int]
"""Kernel, stride and padding of a convolution."""


def _convolution(key: str, kernel: int, stride: int, padding: int) -> Shape:
    return (
        require_int(f"{key}_kernel", kernel, 1),
        require_int(f"{key}_stride", stride, 1),
        require_int(f"{key}_padding", padding, 0),
    )


def _convolutions(kernels: Sequence[int], strides: Sequence[int], paddings: Sequence[int]) -> list[Shape]:
    """The shape of each convolution of the backbone."""
    require(len(kernels) > 0, "kernels", "hold one size per convolution", list(kernels))
    for key, values, least in (("kernels", kernels, 1), ("strides", strides, 1), ("paddings", paddings, 0)):
        require(len(values) == len(kernels), key, f"hold {len(kernels)} numbers, as many as kernels", list(values))
        for value in values:
            require_int(key, value, least)
    return list(zip(kernels, strides, paddings, strict=True))


def _grid(image_shape: tuple[int, int, int], shapes: Sequence[Shape]) -> tuple[int, int]:
    """Height and width of the capsules' grid."""
    sides = list(image_shape[1:])
    for kernel, stride, padding in shapes:
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in sides]
        require(min(sides) > 0, "image_shape", "be large enough for this model's convolutions", tuple(image_shape))
    return sides[0], sides[1]


def _widths(given: Sequence[int] | None, last: int, count: int) -> list[int]:
    """Channels of the backbone's convolutions: the given ones, or doubling up to the last."""
    if given is None:
        return [max(1, last // 2 ** (count - number)) for number in range(1, count + 1)]
    require(len(given) == count, "backbone", f"hold {count} numbers, as many as kernels", list(given))
    return [require_int("backbone", width, 1) for width in given]


def _backbone(widths: Sequence[int], shapes: Sequence[Shape]) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (kernel, stride, padding) in enumerate(shapes, 1):
        before, after = widths[number - 1], widths[number]
        layers[f"conv{number}"] = nn.Conv2d(before, after, kernel, stride=stride, padding=padding, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(after)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)
