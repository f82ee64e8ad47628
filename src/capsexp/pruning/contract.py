"""The check of the contract that a network must meet so that its channels can be pruned."""

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from capsexp.errors import ConfigError, require
from capsexp.nn.capsules import CapsuleLayer
from capsexp.nn.channels import ChannelLayer, ChannelNetwork, Follower, Reader, convolution_of

METHODS = {
    "channel_layers": "channel_layers(), which returns a dict of capsexp.nn.ChannelLayer by name",
    "sized": "sized(widths), which returns a dict of the constructor's arguments for these widths",
}


def check_network(model: object) -> None:
    """Check that a network meets the contract of :class:`~capsexp.nn.ChannelNetwork`.

    Checked are the two methods and what they return, and that the modules that :meth:`channel_layers` names exist and
    fit together: each reader has as many inputs as the channels make.

    Args:
        model: the network.

    Raises:
        ConfigError: the contract is not met; the error names the method and what it must return.

    Example:
        >>> check_network(torch.nn.Linear(2, 3))
        Traceback (most recent call last):
        ...
        capsexp.errors.ConfigError: model must have a method channel_layers(), which returns a dict of \
capsexp.nn.ChannelLayer by name (the contract is capsexp.nn.ChannelNetwork), got 'Linear'
    """
    kind = type(model).__name__
    require(isinstance(model, nn.Module), "model", "be a torch.nn.Module", kind)
    for method, whole in METHODS.items():
        rule = f"have a method {whole} (the contract is capsexp.nn.ChannelNetwork)"
        require(callable(getattr(model, method, None)), "model", rule, kind)
    network = cast("ChannelNetwork", model)
    layers: Any = network.channel_layers()
    rule = "return a dict of capsexp.nn.ChannelLayer by name, at least one"
    right = isinstance(layers, Mapping) and all(isinstance(each, ChannelLayer) for each in layers.values())
    require(right and bool(layers), f"{kind}.channel_layers()", rule, layers)
    for name in layers:
        _check_layer(network, name)
    sized: Any = network.sized({})
    rule = "return a dict of the constructor's arguments for the widths, the present ones where none are given"
    named = isinstance(sized, Mapping) and bool(sized) and all(isinstance(key, str) for key in sized)
    require(named, f"{kind}.sized({{}})", rule, sized)


def _check_layer(network: ChannelNetwork, name: str) -> None:
    """Check that the modules of a layer exist and fit together."""
    layer, key = network.channel_layers()[name], f"{type(network).__name__}.channel_layers()[{name!r}]"
    plain = isinstance(conv := _module(network, f"{key}.conv", layer.conv), nn.Conv2d) and conv.groups == 1
    require(plain, f"{key}.conv", "name a Conv2d without groups", layer.conv)
    channels = convolution_of(network, name).out_channels
    _module(network, f"{key}.maps", layer.maps)
    if layer.norm is not None:
        norm = _module(network, f"{key}.norm", layer.norm)
        fits = isinstance(norm, nn.BatchNorm2d) and norm.num_features == channels
        require(fits, f"{key}.norm", f"be None or name a BatchNorm2d of {channels} channels", layer.norm)
    require(channels % layer.dim == 0, f"{key}.dim", f"divide the {channels} channels of {layer.conv}", layer.dim)
    require(len(layer.readers) > 0, f"{key}.readers", "name the layers that take the channels as input", layer.readers)
    for reader in layer.readers:
        _check_reader(network, f"{key}.readers", reader, channels // layer.dim)
    for follower in layer.followers:
        _check_follower(network, f"{key}.followers", follower, channels // layer.dim if follower.per_unit else channels)


def _check_follower(network: ChannelNetwork, key: str, follower: Follower, channels: int) -> None:
    """Check that a follower has one output channel for each channel, or for each capsule type."""
    weight = getattr(_module(network, key, follower.name), "weight", None)
    rule = f"name layers with a weight for {channels} output channels ({follower.name})"
    found = len(weight) if isinstance(weight, nn.Parameter) and weight.ndim else 0
    require(found == channels, key, rule, found)


def _check_reader(network: ChannelNetwork, key: str, reader: Reader, units: int) -> None:
    """Check that a reader has ``places`` inputs for each channel or capsule type."""
    module = _module(network, key, reader.name)
    weight = getattr(module, "weight", None)
    inputs = 3 if isinstance(module, CapsuleLayer) else 1
    require(getattr(weight, "ndim", 0) > inputs, key, "name layers with a weight", reader.name)
    found = cast("nn.Parameter", weight).shape[inputs]
    rule = f"name a layer of {units * reader.places} inputs, {units} x places {reader.places} ({reader.name})"
    require(found == units * reader.places, key, rule, found)


def _module(network: ChannelNetwork, key: str, name: str) -> nn.Module:
    try:
        return cast("nn.Module", network).get_submodule(name)
    except AttributeError as error:
        raise ConfigError(key, "be the dotted name of a module of the network", name) from error
