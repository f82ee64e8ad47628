"""The base class of LightningModules: the step that training, validation and test share."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from capsexp.losses.ccm import channel_correlation
from capsexp.metrics.running import RunningMean
from capsexp.nn.channels import FeatureMaps, Prunable
from capsexp.types import Batch, StepOutput

SPLITS = ("train", "val", "test")

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]

Made = Mapping[str, Tensor]
"""Outputs of a network for a batch's images, by name; the first dimension is the image."""

Sums = Mapping[str, tuple[Tensor, int]]
"""The sum of each measure over images, and the number of images."""


class BaseModule(L.LightningModule):
    """An architecture, its loss, and the streaming means that are logged as ``<split>/loss`` and ``<split>/acc``.

    Metrics are summed on the device and read once per epoch, so no step waits for the device.

    Args:
        model: the architecture.
        make_optimizer: makes the optimizer of given parameters.
        sizes: arguments of the architecture that describe the data, in plain types; saved in the checkpoint.
    """

    def __init__(self, model: Prunable, make_optimizer: MakeOptimizer, sizes: dict[str, Any]) -> None:
        super().__init__()
        self._correlation_weight = 0.0
        self._make_optimizer = make_optimizer
        self.set_model(model, sizes)
        self.running = nn.ModuleDict({f"{split}_{name}": RunningMean() for split in SPLITS for name in self.measures})

    def set_model(self, model: Prunable, sizes: dict[str, Any]) -> None:
        """Replace the present model, before a fit has made its optimizer.

        Args:
            model: model of the same architecture, possibly with other widths.
            sizes: the sizes that it was made with.
        """
        self.model = _channels_last(model)
        self.save_hyperparameters({"sizes": sizes}, logger=False)

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Load saved weights, in the precision in which they were saved."""
        if any(value.dtype == torch.float64 for value in weights.values()):
            self.double()
        self.load_state_dict(weights)

    def reward_correlation(self, weight: float) -> None:
        """Lower every loss from now on by ``weight`` times the correlation between the channels of a layer.

        Sahu and Altahhan (2024), equation (5): the sum over the model's channel layers of
        :func:`~capsexp.losses.ccm.channel_correlation`.  It is logged as ``<split>/correlation``.
        """
        self._correlation_weight = weight
        self.running.update({f"{split}_correlation": RunningMean() for split in SPLITS})

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the loss's terms that a step returns; they are logged as ``<split>/<term>``."""
        return ()

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures of a split; they are logged as ``<split>/<measure>``."""
        return ("loss", "acc", *self.terms, *(("correlation",) if self._correlation_weight else ()))

    def shared_step(self, batch: Batch) -> StepOutput:
        """Loss and class scores of a batch: :meth:`judged` applied to the network's outputs."""
        return self.judged(self.made_by(self.model, batch.images_BCHW, batch.labels_B), batch)

    def made_by(self, model: nn.Module, images_BCHW: Tensor, labels_B: Tensor) -> Made:
        """Outputs of ``model`` for a batch's images; the model may hold several networks (see ``stacking``).

        Args:
            model: the model, in training or evaluation mode.
            images_BCHW: images of the batch; in a stack (B, S*C, H, W), the images of S streams side by side.
            labels_B: labels, for outputs that depend on the true class; in a stack (B, S).
        """
        raise NotImplementedError("a module has made_by and judged, or a shared_step of its own")

    def judged(self, made: Made, batch: Batch) -> StepOutput:
        """Loss and class scores from the outputs for a batch; it does not read the network."""
        raise NotImplementedError("a module has made_by and judged, or a shared_step of its own")

    @property
    def stackable(self) -> bool:
        """True if a step is only :meth:`judged` applied to :meth:`made_by`, so that networks can share it."""
        plain = type(self).shared_step is BaseModule.shared_step and type(self).step is BaseModule.step
        return plain and not self._correlation_weight

    @property
    def alone(self) -> str | None:
        """The reason why its fits are never stacked, in a few words; None if there is none."""
        return None

    @property
    def variant(self) -> tuple[Any, ...]:
        """Values that its step depends on in addition to the config."""
        return ()

    def step(self, batch: Batch) -> StepOutput:
        """The shared step, with the reward for correlated channels if there is one."""
        if not self._correlation_weight:
            return self.shared_step(batch)
        with FeatureMaps(self.model) as maps:
            loss, scores_BK, terms = self.shared_step(batch)
            correlation = torch.stack([channel_correlation(each) for each in maps.last.values()]).sum()
        return StepOutput(
            loss - self._correlation_weight * correlation, scores_BK, {**terms, "correlation": correlation}
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Class scores (B, K) of normalised images."""
        scores: Tensor = self.model(images_BCHW)
        return scores

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one training batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one validation batch to the running metrics."""
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one test batch to the running metrics."""
        self._step(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class scores (B, K) of a batch."""
        scores: Tensor = self(batch.images_BCHW)
        return scores

    def _step(self, batch: Batch, split: str) -> Tensor:
        output = self.step(batch)
        self.add(split, {name: (total, len(batch.labels_B)) for name, total in self.totals(output, batch).items()})
        return output.loss

    def totals(self, output: StepOutput, batch: Batch) -> dict[str, Tensor]:
        """The sum of each measure over a batch, without gradients."""
        count = len(batch.labels_B)
        found: dict[str, Tensor] = {}
        for name in self.measures:
            if name == "acc":
                assert output.scores_BK is not None, "a module without scores does not measure an accuracy"
                found[name] = (output.scores_BK.detach().argmax(1) == batch.labels_B).sum()
            else:
                mean = output.loss if name == "loss" else output.terms[name]
                found[name] = mean.detach() * count
        return found

    def add(self, split: str, sums: Sums) -> None:
        """Add sums over images to the means that are logged for a split."""
        for name, (total, count) in sums.items():
            self._mean(split, name).update(total, count)

    def on_train_epoch_end(self) -> None:
        """Log the training means."""
        self._log_means("train")

    def on_validation_epoch_end(self) -> None:
        """Log the validation means."""
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        """Log the test means."""
        self._log_means("test")

    def _mean(self, split: str, name: str) -> RunningMean:
        return cast("RunningMean", self.running[f"{split}_{name}"])

    def _log_means(self, split: str) -> None:
        for name in self.measures:
            mean = self._mean(split, name)
            self.log(f"{split}/{name}", mean.compute())
            mean.reset()

    def configure_optimizers(self) -> Optimizer:
        """The optimizer of the trainable parameters."""
        return self._make_optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)

    @torch.inference_mode()
    def predict(self, images_BCHW: Tensor) -> Tensor:
        """Predicted classes (B,) of normalised images, in evaluation mode."""
        self.eval()
        return self(images_BCHW.to(self.device)).argmax(1)  # type: ignore[no-any-return]


def _channels_last(model: Prunable) -> Prunable:
    """The model with channels-last convolutions: they, and above all poolings, are faster with this memory format."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
