"""Reconstruction, classification from the latent maps, or both at once."""

from typing import Any, Literal, cast

import torch.nn.functional as F

from capsexp.errors import require_number
from capsexp.lightning_modules.base import BaseModule
from capsexp.models.autoencoder import Autoencoder
from capsexp.types import Batch, StepOutput

Task = Literal["reconstruct", "classify"]


class AutoencoderModule(BaseModule):
    """Trains an autoencoder and the linear layer on its latent maps.

    Wang (2019), section 3.2, trains one after the other: :meth:`only` chooses which.  Without it both are trained at
    once, with the loss cross-entropy + reconstruction_weight * mean squared error, as long as there is a decoder: a
    control of ours.  What should be drawn is the normalised image; the error is the mean over its pixels and channels.

    Args:
        reconstruction_weight: of the mean squared error where both are trained, at least 0.
        **parts: what :class:`BaseModule` takes.
    """

    def __init__(self, *, reconstruction_weight: float = 1.0, **parts: Any) -> None:
        self._task: Task | None = None
        super().__init__(**parts)
        self._weight = require_number("reconstruction_weight", reconstruction_weight, 0)

    @property
    def _autoencoder(self) -> Autoencoder:
        return cast("Autoencoder", self.model)

    def only(self, task: Task) -> None:
        """From now on, train and measure one of the two alone."""
        self._task = task

    @property
    def _both(self) -> bool:
        return self._task is None and self._autoencoder.decoder is not None

    @property
    def terms(self) -> tuple[str, ...]:
        """Both terms of the loss, where there are two."""
        return ("cross_entropy", "reconstruction") if self._both else ()

    @property
    def measures(self) -> tuple[str, ...]:
        """Reconstruction alone has no accuracy."""
        return ("loss",) if self._task == "reconstruct" else super().measures

    def shared_step(self, batch: Batch) -> StepOutput:
        """Loss of a batch, and the class scores unless it is only reconstructed."""
        model, images_BCHW = self._autoencoder, batch.images_BCHW
        if self._task == "reconstruct":
            return StepOutput(F.mse_loss(model.reconstruct(images_BCHW), images_BCHW), None)
        if not self._both:
            scores_BK = model(images_BCHW)
            return StepOutput(F.cross_entropy(scores_BK, batch.labels_B), scores_BK)
        code = model.encode(images_BCHW)
        scores_BK, drawn_BCHW = model.classify(code), model.decode(code)
        terms = {
            "cross_entropy": F.cross_entropy(scores_BK, batch.labels_B),
            "reconstruction": F.mse_loss(drawn_BCHW, images_BCHW),
        }
        return StepOutput(terms["cross_entropy"] + self._weight * terms["reconstruction"], scores_BK, terms)
