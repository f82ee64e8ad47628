"""The shares of dead and silent capsules per layer and epoch, and the capsule activities at the end."""

from collections.abc import Mapping
from typing import Any, cast

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from capsexp.callbacks.base import ResultCallback
from capsexp.callbacks.layers import by_short_name
from capsexp.errors import require_number
from capsexp.metrics.dead_capsules import Activity, DeadCapsules, shares
from capsexp.nn.capsules import CapsuleLayer, ConvCapsules
from capsexp.nn.primary import PrimaryCapsules
from capsexp.types import Capsules, RoutingOutput


class DeadCapsuleLogger(ResultCallback):
    """Logs ``capsules/<layer>/dead_share`` and ``silent_share`` of every layer whose capsules form a grid.

    These are the primary and the convolutional capsules.  ``capsules/dead_share`` and ``capsules/silent_share`` are the
    shares over all convolutional layers; a network without such layers does not have these two.
    ``capsules/dead_types_share`` and that of each layer count as the authors' code does: one value per type, its mean
    pose over images and places, rounded to three decimals.

    In a fit the shares are measured on the whole selection split after each epoch.  The result holds the shares on the
    test part in the last test, and ``activity/<layer>`` (T, H, W), the length of each capsule's mean pose.

    Where activations are not the lengths of poses they stand for them: logistic ones of primary capsules,
    probabilities, and those that add up to 1 over J parents, times J.  Layer normalisation keeps all poses at one
    length, so none is dead there.

    The layers are found at the start of each pass, so a model may be replaced between two passes.  No hooks are active
    in training, and no batch waits for the device.

    Source: Sahu and Altahhan (2024), section 3.5, figures 2 to 5; both rules are those of
    :class:`~capsexp.metrics.dead_capsules.DeadCapsules`.

    Args:
        threshold: length up to which a capsule is dead.
    """

    def __init__(self, threshold: float = 0.01) -> None:
        self.threshold = require_number("threshold", threshold, 0, open_ends="<")
        self._metrics: dict[str, DeadCapsules] = {}
        self._hooks: list[Any] = []
        self._shares: dict[str, float] = {}
        self._arrays: dict[str, NDArray[np.generic]] = {}

    # -- the selection split ------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Register the hooks."""
        if not trainer.sanity_checking:
            self._listen(pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log this epoch's shares."""
        for name, value in capsule_shares(self._activities(), _intermediate(pl_module)).items():
            pl_module.log(name, value)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the hooks."""
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the hooks."""
        self._stop()

    # -- the test part ------------------------------------------------------------------------------------------------

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the last test, and register the hooks."""
        self._shares, self._arrays = {}, {}
        self._listen(pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Store the shares and activities, and remove the hooks."""
        activities = self._activities()
        self._shares = capsule_shares(activities, _intermediate(pl_module))
        self._arrays = {f"activity/{name}": _grid(each.length_of_mean) for name, each in activities.items()}
        self._stop()

    def result_metrics(self, module: L.LightningModule) -> dict[str, float]:
        """The shares in the last test, under the names of the epochs' shares."""
        return dict(self._shares)

    def result_arrays(self, module: L.LightningModule) -> dict[str, NDArray[np.generic]]:
        """``activity/<layer>`` (T, H, W) of the last test, float32."""
        return dict(self._arrays)

    # -- hooks --------------------------------------------------------------------------------------------------------

    def _listen(self, module: L.LightningModule) -> None:
        self._stop()
        for name, layer in grid_layers(cast("nn.Module", module.model)).items():
            metric = self._metrics[name] = DeadCapsules(self.threshold).to(module.device)
            self._hooks.append(layer.register_forward_hook(_adder(metric, layer)))

    def _activities(self) -> dict[str, Activity]:
        return {name: metric.compute() for name, metric in self._metrics.items()}

    def _stop(self) -> None:
        """Remove the hooks from the model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._metrics = [], {}


def grid_layers(model: nn.Module) -> dict[str, PrimaryCapsules | ConvCapsules]:
    """Layers whose capsules form a grid, in the model's order, by the last part of their name if it is unique."""
    named = model.named_modules()
    found = {name: layer for name, layer in named if isinstance(layer, PrimaryCapsules | ConvCapsules)}
    return by_short_name(found)


def capsule_shares(activities: Mapping[str, Activity], intermediate: set[str]) -> dict[str, float]:
    """The shares of every layer and of all intermediate layers, under their logged names."""
    groups = {f"capsules/{name}": [activity] for name, activity in activities.items()}
    together = [activity for name, activity in activities.items() if name in intermediate]
    if together:
        groups["capsules"] = together
    return {
        f"{name}/{rule}_share": value
        for name, group in groups.items()
        for rule, value in shares(group)._asdict().items()
    }


def _intermediate(module: L.LightningModule) -> set[str]:
    layers = grid_layers(cast("nn.Module", module.model))
    return {name for name, layer in layers.items() if isinstance(layer, ConvCapsules)}


def _adder(metric: DeadCapsules, layer: PrimaryCapsules | ConvCapsules) -> Any:
    def add(_: nn.Module, arguments: tuple[Any, ...], output: Capsules | RoutingOutput) -> None:
        metric.update(activity_of(layer, output))

    return add


def activity_of(layer: PrimaryCapsules | CapsuleLayer, output: Capsules | RoutingOutput) -> Tensor:
    """Poses, or activations as poses of one component where they are not the lengths of poses: (B, T, D, ...)."""
    if isinstance(layer, PrimaryCapsules):
        return output[0] if output[1] is None else output[1][:, :, None]
    kind = layer.routing.activation
    if kind not in ("share", "probability"):
        return output[0]
    return cast("Tensor", output[1])[:, :, None] * (len(layer.weight) if kind == "share" else 1)


def _grid(activity_THW: Tensor) -> NDArray[np.generic]:
    """A numpy array (T, H, W); torchmetrics removes dimensions of length one, which are restored."""
    return np.atleast_3d(activity_THW.float().cpu().numpy())
