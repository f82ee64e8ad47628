"""A capsule network of a backbone, primary capsules and any capsule layers, each of a size of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from capsexp.errors import ConfigError, require, require_choice, require_int
from capsexp.models.backbones import Backbone
from capsexp.models.base import CapsuleClassifier, check_activations, count_parameters, make_head
from capsexp.models.parts import check_keys, make_decoder
from capsexp.nn.capsules import CapsuleLayer, ClassCapsules, ConvCapsules, MakeRouting, as_children
from capsexp.nn.channels import ChannelLayer, Reader
from capsexp.nn.primary import PrimaryCapsules
from capsexp.types import Capsules, RoutingOutput

PRIMARY = ("types", "dim", "kernel", "stride", "padding", "squash", "epsilon", "normaliser", "activation", "depthwise")
LAYER = ("types", "dim", "kernel", "stride", "padding")


class LayeredCapsNet(CapsuleClassifier):
    """Backbone, primary capsules, convolutional capsule layers, class capsules, and an optional decoder.

    SR-CapsNet (Hahn et al. 2019), Efficient-CapsNet (Mazzia et al. 2021) and the networks of Tsai et al. (2020) are of
    this form; see ``conf/model``.

    Args:
        image_shape: (C, H, W) of the images.
        classes: number of classes K.
        routing: makes each capsule layer's routing from children, parents, dim_in and dim_out.
        backbone: makes the :class:`~capsexp.models.backbones.Backbone` from the images' channels.
        primary: ``types``, ``dim`` and options of :class:`~capsexp.nn.primary.PrimaryCapsules`; ``kernel`` null for the
            side of the maps.
        layers: ``types``, ``dim``, ``kernel``, ``stride`` and ``padding`` of each further layer of
            :class:`~capsexp.nn.capsules.ConvCapsules`; ``kernel`` null for the side of the grid: one place remains.
        layer_normaliser: of these layers: ``none`` or ``batch_norm``.
        matrix: True for poses that are square matrices, in all layers.
        class_shared: True if the places of a type share their matrices to the classes (Hinton et al. 2018).
        class_coordinates: True adds every child's place to its votes for the classes, see
            :func:`~capsexp.nn.shifted_votes.centres`.
        dim_class: E, components of a class capsule; 0 for activations alone, where the routing can.
        concurrent: True for rounds of routing of all layers at once, in place of all rounds of a layer before the next
            (Tsai et al. 2020): a first pass from layer to layer, then ``iterations`` - 1 rounds in which each layer
            routes from the poses that its children and itself had before the round.  With one iteration both are equal.
        head: source of the class scores: ``activations`` of the class capsules, or ``linear``, a map from their poses.
        decoder: widths of the decoder's hidden layers; None for no decoder.
        backbone_sizes: arguments of the backbone that replace those of ``backbone`` (a pruned network has others).
        primary_types: types of primary capsules that replace those of ``primary``.

    Example:
        >>> from functools import partial
        >>> from capsexp.models.backbones import Plain
        >>> from capsexp.routing import SelfRouting
        >>> model = LayeredCapsNet(
        ...     image_shape=(1, 12, 12),
        ...     classes=10,
        ...     routing=SelfRouting,
        ...     backbone=partial(Plain, channels=[8], strides=2),
        ...     primary={"types": 4, "dim": 8, "normaliser": "batch_norm", "activation": "logistic"},
        ...     layers=[{"types": 3, "dim": 8, "stride": 2}],
        ...     dim_class=0,
        ... )
        >>> model(torch.rand(2, 1, 12, 12)).sum(1)  # self-routing's activations add up to 1
        tensor([1.0000, 1.0000], grad_fn=<SumBackward1>)
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        routing: MakeRouting,
        backbone: Callable[..., Backbone],
        primary: Mapping[str, Any],
        layers: Sequence[Mapping[str, Any]] = (),
        layer_normaliser: str = "none",
        matrix: bool = False,
        class_shared: bool = False,
        class_coordinates: bool = False,
        concurrent: bool = False,
        dim_class: int = 16,
        head: str = "activations",
        decoder: Sequence[int] | None = None,
        backbone_sizes: Mapping[str, Any] | None = None,
        primary_types: int | None = None,
    ) -> None:
        super().__init__()
        require_int("dim_class", dim_class, 0)
        flags = {"matrix": matrix, "class_shared": class_shared, "class_coordinates": class_coordinates}
        for key, value in (flags | {"concurrent": concurrent}).items():
            require(isinstance(value, bool), key, "be true or false", value)
        listed = isinstance(layers, Sequence) and not isinstance(layers, str)
        require(listed, "layers", f"be a list of mappings with the keys {', '.join(LAYER)}", layers)
        require_choice("layer_normaliser", layer_normaliser, ("none", "batch_norm"))
        self.backbone = _backbone(backbone, image_shape[0], backbone_sizes or {})
        grid = _grid(self.backbone, image_shape)
        self.primary, grid = _primary(self.backbone.out_channels, grid, primary, primary_types)
        types, dim = self.primary.conv.out_channels // self.primary.dim, self.primary.dim
        self.layers = nn.ModuleDict()
        for number, sizes in enumerate(layers, 1):
            made, grid = _layer(number, (types, dim), grid, routing, sizes, layer_normaliser, matrix)
            self.layers[f"layer{number}"] = made
            types, dim = made.weight.shape[0], made.dim_out
        self.grid = grid
        children = types * grid[0] * grid[1]
        try:
            self.class_capsules = ClassCapsules(
                children,
                classes,
                dim,
                dim_class,
                routing,
                matrix=matrix,
                grid=grid,
                shared=class_shared,
                coordinates=class_coordinates,
            )
        except ConfigError as error:
            own = error.key in ("shared", "coordinates")
            raise (ConfigError(f"class_{error.key}", error.rule, error.value) if own else error) from error
        kind = "length" if self.primary.activation_conv is None else "logistic"
        try:
            check_activations(kind, self.class_capsules)
        except ConfigError as error:
            raise error.within("primary") from error
        self.concurrent = concurrent
        if concurrent:
            _check_concurrent(self.class_capsules.routing, layer_normaliser)
        for layer in self._routed():
            layer.one_round = concurrent
        self.head = make_head(head, self.class_capsules)
        self.decoder = make_decoder(classes, dim_class, image_shape, decoder)

    def capsules(self, images_BCHW: Tensor) -> RoutingOutput:
        """Poses (B, K, E), activations (B, K) and coupling (B, K, I) of the class capsules."""
        rounds = self.class_capsules.routing.iterations if self.concurrent else 1
        made: list[Capsules | RoutingOutput] = [self.primary(self.backbone(images_BCHW))]
        for layer in self._routed():
            made.append(self._round(layer, made[-1], None, last=rounds == 1))
        for number in range(2, rounds + 1):
            pairs = zip(self._routed(), made, made[1:], strict=False)
            routed = [self._round(layer, each, own[0], last=number == rounds) for layer, each, own in pairs]
            made = [made[0], *routed]
        return cast("RoutingOutput", made[-1])

    def _routed(self) -> list[CapsuleLayer]:
        """The layers that route, in their order."""
        return [*(cast("CapsuleLayer", layer) for layer in self.layers.values()), self.class_capsules]

    def _round(
        self, layer: CapsuleLayer, children: Capsules | RoutingOutput, parents: Tensor | None, *, last: bool
    ) -> RoutingOutput:
        """A layer's output.  Its hooks run in the last round alone, so what listens counts an image once."""
        given = as_children(children) if layer is self.class_capsules else children
        output: RoutingOutput = (layer if last else layer.forward)(given, parents)
        return output

    def params_paper(self) -> int:
        """The true number of parameters, as the papers count them."""
        return count_parameters(self)

    # -- pruning ------------------------------------------------------------------------------------------------------

    def channel_layers(self) -> dict[str, ChannelLayer]:
        """The backbone's layers that can be pruned, and the primary capsules in whole types."""
        inner = self.backbone.channel_layers(self.primary.readers("primary"))
        found = {name: _inside("backbone", layer) for name, layer in inner.items()}
        after = [self._after_primary()]
        if not self.primary.depthwise:
            return found | {"primary": self.primary.channel_layer("primary", after)}
        last = list(found)[-1] if found else None
        if last is not None and found[last].readers == self.primary.readers("primary"):
            found[last] = self.primary.made_of(found[last], "primary", after)
        return found

    def sized(self, widths: Mapping[str, int]) -> dict[str, Any]:
        """``backbone_sizes`` and ``primary_types``."""
        now = {**self.widths(), **widths}
        channels = now.pop("primary", None)
        if channels is None:  # depthwise: as many as the backbone's maps have
            last = next(reversed(self.channel_layers().items()), None)
            follows = last is not None and any(each.name == "primary.conv" for each in last[1].followers)
            channels = now[last[0]] if last is not None and follows else self.backbone.out_channels
        return {"backbone_sizes": self.backbone.sized(now), "primary_types": channels // self.primary.dim}

    def _after_primary(self) -> Reader:
        first = next(iter(self.layers.values()), None)
        if isinstance(first, ConvCapsules):
            return Reader("layers.layer1", first.kernel**2)
        last = self.class_capsules
        shared = last.weight.shape[3] != last.child_count
        return Reader("class_capsules", 1 if shared else self.grid[0] * self.grid[1])


def _inside(prefix: str, layer: ChannelLayer) -> ChannelLayer:
    """A backbone's layer with the names of the whole network; those of its readers outside are whole already."""
    readers = tuple(
        reader if reader.name.startswith("primary.") else replace(reader, name=f"{prefix}.{reader.name}")
        for reader in layer.readers
    )
    followers = tuple(replace(each, name=f"{prefix}.{each.name}") for each in layer.followers)
    norm = None if layer.norm is None else f"{prefix}.{layer.norm}"
    conv, maps = f"{prefix}.{layer.conv}", f"{prefix}.{layer.maps}"
    return replace(layer, conv=conv, maps=maps, readers=readers, followers=followers, norm=norm)


def _check_concurrent(routing: Any, normaliser: str) -> None:
    """Refuse what cannot route a single round, or counts an image in every round."""
    name = type(routing).__name__
    for attribute in ("one_round", "iterations"):
        require(hasattr(routing, attribute), "concurrent", f"be false: {name} has no {attribute}", True)
    rule = f"be false: one_round of {name} is given no activations, which it needs"
    require(not routing.needs_activations, "concurrent", rule, True)
    rule = "be none with concurrent=true: it would count every round"
    require(normaliser == "none", "layer_normaliser", rule, normaliser)


Grid = tuple[int, int]
"""Height and width of maps or of a grid of capsules."""


def _backbone(make: Callable[..., Backbone], channels: int, sizes: Mapping[str, Any]) -> Backbone:
    require(
        callable(make), "backbone", "be the constructor of a backbone, such as capsexp.models.backbones.Plain", make
    )
    try:
        return make(channels, **sizes)
    except ConfigError as error:
        raise error.within("backbone") from error


def _grid(backbone: Backbone, image_shape: tuple[int, int, int]) -> Grid:
    """Height and width of the backbone's maps, from its forward pass over one image of zeros."""
    device = next((each.device for each in backbone.parameters()), torch.get_default_device())
    training = backbone.training
    with torch.no_grad():
        try:
            maps = backbone.eval()(torch.zeros(1, *image_shape, device=device))
        except (RuntimeError, ValueError) as error:
            rule = f"be large enough for this model's backbone ({' '.join(str(error).split())})"
            raise ConfigError("image_shape", rule, tuple(image_shape)) from error
        finally:
            backbone.train(training)
    return maps.shape[2], maps.shape[3]


def _primary(channels: int, grid: Grid, given: Mapping[str, Any], types: int | None) -> tuple[PrimaryCapsules, Grid]:
    """The primary capsules and their grid."""
    options = check_keys("primary", given, PRIMARY)
    kernel, stride, padding, after = _windows("primary", grid, options)
    number = require_int("primary_types", types, 1) if types is not None else options.pop("types", None)
    options.pop("types", None)
    dim = require_int("primary.dim", options.pop("dim", None), 1)
    made = require_int("primary.types", number, 1) * dim
    try:
        layer = PrimaryCapsules(channels, made, dim, kernel=kernel, stride=stride, padding=padding, **options)
    except ConfigError as error:
        raise error.within("primary") from error
    return layer, after


def _layer(
    number: int,
    before: tuple[int, int],
    grid: Grid,
    routing: MakeRouting,
    given: Mapping[str, Any],
    normaliser: str,
    matrix: bool,
) -> tuple[ConvCapsules, Grid]:
    """A convolutional capsule layer and its grid."""
    key = f"layers[{number - 1}]"
    options = check_keys(key, given, LAYER)
    kernel, stride, padding, after = _windows(key, grid, options)
    types, dim = (require_int(f"{key}.{name}", options.get(name), 1) for name in ("types", "dim"))
    sizes = {"kernel": kernel, "stride": stride, "padding": padding}
    return ConvCapsules(before[0], types, before[1], dim, routing, **sizes, normaliser=normaliser, matrix=matrix), after


def _windows(key: str, grid: Grid, options: dict[str, Any]) -> tuple[int, int, int, Grid]:
    """Kernel, stride and padding, taken out of the options, and the grid after them."""
    kernel, stride = options.pop("kernel", 3), require_int(f"{key}.stride", options.pop("stride", 1), 1)
    padding = require_int(f"{key}.padding", options.pop("padding", 0), 0)
    if kernel is None:
        rule = f"be a number where maps are not square ({grid[0]}x{grid[1]})"
        require(grid[0] == grid[1], f"{key}.kernel", rule, kernel)
        kernel = grid[0]
    require_int(f"{key}.kernel", kernel, 1)
    rule = f"be at most the side of the maps and their padding ({min(grid)} + 2 * {padding})"
    require(kernel <= min(grid) + 2 * padding, f"{key}.kernel", rule, kernel)
    after = tuple((side + 2 * padding - kernel) // stride + 1 for side in grid)
    return kernel, stride, padding, (after[0], after[1])
