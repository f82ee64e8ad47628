"""Channels that can be pruned: where a model's convolutions, their feature maps and their readers are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

from torch import Tensor, nn


@dataclass(frozen=True)
class Reader:
    """A layer that takes another one's channels (or the capsules made of them) as its input.

    Attributes:
        name: dotted, in its model.
        places: neighbouring inputs that come from one channel or capsule type: 1 in a convolution, the places of the
            grid behind a flattening, those of the window in convolutional capsules.
    """

    name: str
    places: int = 1


@dataclass(frozen=True)
class ChannelLayer:
    """A convolution whose output channels can be pruned, and all that hangs on them.  Names are dotted, in the model.

    Attributes:
        conv: the convolution.
        maps: the module whose output are the feature maps: behind normalisation and activation, or, where the channels
            become capsules, before they are squashed.
        readers: who takes the channels.
        norm: the batch normalisation behind the convolution, if there is one.
        step: channels go in multiples of this many; a capsule network's whole backbone has the capsules' dimension.
        dim: channels that make one unit of the readers: components of a capsule, or 1.
    """

    conv: str
    maps: str
    readers: tuple[Reader, ...]
    norm: str | None = None
    step: int = 1
    dim: int = 1


class Prunable(nn.Module):
    """A model whose channels can be pruned.

    Attributes:
        stackable: its arguments in which networks may differ that are trained together (see ``stacking``): widths and
            shares of dropout.  Whoever names any says that channels which are all zero change nothing, and that between
            its layers every channel of a map is treated alike.
    """

    stackable: ClassVar[frozenset[str]] = frozenset()

    def channel_layers(self) -> dict[str, ChannelLayer]:
        """The layers whose channels can be pruned, by name, from the image on; none where nobody has said how."""
        return {}

    def sized(self, widths: Mapping[str, int]) -> dict[str, Any]:
        """The arguments that make a network like this one with so many channels in these layers.

        They are plain types, since they travel with the checkpoint.

        Args:
            widths: for some of :meth:`channel_layers`, or none; the others stay as wide as they are.
        """
        return {}

    def widths(self) -> dict[str, int]:
        """How many channels each of :meth:`channel_layers` has."""
        return {name: self.convolution(name).out_channels for name in self.channel_layers()}

    def convolution(self, name: str) -> nn.Conv2d:
        """The convolution of one of :meth:`channel_layers`."""
        return cast("nn.Conv2d", self.get_submodule(self.channel_layers()[name].conv))


class FeatureMaps:
    """The feature maps of a model's last forward pass, by layer; read through hooks that exist only while it listens.

    They are part of the graph: what is computed from them has gradients.

    Args:
        model: the layers that it names are read.
    """

    def __init__(self, model: Prunable) -> None:
        self._model = model
        self._hooks: list[Any] = []
        self.last: dict[str, Tensor] = {}

    def listen(self) -> None:
        """From now on, keep what each forward pass of the model gives."""
        self.stop()
        for name, layer in self._model.channel_layers().items():
            module = self._model.get_submodule(layer.maps)
            self._hooks.append(module.register_forward_hook(self._keeper(name)))

    def stop(self) -> None:
        """Leave the model as it was."""
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
