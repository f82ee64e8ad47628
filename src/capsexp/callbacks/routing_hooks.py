"""What passes through a model's capsule layers, read while it is needed and never kept by the model."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from capsexp.errors import require
from capsexp.nn.capsules import CapsuleLayer, capsule_layers
from capsexp.types import RoutingOutput


@dataclass(frozen=True)
class RoutingRecord:
    """What a layer's routing gave for the last batch; a window's place counts as part of the batch.

    Attributes:
        output: poses, activations and coupling.
        mask_BI: which children are there, None if all are.
    """

    output: RoutingOutput
    mask_BI: Tensor | None


class RoutingReader:
    """The last batch's routing of every capsule layer, by the layer's name."""

    def __init__(self) -> None:
        self._last: dict[str, RoutingRecord] = {}
        self._hooks: list[Any] = []

    def listen(self, model: nn.Module) -> None:
        """From now on, keep what each forward pass of the model gives."""
        self.stop()
        layers = capsule_layers(model)
        self._hooks = [layer.routing.register_forward_hook(self._keeper(name)) for name, layer in layers.items()]

    def stop(self) -> None:
        """Remove the hooks from the model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._last = [], {}

    def __getitem__(self, name: str) -> RoutingRecord:
        return self._last[name]

    def _keeper(self, name: str) -> Any:
        def keep(_: nn.Module, arguments: tuple[Any, ...], output: RoutingOutput) -> None:
            self._last[name] = RoutingRecord(output, arguments[0].mask_BI)

        return keep


class ClassReader:
    """What the class layer gave for the last batch, wherever its coupling comes from."""

    def __init__(self) -> None:
        self._hook: Any = None
        self._last: RoutingOutput | None = None

    def listen(self, model: nn.Module) -> None:
        """From now on, keep what each forward pass of the model's class layer gives."""
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
    """The layer whose parents are the classes, the last one, and its name.

    Raises:
        ConfigError: the model has no capsule layers.
    """
    layers = list(capsule_layers(model).items())
    require(bool(layers), "model", "be a network with capsule layers", type(model).__name__)
    return layers[-1]
