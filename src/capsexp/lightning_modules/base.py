"""The step that train, validation and test share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from capsexp.metrics.running import RunningMean
from capsexp.types import Batch, StepOutput

SPLITS = ("train", "val", "test")

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class BaseModule(L.LightningModule, ABC):
    """An architecture, its loss, and the streaming means that are logged as ``<split>/loss`` and ``<split>/acc``.

    Metrics add up on the device and are read once an epoch, so no step waits for the device.

    Args:
        model: the architecture.
        make_optimizer: takes the parameters, gives the optimizer.
        sizes: what the architecture was told about the data, in plain types; travels with the checkpoint.
    """

    def __init__(self, model: nn.Module, make_optimizer: MakeOptimizer, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.model = _channels_last(model)
        self._make_optimizer = make_optimizer
        self.save_hyperparameters({"sizes": sizes}, logger=False)
        names = ("loss", "acc", *self.terms)
        self.running = nn.ModuleDict({f"{split}_{name}": RunningMean() for split in SPLITS for name in names})

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the loss's terms that a step gives and that are logged too, as ``<split>/<term>``."""
        return ()

    @abstractmethod
    def shared_step(self, batch: Batch) -> StepOutput:
        """Loss and class scores of a batch."""

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
        output = self.shared_step(batch)
        count = len(batch.labels_B)
        hits = (output.scores_BK.detach().argmax(1) == batch.labels_B).sum()
        self._mean(split, "loss").update(output.loss.detach() * count, count)
        self._mean(split, "acc").update(hits, count)
        for name in self.terms:
            self._mean(split, name).update(output.terms[name].detach() * count, count)
        return output.loss

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
        for name in ("loss", "acc", *self.terms):
            mean = self._mean(split, name)
            self.log(f"{split}/{name}", mean.compute())
            mean.reset()

    def configure_optimizers(self) -> Optimizer:
        """The optimizer over the parameters that are trained."""
        return self._make_optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)

    @torch.inference_mode()
    def predict(self, images_BCHW: Tensor) -> Tensor:
        """Predicted classes (B,) of normalised images, in evaluation mode."""
        self.eval()
        return self(images_BCHW.to(self.device)).argmax(1)  # type: ignore[no-any-return]


def _channels_last(model: nn.Module) -> nn.Module:
    """Convolutions, and poolings above all, are faster with the channels of a pixel side by side."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
