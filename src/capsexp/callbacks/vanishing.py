"""Activity, choice and gradients of every layer of a capsule network, before the first step and after every epoch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from capsexp import rng
from capsexp.callbacks.base import ResultCallback
from capsexp.callbacks.dead_capsules import activity_of
from capsexp.callbacks.layers import by_short_name, convolutions
from capsexp.errors import require_number
from capsexp.metrics.coupling_dynamics import CouplingDynamics
from capsexp.metrics.dead_capsules import DeadCapsules, shares
from capsexp.nn.capsules import CapsuleLayer, ConvCapsules, capsule_layers
from capsexp.nn.functional import lengths
from capsexp.nn.passes import images_of
from capsexp.nn.primary import PrimaryCapsules
from capsexp.types import Capsules, RoutingOutput

Row = dict[str, dict[str, float]]
"""By the name of a quantity: its value in each layer, by the layer's name."""

QUANTITIES = (
    *("activity", "activity_std", "variation", "vanished_share", "dead_share", "silent_share", "dead_types_share"),
    *("bonding", "dynamics", "alive", "active", "active_alive", "correlation"),
)


class Gradient(NamedTuple):
    """Root mean squares over the weights of a layer, summed over steps."""

    loss: Tensor
    decay: Tensor


class VanishingLogger(ResultCallback):
    """Follows what fades with depth through every capsule layer of a network, and the gradients of every layer.

    Everything but the gradients is measured on the whole selection split after each epoch, and once before the first
    step, when batch normalisation uses the statistics of the batch, as it does in training.  So the last values are
    those of the last epoch, and a network that has collapsed is described as it ended.

    ``layers/<layer>/<quantity>`` is logged in every epoch, for the primary capsules and all layers that route:

    - ``activity`` and ``activity_std``: a capsule's activity, as mean and standard deviation over the images, averaged
      over the layer's capsules.  It is the length of the pose; with activations of another kind it is the activation,
      and times J where these add up to 1 over J parents;
    - ``variation``: the share of a pose's size that changes with the image, in 0..1, whatever its scale, see
      :class:`~capsexp.metrics.dead_capsules.Activity`;
    - ``vanished_share``: the share of capsules that carry nothing of the image: neither the activity nor the pose
      changes with it (standard deviation and variation below the threshold).  A capsule whose activity is a length
      that can become 0 has also vanished if it is silent, by the rule of Mitterreiter et al.; lengths after layer
      normalisation, probabilities and shares cannot become 0;
    - ``dead_share``, ``silent_share`` and ``dead_types_share``: see
      :class:`~capsexp.metrics.dead_capsules.DeadCapsules`;
    - ``bonding``, ``dynamics``, ``alive``, ``active``, ``active_alive`` and ``correlation`` of the layer's children:
      see :class:`~capsexp.metrics.coupling_dynamics.CouplingDynamics`.

    ``gradients/<layer>/loss`` and ``decay`` are root mean squares over the weights of a layer: of the gradient of the
    loss, and of the weight decay's, which Adam adds to it; means over the steps of the epoch.

    The result holds ``layers/<quantity>`` (epochs + 1, layers), where row 0 is before the first step, and its first and
    last row as ``layers/<quantity>/start`` and ``end``; ``gradients/loss`` and ``gradients/decay`` (epochs + 1, layers
    with weights), where row 0 is the first step; the numbers of the layers from 0 on are ``layers/number`` and
    ``gradients/number``.  ``layers/vanished_share`` and similar metrics are those of the last epoch, averaged over the
    intermediate layers, and ``layers/start/vanished_share`` those before the first step.  ``gradients/decay_to_loss``
    is the ratio of both gradients in the first step, in the layer where it is largest.

    Recipes of several stages test a network that was loaded: their results do not have these arrays, but the epochs'
    metrics are in ``metrics.csv``.

    Source: Mitterreiter, Koch, Giesen and Laue (2023); Everett, Zhong and Leontidis (2023); Sahu and Altahhan (2024).

    Args:
        threshold: activity, standard deviation or variation up to which a capsule is dead, silent or vanished.
        factor: a coupling counts as kept above this factor divided by J.
    """

    def __init__(self, threshold: float = 0.01, factor: float = 1.5) -> None:
        self.threshold = require_number("threshold", threshold, 0, open_ends="<")
        self.factor = require_number("factor", factor, 0)
        self._rows: list[Row] = []
        self._first: dict[str, Gradient] = {}
        self._gradients: dict[str, Gradient] = {}
        self._steps = 0
        self._readers: dict[str, LayerReader] = {}

    # -- before the first step ----------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the untrained network, unless the fit is resumed."""
        if self._rows:
            return
        model = cast("nn.Module", pl_module.model)
        self._listen(pl_module)
        try:
            with _as_in_training(model), trainer.precision_plugin.forward_context():
                for batch in trainer.datamodule.val_dataloader():  # type: ignore[attr-defined]
                    images_BCHW = images_of(batch, pl_module.device)
                    model(trainer.precision_plugin.convert_input(images_BCHW))
            self._rows.append(self._row())
        finally:
            self._stop()

    # -- in training --------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the sums of the epoch."""
        self._gradients, self._steps = {}, 0

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the gradients of a step."""
        model = cast("nn.Module", pl_module.model)
        found = _gradients(model, optimizer)
        if len(self._rows) == 1 and not self._first:
            self._first = found
        known = self._gradients
        self._gradients = {
            name: Gradient(known[name].loss + each.loss, known[name].decay + each.decay) if name in known else each
            for name, each in found.items()
        }
        self._steps += 1

    # -- the selection split ------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Register the hooks."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._listen(pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep and log this epoch's values."""
        if not self._readers:
            return
        if len(self._rows) == 1:
            self._rows[0] |= _plain(self._first, 1)
        row = self._row() | _plain(self._gradients, self._steps)
        self._rows.append(row)
        for quantity, of_layers in row.items():
            kind, _, rest = quantity.partition("/")
            for layer, value in of_layers.items():
                pl_module.log(f"{kind}/{layer}/{rest}", value)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the hooks."""
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the hooks."""
        self._stop()

    # -- results ------------------------------------------------------------------------------------------------------

    def result_metrics(self, module: L.LightningModule) -> dict[str, float]:
        """Means over the intermediate layers before the first step and after the last epoch."""
        if len(self._rows) < 2:
            return {}
        model = cast("nn.Module", module.model)
        inner = [name for name, layer in watched_layers(model).items() if isinstance(layer, ConvCapsules)]
        found: dict[str, float] = {}
        for prefix, row in (("layers/start", self._rows[0]), ("layers", self._rows[-1])):
            for quantity in QUANTITIES if inner else ():
                values = [row[f"layers/{quantity}"][name] for name in inner]
                found[f"{prefix}/{quantity}"] = sum(values) / len(values)
        loss, decay = (self._rows[0][f"gradients/{each}"] for each in Gradient._fields)
        ratios = [decay[name] / loss[name] for name in loss if loss[name] > 0]
        if ratios:
            found["gradients/decay_to_loss"] = max(ratios) if len(ratios) == len(loss) else float("inf")
        return {name: value for name, value in found.items() if np.isfinite(value)}

    def result_arrays(self, module: L.LightningModule) -> dict[str, NDArray[np.generic]]:
        """The values of every layer and epoch, float32."""
        if len(self._rows) < 2:
            return {}
        arrays: dict[str, NDArray[np.generic]] = {}
        for quantity in self._rows[-1]:
            table = np.array([list(row[quantity].values()) for row in self._rows], dtype=np.float32)
            arrays[quantity] = table
            kind = quantity.partition("/")[0]
            arrays |= {f"{quantity}/start": table[0], f"{quantity}/end": table[-1]}
            arrays[f"{kind}/number"] = np.arange(table.shape[1])
        return arrays

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows of saved epochs."""
        self._rows = list(state_dict["rows"])

    # -- hooks --------------------------------------------------------------------------------------------------------

    def _listen(self, module: L.LightningModule) -> None:
        self._stop()
        layers = watched_layers(cast("nn.Module", module.model))
        self._readers = {
            name: LayerReader(layer, self.threshold, self.factor, module.device) for name, layer in layers.items()
        }

    def _row(self) -> Row:
        found = {name: reader.values() for name, reader in self._readers.items()}
        return {
            f"layers/{quantity}": {name: values[quantity] for name, values in found.items()} for quantity in QUANTITIES
        }

    def _stop(self) -> None:
        """Remove the hooks from the model."""
        for reader in self._readers.values():
            reader.stop()
        self._readers = {}


def watched_layers(model: nn.Module) -> dict[str, PrimaryCapsules | CapsuleLayer]:
    """The primary capsules and all layers that route, in the model's order, by short names."""
    named = model.named_modules()
    return by_short_name({name: layer for name, layer in named if isinstance(layer, PrimaryCapsules | CapsuleLayer)})


class LayerReader:
    """The metrics of one layer, filled by a hook on it."""

    def __init__(
        self, layer: PrimaryCapsules | CapsuleLayer, threshold: float, factor: float, device: torch.device
    ) -> None:
        self._layer, self._threshold = layer, threshold
        self._fades = fades(layer)
        self._activity = DeadCapsules(threshold).to(device)
        self._poses: DeadCapsules | None = None if self._fades else DeadCapsules(threshold).to(device)
        self._choice: CouplingDynamics | None = None
        if isinstance(layer, CapsuleLayer):
            parents = len(layer.weight)
            self._choice = CouplingDynamics(parents, layer.child_count, factor=factor, threshold=threshold).to(device)
        self._hook: Any = layer.register_forward_hook(self._add)

    def stop(self) -> None:
        """Remove the hook."""
        self._hook.remove()

    def values(self) -> dict[str, float]:
        """Every quantity; NaN for those that the layer does not have."""
        activity = self._activity.compute()
        poses = activity if self._poses is None else self._poses.compute()
        found = dict.fromkeys(QUANTITIES, float("nan"))
        gone = (activity.std_length < self._threshold) & (poses.variation < self._threshold)
        if self._fades:
            gone = gone | activity.silent
        found["activity"] = float(activity.mean_length.mean())
        found["activity_std"] = float(activity.std_length.mean())
        found["variation"] = float(poses.variation.mean())
        found["vanished_share"] = float(gone.double().mean())
        found |= {f"{rule}_share": share for rule, share in shares([activity])._asdict().items()}
        if self._choice is not None:
            choice = self._choice.compute()
            found |= {name: getattr(choice, name) for name in ("bonding", "dynamics", "correlation")}
            found |= choice.vibrance._asdict()
        return found

    @torch.no_grad()
    def _add(self, _: nn.Module, arguments: tuple[Any, ...], output: Capsules | RoutingOutput) -> None:
        activity = activity_of(self._layer, output).detach()
        self._activity.update(activity)
        if self._poses is not None:
            self._poses.update(output[0].detach() if output[0].shape[2] else activity)  # some have no poses
        if self._choice is not None:
            coupling = cast("RoutingOutput", output).coupling_BJI.detach()
            self._choice.update(*children_of(cast("CapsuleLayer", self._layer), arguments[0], coupling))


def fades(layer: PrimaryCapsules | CapsuleLayer) -> bool:
    """True if the activity of a layer's capsules is the length of a pose that can become 0."""
    if isinstance(layer, PrimaryCapsules):
        return layer.normaliser == "squash" and layer.activation_conv is None
    return bool(layer.routing.activation == "length")


def children_of(
    layer: CapsuleLayer, given: Tensor | Sequence[Tensor | None], coupling: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Coupling (B, J, I), activity (B, I) and mask (B, I) of a layer's children; windows count as images.

    A child's activity is the activation that came with its pose, or the pose's length.

    Args:
        layer: the layer.
        given: what the layer was called with.
        coupling: of its output.
    """
    poses, activations = (given, None) if isinstance(given, Tensor) else (given[0], given[1])
    assert poses is not None
    activity = lengths(poses, 2) if activations is None else activations
    if not isinstance(layer, ConvCapsules):
        return coupling, activity, None
    activity_BI = layer.windows(activity[:, :, None]).squeeze(2)
    return coupling.flatten(0, 1), activity_BI, layer.mask(poses)


@contextmanager
def _as_in_training(model: nn.Module) -> Iterator[None]:
    """A context in which a model works as in training, without gradients; its modes, buffers and random states stay."""
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    states = rng.states()
    model.train()
    try:
        with torch.no_grad():
            yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        for module, mode in modes.items():
            module.training = mode
        rng.put_back(states)


def _gradients(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Gradient]:
    """Root mean square of the loss gradient and of the decay's gradient, of every convolution and capsule layer."""
    decays = {id(each): group.get("weight_decay", 0.0) for group in optimizer.param_groups for each in group["params"]}
    layers: Mapping[str, nn.Module] = {**convolutions(model), **by_short_name(capsule_layers(model))}
    found = {}
    for name, layer in layers.items():
        weight = cast("Tensor", layer.weight)
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        decay = decays.get(id(weight), 0.0) * _rms(weight)
        found[name] = Gradient(_rms(gradient), decay)
    return found


def _rms(values: Tensor) -> Tensor:
    return values.detach().double().square().mean().sqrt()


def _plain(gradients: Mapping[str, Gradient], steps: int) -> Row:
    return {
        f"gradients/{kind}": {name: float(getattr(each, kind)) / steps for name, each in gradients.items()}
        for kind in Gradient._fields
    }
