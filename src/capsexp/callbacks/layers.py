"""The convolutions of a model and their names."""

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions of a model in its own order, by the last part of their name if it is unique.

    A convolution named ``conv`` belongs to the layer that contains it, and gets that layer's name.
    """
    named = ((name.removesuffix(".conv"), layer) for name, layer in model.named_modules())
    found = {name: layer for name, layer in named if isinstance(layer, nn.Conv2d)}
    return by_short_name(found)


def by_short_name(found: Mapping[str, M]) -> dict[str, M]:
    """Layers by the last part of their dotted name, or by the whole name if several have the same last part."""
    short = [name.rpartition(".")[2] for name in found]
    return {(tail if short.count(tail) == 1 else name): found[name] for name, tail in zip(found, short, strict=True)}
