"""Reconstruction, classification of the latent maps, or both at once."""

from typing import Any, Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.errors import require_number
from capsexp.lightning_modules.base import BaseModule, Made
from capsexp.models.autoencoder import Autoencoder
from capsexp.types import Batch, StepOutput

Task = Literal["reconstruct", "classify"]


class AutoencoderModule(BaseModule):
    """Training of an autoencoder and of the linear layer on its latent maps.

    Wang (2019), section 3.2, trains one after the other: :meth:`only` chooses the task.  Without it, both are trained
    at once if there is a decoder, with the loss cross-entropy + reconstruction_weight * mean squared error; this is our
    control.  The target of the reconstruction is the normalised image; the error is the mean over its pixels and
    channels.

    Args:
        reconstruction_weight: weight of the mean squared error where both are trained, at least 0.
        **parts: arguments of :class:`BaseModule`.
    """

    def __init__(self, *, reconstruction_weight: float = 1.0, **parts: Any) -> None:
        self._task: Task | None = None
        super().__init__(**parts)
        self._weight = require_number("reconstruction_weight", reconstruction_weight, 0)

    @property
    def _autoencoder(self) -> Autoencoder:
        return cast("Autoencoder", self.model)

    def only(self, task: Task) -> None:
        """Train and measure only this task."""
        self._task = task

    @property
    def _both(self) -> bool:
        return self._task is None and self._autoencoder.decoder is not None

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the two terms of the loss; empty if only one task is trained."""
        return ("cross_entropy", "reconstruction") if self._both else ()

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the measures; reconstruction alone has no accuracy."""
        return ("loss",) if self._task == "reconstruct" else super().measures

    @property
    def variant(self) -> tuple[Any, ...]:
        """The task that is trained, or None for both."""
        return (self._task,)

    def made_by(self, model: nn.Module, images_BCHW: Tensor, labels_B: Tensor) -> Made:
        """The outputs of ``model`` for the task: ``scores`` (B, K), images ``drawn`` (B, C, H, W), or both."""
        autoencoder = cast("Autoencoder", model)
        if self._task == "reconstruct":
            return {"drawn": autoencoder.reconstruct(images_BCHW)}
        if not self._both:
            return {"scores": autoencoder(images_BCHW)}
        code = autoencoder.encode(images_BCHW)
        return {"scores": autoencoder.classify(code), "drawn": autoencoder.decode(code)}

    def judged(self, made: Made, batch: Batch) -> StepOutput:
        """The loss, and the scores if any, for the outputs ``made`` of a batch."""
        if self._task == "reconstruct":
            return StepOutput(F.mse_loss(made["drawn"], batch.images_BCHW), None)
        cross_entropy = F.cross_entropy(made["scores"], batch.labels_B)
        if not self._both:
            return StepOutput(cross_entropy, made["scores"])
        reconstruction = F.mse_loss(made["drawn"], batch.images_BCHW)
        terms = {"cross_entropy": cross_entropy, "reconstruction": reconstruction}
        return StepOutput(cross_entropy + self._weight * reconstruction, made["scores"], terms)
