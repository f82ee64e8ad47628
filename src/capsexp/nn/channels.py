"""Channels that can be pruned: the convolutions of a model, their feature maps and their readers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

from torch import Tensor, nn


@dataclass(frozen=True)
class Reader:
    """A layer whose input is the channels of another layer, or the capsules made of them.

    Attributes:
        name: dotted name in the model.
        places: number of neighbouring inputs that come from one channel or capsule type: 1 in a convolution, the
            positions of the grid after a flattening, those of the window in convolutional capsules.
    """

    name: str
    places: int = 1


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
        stackable: the arguments that may differ between networks that are trained together (see ``stacking``): widths
            and shares of dropout.  A class that names any guarantees that channels of zeros change nothing, and that
            the operations between its layers treat every channel of a map alike.
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
        return {name: self.convolution(name).out_channels for name in self.channel_layers()}

    def convolution(self, name: str) -> nn.Conv2d:
        """The convolution of one of :meth:`channel_layers`."""
        return cast("nn.Conv2d", self.get_submodule(self.channel_layers()[name].conv))


class FeatureMaps:
    """The feature maps of a model's last forward pass, by layer.

    Forward hooks read them; the hooks exist from :meth:`listen` to :meth:`stop`, or inside a ``with`` block.  The maps
    are part of the graph: results computed from them have gradients.

    Args:
        model: the model; the maps are those of its :meth:`~Prunable.channel_layers`.
    """

    def __init__(self, model: Prunable) -> None:
        self._model = model
        self._hooks: list[Any] = []
        self.last: dict[str, Tensor] = {}

    def listen(self) -> None:
        """Start to keep the feature maps of each forward pass."""
        self.stop()
        for name, layer in self._model.channel_layers().items():
            module = self._model.get_submodule(layer.maps)
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
