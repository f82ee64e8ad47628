"""What a smaller network must hold: the numbers of the whole one, copied slice by slice by a table for each network."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Cuts = tuple[tuple[int, str, int], ...]
"""(dimension, layer whose channels or capsules it counts, neighbouring entries of one of them)."""


def cnn(places: int) -> dict[str, Cuts]:
    """Of ``models.cnn.CNN`` whose last maps have so many places."""
    return {
        "layers.conv1.weight": ((0, "conv1", 1),),
        "layers.conv1.bias": ((0, "conv1", 1),),
        "layers.conv2.weight": ((0, "conv2", 1), (1, "conv1", 1)),
        "layers.conv2.bias": ((0, "conv2", 1),),
        "layers.conv3.weight": ((0, "conv3", 1), (1, "conv2", 1)),
        "layers.conv3.bias": ((0, "conv3", 1),),
        "layers.linear.weight": ((1, "conv3", places),),
    }


def capsnet(places: int) -> dict[str, Cuts]:
    """Of ``models.capsnet.CapsNet``; ``types`` are the primary capsules' types."""
    return {
        "conv1.weight": ((0, "conv1", 1),),
        "conv1.bias": ((0, "conv1", 1),),
        **primary("conv1"),
        "class_capsules.weight": ((3, "types", places),),
        "class_capsules.master_JI": ((1, "types", places),),
        "class_capsules.routing.coupling_JI": ((1, "types", places),),
        "class_capsules.routing.prior_JI": ((1, "types", places),),
        "class_capsules.routing.weight_JDI": ((2, "types", places),),
        "class_capsules.routing.bias_JI": ((1, "types", places),),
    }


def primary(before: str) -> dict[str, Cuts]:
    """Of the primary capsules after a convolution, as far as there are such parts."""
    found: dict[str, Cuts] = {
        "primary.conv.weight": ((0, "primary", 1), (1, before, 1)),
        "primary.conv.bias": ((0, "primary", 1),),
        "primary.activation_conv.weight": ((0, "types", 1), (1, before, 1)),
        "primary.activation_conv.bias": ((0, "types", 1),),
    }
    for name in ("weight", "bias", "running_mean", "running_var"):
        found[f"primary.norm.{name}"] = ((0, "primary", 1),)
        found[f"primary.activation_norm.{name}"] = ((0, "types", 1),)
    return found


def deep_capsnet(places: int, convolutions: int) -> dict[str, Cuts]:
    """Of ``models.deep_capsnet.DeepCapsNet`` without intermediate layers."""
    found: dict[str, Cuts] = {}
    for number in range(1, convolutions + 1):
        before: Cuts = ((1, f"conv{number - 1}", 1),) if number > 1 else ()
        found[f"backbone.conv{number}.weight"] = ((0, f"conv{number}", 1), *before)
        for name in ("weight", "bias", "running_mean", "running_var"):
            found[f"backbone.norm{number}.{name}"] = ((0, f"conv{number}", 1),)
    behind = capsnet(places)
    last = {name: cuts for name, cuts in behind.items() if name.startswith("class_capsules")}
    return found | primary(f"conv{convolutions}") | last


def state(whole: Mapping[str, Array], table: Mapping[str, Cuts], kept: Mapping[str, Sequence[int]]) -> dict[str, Array]:
    """All numbers of the smaller network.

    Args:
        whole: the large network's, by name.
        table: one of the above.
        kept: by layer, and for ``types`` the capsule types that stay whole; a layer that is not there stays as it is.
    """
    found = {}
    for name, array in whole.items():
        for dimension, layer, places in table.get(name, ()):
            if layer in kept:
                array = _slices(array, dimension, [u * places + place for u in kept[layer] for place in range(places)])
        found[name] = array
    return found


def _slices(array: Array, dimension: int, taken: Sequence[int]) -> Array:
    shape = list(array.shape)
    shape[dimension] = len(taken)
    found = np.full(shape, np.nan)
    source, target = np.moveaxis(array, dimension, 0), np.moveaxis(found, dimension, 0)
    for new, old in enumerate(taken):
        target[new] = source[old]
    return found
