"""Hooks that read the routing of a model's capsule layers, which the model itself does not store."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from capsexp.errors import require
from capsexp.nn.capsules import CapsuleLayer, ConvCapsules, capsule_layers
from capsexp.types import RoutingOutput


@dataclass(frozen=True)
class RoutingRecord:
    """The routing of a layer for the last batch; a window's position counts as part of the batch dimension.

    Attributes:
        output: poses, activations and coupling.
        mask_BI: the children that are present; None if all are.
    """

    output: RoutingOutput
    mask_BI: Tensor | None


class RoutingReader:
    """Stores the last batch's routing of every capsule layer, by the layer's name."""

    def __init__(self) -> None:
        self._last: dict[str, RoutingRecord] = {}
        self._hooks: list[Any] = []

    def listen(self, model: nn.Module) -> None:
        """Register the hooks: each forward pass of the model is stored from now on."""
        self.stop()
        layers = capsule_layers(model)
        self._hooks = [layer.routing.register_forward_hook(self._keeper(name)) for name, layer in layers.items()]

    def stop(self) -> None:
        """Remove the hooks from the model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._last = [], {}

    def __getitem__(self, name: str) -> RoutingRecord:
        require(name in self._last, "model", "use each of its capsule layers in every forward pass", f"{name} unused")
        return self._last[name]

    def _keeper(self, name: str) -> Any:
        def keep(_: nn.Module, arguments: tuple[Any, ...], output: RoutingOutput) -> None:
            self._last[name] = RoutingRecord(output, arguments[0].mask_BI)

        return keep


class ClassReader:
    """Stores the output of the class layer for the last batch, with any source of its coupling."""

    def __init__(self) -> None:
        self._hook: Any = None
        self._last: RoutingOutput | None = None

    def listen(self, model: nn.Module) -> None:
        """Register the hook: each output of the model's class layer is stored from now on."""
        self.stop()
        self._hook = class_layer(model)[1].register_forward_hook(self._keep)

    def stop(self) -> None:
        """Remove the hooks from the model."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._last = None

    @property
    def last(self) -> RoutingOutput:
        """Poses, lengths and coupling of the class capsules."""
        assert self._last is not None, "no forward pass has been listened to"
        return self._last

    def _keep(self, _: nn.Module, arguments: tuple[Any, ...], output: RoutingOutput) -> None:
        self._last = output


def class_layer(model: nn.Module) -> tuple[str, CapsuleLayer]:
    """The name and the layer of the class capsules, the model's last capsule layer.

    Raises:
        ConfigError: the model has no capsule layers, or the last one it registers has windows.
    """
    layers = list(capsule_layers(model).items())
    require(bool(layers), "model", "be a network with capsule layers", type(model).__name__)
    name, last = layers[-1]
    require(not isinstance(last, ConvCapsules), "model", "register its class capsules last, after the others", name)
    return name, last
