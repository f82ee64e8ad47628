"""What a criterion says of every channel that could be pruned, over as many training images as are asked for."""

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

    A criterion that needs feature maps scores batch after batch, and the mean over the images counts; nothing grows
    with their number.  One that needs weights has no use for images: see :meth:`of_weights`.

    Args:
        criterion: which channels matter.
        batches: score so many batches alone, spread evenly over the images; None for all.

    Attributes:
        scores: (O,) of every layer, float64 on the CPU, once a prediction has ended.
    """

    def __init__(self, criterion: Criterion, batches: int | None = None) -> None:
        self.criterion = criterion
        self.batches = None if batches is None else require_int("batches", batches, 1)
        self.scores: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._images = 0
        self._maps: FeatureMaps | None = None

    def of_weights(self, model: Prunable) -> dict[str, Tensor]:
        """The scores of a criterion that needs the weights alone."""
        weights = {name: model.convolution(name).weight for name in model.channel_layers()}
        return {name: self.criterion.scores(Layer(name, weight)) for name, weight in weights.items()}

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin anew."""
        self.scores, self._sums, self._images = {}, {}, 0

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Listen to the batches that count."""
        if batch_idx in self._chosen(trainer):
            self._maps = FeatureMaps(cast("Prunable", pl_module.model)).__enter__()

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Score what has been heard."""
        if self._maps is None:
            return
        model, images = cast("Prunable", pl_module.model), len(batch.labels_B)
        for name, maps_BCHW in self._maps.last.items():
            found = self.criterion.scores(Layer(name, model.convolution(name).weight, maps_BCHW)) * images
            self._sums[name] = self._sums[name] + found if name in self._sums else found
        self._images += images
        self._stop()

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the means."""
        self.scores = {name: total / self._images for name, total in self._sums.items()}

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the model as it was."""
        self._stop()

    def _stop(self) -> None:
        if self._maps is not None:
            self._maps.__exit__()
        self._maps = None

    def _chosen(self, trainer: L.Trainer) -> set[int]:
        (total,) = trainer.num_predict_batches
        count = total if self.batches is None else min(self.batches, int(total))
        return set(torch.linspace(0, total - 1, int(count)).round().int().tolist())
