"""Reconstruction, classification from the latent maps, or both at once."""

from typing import Any, Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.errors import require_number
from capsexp.lightning_modules.base import BaseModule, Made
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

    @property
    def variant(self) -> tuple[Any, ...]:
        """Which of the two is trained."""
        return (self._task,)

    def made_by(self, model: nn.Module, images_BCHW: Tensor, labels_B: Tensor) -> Made:
        """What the task asks of ``model``: ``scores`` (B, K), what is ``drawn`` (B, C, H, W), or both."""
        autoencoder = cast("Autoencoder", model)
        if self._task == "reconstruct":
            return {"drawn": autoencoder.reconstruct(images_BCHW)}
        if not self._both:
            return {"scores": autoencoder(images_BCHW)}
        code = autoencoder.encode(images_BCHW)
        return {"scores": autoencoder.classify(code), "drawn": autoencoder.decode(code)}

    def judged(self, made: Made, batch: Batch) -> StepOutput:
        """The loss of what was made of a batch."""
        if self._task == "reconstruct":
            return StepOutput(F.mse_loss(made["drawn"], batch.images_BCHW), None)
        cross_entropy = F.cross_entropy(made["scores"], batch.labels_B)
        if not self._both:
            return StepOutput(cross_entropy, made["scores"])
        reconstruction = F.mse_loss(made["drawn"], batch.images_BCHW)
        terms = {"cross_entropy": cross_entropy, "reconstruction": reconstruction}
        return StepOutput(cross_entropy + self._weight * reconstruction, made["scores"], terms)
