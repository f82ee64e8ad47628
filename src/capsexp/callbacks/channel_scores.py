"""The scores of a pruning criterion for all channels, over a given number of training images."""

from typing import Any, cast

import lightning as L
import torch
from torch import Tensor

from capsexp.errors import require_int
from capsexp.nn.channels import FeatureMaps, Prunable
from capsexp.pruning.base import Criterion, Layer
from capsexp.types import Batch


class ChannelScores(L.Callback):
    """Scores the channels of a model's layers while a Trainer predicts the training images.

    A criterion that needs feature maps scores each batch, and the scores are averaged over the images; the memory does
    not grow with their number.  A criterion that needs weights uses no images: see :meth:`of_weights`.

    Args:
        criterion: the pruning criterion.
        batches: number of scored batches, spread evenly over the images; None for all.

    Attributes:
        scores: (O,) per layer, float64 on the CPU, set at the end of a prediction.
    """

    def __init__(self, criterion: Criterion, batches: int | None = None) -> None:
        self.criterion = criterion
        self.batches = None if batches is None else require_int("batches", batches, 1)
        self.scores: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._images = 0
        self._chosen: set[int] = set()
        self._maps: FeatureMaps | None = None

    def of_weights(self, model: Prunable) -> dict[str, Tensor]:
        """The scores (O,) per layer of a criterion that needs only the weights."""
        weights = {name: model.convolution(name).weight for name in model.channel_layers()}
        return {name: self.criterion.scores(Layer(name, weight)) for name, weight in weights.items()}

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the sums, and choose the batches to score."""
        self.scores, self._sums, self._images = {}, {}, 0
        self._maps = FeatureMaps(cast("Prunable", pl_module.model))
        (total,) = trainer.num_predict_batches
        count = total if self.batches is None else min(self.batches, int(total))
        self._chosen = set(torch.linspace(0, total - 1, int(count)).round().int().tolist())

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Register the hooks for a batch to score."""
        if self._maps is not None and batch_idx in self._chosen:
            self._maps.listen()

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Score the feature maps of the batch."""
        if self._maps is None or not self._maps.last:
            return
        model, images = cast("Prunable", pl_module.model), len(batch.labels_B)
        for name, maps_BCHW in self._maps.last.items():
            found = self.criterion.scores(Layer(name, model.convolution(name).weight, maps_BCHW)) * images
            self._sums[name] = self._sums[name] + found if name in self._sums else found
        self._images += images
        self._maps.stop()

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compute the mean scores."""
        self.scores = {name: total / self._images for name, total in self._sums.items()}

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the hooks from the model."""
        if self._maps is not None:
            self._maps.stop()
