"""Channels that can be pruned: the convolutions of a model, their feature maps and their readers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, cast, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True)
class Reader:
    """A layer whose input is the channels of another layer, or the capsules made of them.

    Attributes:
        name: dotted name in the model.
        places: number of neighbouring inputs that come from one channel or capsule type: 1 in a convolution, the
            positions of the grid after a flattening, those of the window in convolutional capsules.

    Example:
        >>> Reader("conv2")  # each channel is one input of conv2
        Reader(name='conv2', places=1)
        >>> Reader("linear", places=36)  # each channel is 6 x 6 inputs of a linear layer
        Reader(name='linear', places=36)
    """

    name: str
    places: int = 1


@dataclass(frozen=True)
class Follower:
    """A layer whose output channels go with the channels of another layer: its own have no meaning without them.

    Attributes:
        name: dotted name of a convolution or a batch normalisation.
        per_unit: True if it has one channel per unit (per capsule type), False if it has one per channel.

    Example:
        >>> Follower("primary.conv")  # a depthwise convolution, after the layer that makes its maps
        Follower(name='primary.conv', per_unit=False)
        >>> Follower("primary.activation_conv", per_unit=True)  # gives each capsule type its activation
        Follower(name='primary.activation_conv', per_unit=True)
    """

    name: str
    per_unit: bool = False


@dataclass(frozen=True)
class ChannelLayer:
    """A convolution whose output channels can be pruned, and the modules that depend on them, by their dotted names.

    Attributes:
        conv: the convolution.
        maps: the module whose output is the feature maps: after normalisation and activation, or, where the channels
            become capsules, before these are squashed.
        readers: the layers that take the channels as input.
        norm: the batch normalisation after the convolution, if there is one.
        step: number of channels whose multiples are pruned; in the whole backbone of a capsule network it is the
            dimension of the capsules.
        dim: number of channels that make one unit of the readers: components of a capsule, or 1.
        followers: layers whose output channels go with these.

    Example:
        >>> ChannelLayer("conv1", "relu1", (Reader("conv2"),), norm="norm1").step
        1
        >>> primary = ChannelLayer("primary.conv", "primary.conv", (Reader("class_capsules", 36),), step=8, dim=8)
    """

    conv: str
    maps: str
    readers: tuple[Reader, ...]
    norm: str | None = None
    step: int = 1
    dim: int = 1
    followers: tuple[Follower, ...] = ()


@runtime_checkable
class ChannelNetwork(Protocol):
    """The contract of a network whose channels can be pruned: an ``nn.Module`` with these two methods.

    :func:`capsexp.pruning.check_network` checks it, and says in one line what is not met.  :class:`Prunable` is a base
    class with further conveniences; to inherit from it is optional.

    Example:
        >>> class Net(torch.nn.Module):
        ...     def __init__(self, c1=8):
        ...         super().__init__()
        ...         self.conv, self.relu = torch.nn.Conv2d(1, c1, 3), torch.nn.ReLU()
        ...         self.linear = torch.nn.Linear(c1 * 36, 10)
        ...
        ...     def forward(self, images):
        ...         return self.linear(self.relu(self.conv(images)).flatten(1))
        ...
        ...     def channel_layers(self):  # each channel of an 8x8 image has 6x6 places in the flattened maps
        ...         return {"c1": ChannelLayer("conv", "relu", (Reader("linear", places=36),))}
        ...
        ...     def sized(self, widths):
        ...         return {"c1": self.conv.out_channels} | dict(widths)
        >>> isinstance(Net(), ChannelNetwork)
        True
        >>> from capsexp.pruning import Magnitude, prune
        >>> prune(Net(), Magnitude(), ratio=0.5).model.conv.out_channels
        4
    """

    def channel_layers(self) -> Mapping[str, ChannelLayer]:
        """The layers whose channels can be pruned, by names of one's choice, in order from the image on."""

    def sized(self, widths: Mapping[str, int]) -> Mapping[str, Any]:
        """The constructor's arguments of a network like this one with other widths.

        Args:
            widths: channels of some of :meth:`channel_layers`, or of none; the others keep their widths.
        """


def convolution_of(model: ChannelNetwork, name: str) -> nn.Conv2d:
    """The convolution of one of a network's channel layers."""
    return cast("nn.Conv2d", cast("nn.Module", model).get_submodule(model.channel_layers()[name].conv))


def widths_of(model: ChannelNetwork) -> dict[str, int]:
    """The number of channels of each of a network's channel layers."""
    return {name: convolution_of(model, name).out_channels for name in model.channel_layers()}


class Prunable(nn.Module):
    """A model whose channels can be pruned, see :class:`ChannelNetwork`.

    Attributes:
        stackable: the arguments that may differ between networks that are trained together (see ``stacking``): widths
            and shares of dropout.  A class that names any guarantees that channels of zeros change nothing, and that
            the operations between its layers treat every channel of a map alike.

    Example:
        >>> class Net(Prunable):
        ...     def __init__(self, c1=8):
        ...         super().__init__()
        ...         self.conv, self.linear = torch.nn.Conv2d(1, c1, 8), torch.nn.Linear(c1, 10)
        ...
        ...     def forward(self, images):
        ...         return self.linear(self.conv(images).relu().flatten(1))
        ...
        ...     def channel_layers(self):
        ...         return {"c1": ChannelLayer("conv", "conv", (Reader("linear"),))}
        ...
        ...     def sized(self, widths):
        ...         return self.widths() | dict(widths)
        >>> Net().widths(), Net().sized({"c1": 4}), Net().convolution("c1").out_channels
        ({'c1': 8}, {'c1': 4}, 8)
    """

    stackable: ClassVar[frozenset[str]] = frozenset()

    def channel_layers(self) -> dict[str, ChannelLayer]:
        """The layers whose channels can be pruned, by name, in order from the image on; by default none."""
        return {}

    def sized(self, widths: Mapping[str, int]) -> dict[str, Any]:
        """The arguments of a network like this one with other widths.

        They are plain types, since they are part of the checkpoint.

        Args:
            widths: channels of some of :meth:`channel_layers`, or of none; the others keep their widths.
        """
        return {}

    def widths(self) -> dict[str, int]:
        """The number of channels of each of :meth:`channel_layers`."""
        return widths_of(self)

    def convolution(self, name: str) -> nn.Conv2d:
        """The convolution of one of :meth:`channel_layers`."""
        return convolution_of(self, name)


class FeatureMaps:
    """The feature maps of a model's last forward pass, by layer.

    Forward hooks read them; the hooks exist from :meth:`listen` to :meth:`stop`, or inside a ``with`` block.  The maps
    are part of the graph: results computed from them have gradients.

    Args:
        model: the model; the maps are those of its :meth:`~ChannelNetwork.channel_layers`.

    Example:
        >>> from capsexp.models import CNN
        >>> model = CNN(image_shape=(1, 8, 8), classes=10)
        >>> with FeatureMaps(model) as maps:
        ...     _ = model(torch.rand(2, 1, 8, 8))
        ...     {name: tuple(each.shape) for name, each in maps.last.items()}
        {'conv1': (2, 6, 4, 4), 'conv2': (2, 16, 2, 2), 'conv3': (2, 16, 1, 1)}
    """

    def __init__(self, model: ChannelNetwork) -> None:
        self._model = model
        self._hooks: list[Any] = []
        self.last: dict[str, Tensor] = {}

    def listen(self) -> None:
        """Start to keep the feature maps of each forward pass."""
        self.stop()
        for name, layer in self._model.channel_layers().items():
            module = cast("nn.Module", self._model).get_submodule(layer.maps)
            self._hooks.append(module.register_forward_hook(self._keeper(name)))

    def stop(self) -> None:
        """Remove the hooks, and forget the feature maps."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self.last = [], {}

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _keeper(self, name: str) -> Any:
        def keep(_: nn.Module, arguments: tuple[Any, ...], maps_BCHW: Tensor) -> None:
            self.last[name] = maps_BCHW

        return keep
