"""Construction of a smaller model from a model and a selection of its channels."""

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from capsexp.errors import ConfigError, require, require_number
from capsexp.nn.capsules import CapsuleLayer, capsule_layers
from capsexp.nn.channels import ChannelLayer, ChannelNetwork, Prunable, convolution_of, widths_of
from capsexp.nn.primary import PrimaryCapsules
from capsexp.pruning.contract import check_network
from capsexp.pruning.merging import Into, mergeable

log = logging.getLogger(__name__)


M = TypeVar("M", bound=ChannelNetwork)


def shrink(
    model: M,
    kept: Mapping[str, Tensor],
    make: Callable[..., M],
    *,
    renew: bool = False,
    into: Mapping[str, Into] | None = None,
) -> M:
    """A smaller model with the weights of the kept channels, including batch normalisation and its statistics.

    Its scores are those of the whole model with the maps of the other channels set to zero; with merging, the maps of
    removed channels are those of their partners, times the ratio.  Primary capsules with logistic activations go silent
    as well; layer-normalised ones are left out, while maps of zeros would give them their shift.  The exceptions are
    capsule layers whose children are no longer the same capsules, since single channels were removed and the kept ones
    form new capsules.  Nothing can be carried over to such a layer, and it keeps the initial weights from ``make``.

    Args:
        model: the whole model; it is not changed.
        kept: for each pruned layer, the indices of the kept channels, in their new order.
        make: constructor of the architecture from the result of ``sized``; its other arguments must be those of
            ``model``.
        renew: True lets all capsule layers keep the initial weights from ``make``, even those that could carry theirs
            over.
        into: for some of the pruned layers, the removed channels and their partners: the weights with which the readers
            take a removed channel are added, times the ratio, to those for its partner.  See ``merging``.

    Raises:
        ConfigError: the model lacks what a :class:`~capsexp.nn.ChannelNetwork` has; a layer cannot be pruned, or its
            channels cannot be merged, in this way; ``make`` makes another architecture.

    Example:
        >>> from functools import partial
        >>> from capsexp.models import CNN
        >>> make = partial(CNN, image_shape=(1, 8, 8), classes=10)
        >>> model = make(c1=4)
        >>> smaller = shrink(model, {"conv1": torch.tensor([0, 3])}, make)
        >>> bool((smaller.convolution("conv1").weight == model.convolution("conv1").weight[[0, 3]]).all())
        True
    """
    check_network(model)
    layers = model.channel_layers()
    kept = {name: index.cpu() for name, index in kept.items()}
    for name, index in kept.items():
        _check(name, layers, model, index)
    into = into or {}
    for name, folds in into.items():
        _check_into(name, folds, model, kept)
    smaller = _made(model, make, {name: len(index) for name, index in kept.items()})
    whole, module = cast("Prunable", model), cast("nn.Module", smaller)
    carried, fresh = _carried(whole, module, kept, into, renew), module.state_dict()
    _same_architecture(name for name, value in fresh.items() if carried[name].shape != value.shape)
    module.load_state_dict(carried)
    for name, layer in capsule_layers(module).items():
        if layer.master_JI is not None:
            layer.inference = capsule_layers(whole)[name].inference
    return smaller


def transplant(model: Prunable, other: nn.Module) -> None:
    """Copy the convolutions of a model to another model, with all that goes with their channels.

    These are their batch normalisation, their followers, and the whole of the primary capsules; nothing else changes.

    Args:
        model: the source; it is not changed.
        other: the target; its convolutions have the same sizes.

    Example:
        >>> from functools import partial
        >>> from capsexp.models import DeepCapsNet
        >>> from capsexp.routing import Dynamic
        >>> make = partial(DeepCapsNet, image_shape=(1, 12, 12), classes=2, routing=Dynamic, capsules=2, dim=4)
        >>> model, deeper = make(depth=0), make(depth=1)
        >>> transplant(model, deeper)
        >>> bool((deeper.convolution("conv1").weight == model.convolution("conv1").weight).all())
        True
    """
    layers = model.channel_layers()
    state = model.state_dict()
    names = [name for layer in layers.values() for name in (layer.conv, layer.norm) if name]
    names += [follower.name for layer in layers.values() for follower in layer.followers]
    names += [name for name, part in model.named_modules() if isinstance(part, PrimaryCapsules)]
    prefixes = [f"{name}." for name in names]
    carried = {name: value for name, value in state.items() if name.startswith(tuple(prefixes))}
    missing = other.load_state_dict(carried, strict=False)
    assert not missing.unexpected_keys, "the other model has no such convolutions"


def _made(model: M, make: Callable[..., M], widths: Mapping[str, int]) -> M:
    """The network of these widths with initial weights, checked to be the model's architecture."""
    sizes, wanted = model.sized(widths), widths_of(model) | dict(widths)
    _check_arguments(model, make, sizes)
    smaller = make(**sizes)
    check_network(smaller)
    rule = f"make a network of the widths {wanted} from what sized() of {type(model).__name__} returns"
    require(widths_of(smaller) == wanted, "make", rule, widths_of(smaller))
    before, after = (set(cast("nn.Module", each).state_dict()) for each in (model, smaller))
    _same_architecture(name for name in before ^ after if not name.endswith("master_JI"))
    _same_architecture(_other_capsules(cast("nn.Module", model), cast("nn.Module", smaller)))
    return smaller


def _check_arguments(model: ChannelNetwork, make: Callable[..., Any], sizes: Mapping[str, Any]) -> None:
    """Check that a constructor can be called with these sizes; what has no signature is not checked."""
    try:
        signature = inspect.signature(make)
    except ValueError:
        return
    try:
        signature.bind(**sizes)
    except TypeError as error:
        rule = f"take what sized() of {type(model).__name__} returns ({', '.join(sizes)}) and need no more ({error})"
        raise ConfigError("make", rule, getattr(make, "__name__", type(make).__name__)) from error


def _other_capsules(model: nn.Module, smaller: nn.Module) -> Iterator[str]:
    """The capsule layers whose capsules have other dimensions; in the last one there are also as many parents."""
    before, after = capsule_layers(model), capsule_layers(smaller)
    for name, layer in before.items():
        first = 0 if name == list(before)[-1] else 1  # the parents of the others are channels, too
        if layer.weight.shape[first:3] != after[name].weight.shape[first:3]:
            yield f"{name}.weight"


def _same_architecture(different: Iterable[str]) -> None:
    """Raise an error if there are names of parameters that differ beyond what is pruned."""
    names = sorted(different)
    rule = "make the architecture of the model, with its other arguments"
    require(not names, "make", rule, f"a difference in {', '.join(names[:3])}")


def _check(name: str, layers: Mapping[str, ChannelLayer], model: ChannelNetwork, index: Tensor) -> None:
    require(name in layers, f"kept.{name}", f"name one of the layers {', '.join(layers)}", name)
    channels = convolution_of(model, name).out_channels
    inside = len(index) > 0 and bool(((index >= 0) & (index < channels)).all())
    require(inside, f"kept.{name}", f"hold indices from 0 to {channels - 1}, at least one", index.tolist())
    require(len(set(index.tolist())) == len(index), f"kept.{name}", "name each channel once", index.tolist())
    rule = f"be a multiple of {layers[name].dim} channels, so that they make whole capsules"
    require(len(index) % layers[name].dim == 0, f"kept.{name}", rule, len(index))


def _check_into(name: str, folds: Into, model: ChannelNetwork, kept: Mapping[str, Tensor]) -> None:
    key = f"into.{name}"
    require(name in kept, key, f"name one of the layers that are cut ({', '.join(kept)})", name)
    rule = "name a layer whose channels do not become capsules: these cannot be merged"
    require(mergeable(model, model.channel_layers()[name]), key, rule, name)
    stay = set(kept[name].tolist())
    go = set(range(widths_of(model)[name])) - stay
    for gone, (partner, ratio) in folds.items():
        require(gone in go and partner in stay, key, "merge removed channels into kept channels", [gone, partner])
        require_number(key, ratio, 0, open_ends=">")


def _carried(
    model: Prunable, smaller: nn.Module, kept: Mapping[str, Tensor], into: Mapping[str, Into], renew: bool
) -> dict[str, Tensor]:
    """The state of the smaller model: the merged and pruned state of the whole one, else the initial weights."""
    layers, state, fresh = model.channel_layers(), _merged(model, into), smaller.state_dict()
    regrouped = {lost for name, index in kept.items() for lost in _lost(layers[name], index)}
    followers = [each.name for layer in layers.values() for each in layer.followers if each.per_unit]
    for name, index in kept.items():
        for parameter, dimension, entries in _entries(model, layers[name], index):
            if parameter in state:
                state[parameter] = state[parameter].index_select(dimension, entries.to(state[parameter].device))
    for layer in (*capsule_layers(model), *followers):
        if (renew and layer not in followers) or layer in regrouped or _other_sizes(layer, state, fresh):
            log.info("%s begins with new %s", layer, "weights" if layer in followers else "matrices")
            state = {name: value for name, value in state.items() if not name.startswith(f"{layer}.")}
            state |= {name: value for name, value in fresh.items() if name.startswith(f"{layer}.")}
    return state


def _merged(model: Prunable, into: Mapping[str, Into]) -> dict[str, Tensor]:
    """The state of the whole model, with the weights of its readers after merging."""
    state = dict(model.state_dict())
    for name, folds in into.items():
        for reader in model.channel_layers()[name].readers:
            state[f"{reader.name}.weight"] = _folded(state[f"{reader.name}.weight"], reader.places, folds)
    return state


def _folded(weight: Tensor, places: int, folds: Into) -> Tensor:
    """The merged weight of a reader, inputs along the second dimension; the float64 sum is rounded only once."""
    whole = weight.to("cpu", torch.float64, copy=True)
    for gone, (partner, ratio) in folds.items():
        whole.narrow(1, partner * places, places).add_(ratio * whole.narrow(1, gone * places, places))
    return whole.to(weight)


def _other_sizes(layer: str, state: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> bool:
    """True if weights of a layer of the smaller model differ in size from those that would be carried over."""
    return any(state[name].shape != value.shape for name, value in fresh.items() if name.startswith(f"{layer}."))


def _lost(layer: ChannelLayer, index: Tensor) -> tuple[str, ...]:
    """The readers of a layer whose input capsules are no longer the same, and what goes with these capsules."""
    if _units(layer, index) is not None:
        return ()
    return (*(reader.name for reader in layer.readers), *(each.name for each in layer.followers if each.per_unit))


def _units(layer: ChannelLayer, index: Tensor) -> Tensor | None:
    """The kept units (capsule types, or single channels), or None if they are not whole and in order."""
    groups = index.view(-1, layer.dim)
    units = groups[:, 0] // layer.dim
    whole = torch.equal(groups, units[:, None] * layer.dim + torch.arange(layer.dim))
    return units if whole else None


def _entries(model: nn.Module, layer: ChannelLayer, index: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """Parameters with the dimension and the indices of their kept entries."""
    for name in ("weight", "bias"):
        yield f"{layer.conv}.{name}", 0, index
    units = _units(layer, index)
    going = [] if layer.norm is None else [(layer.norm, index)]
    going += [(follower.name, index) for follower in layer.followers if not follower.per_unit]
    if units is not None:
        going += [(follower.name, units) for follower in layer.followers if follower.per_unit]
    for module, entries in going:
        for name in ("weight", "bias", "running_mean", "running_var"):
            yield f"{module}.{name}", 0, entries
    if units is None:
        return
    for reader in layer.readers:
        inputs = (units[:, None] * reader.places + torch.arange(reader.places)).flatten()
        capsules = model.get_submodule(reader.name)
        if isinstance(capsules, CapsuleLayer):
            yield f"{reader.name}.weight", 3, inputs
            yield f"{reader.name}.master_JI", 1, inputs
            for own, dimension in capsules.routing.children_at.items():
                yield f"{reader.name}.routing.{own}", dimension, inputs
        else:
            yield f"{reader.name}.weight", 1, inputs
