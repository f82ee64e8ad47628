"""Classification by capsule lengths: margin loss, and reconstruction where the network has a decoder."""

from typing import Any, cast

from torch import Tensor

from capsexp.errors import require_number
from capsexp.lightning_modules.base import BaseModule
from capsexp.losses.margin import margin_loss
from capsexp.losses.reconstruction import reconstruction_loss
from capsexp.models.capsnet import CapsNet
from capsexp.types import Batch, StepOutput


class CapsNetModule(BaseModule):
    """Sabour et al. (2017), sections 3 and 4.1: loss = margin + reconstruction_weight * squared pixel differences.

    The decoder draws from the true class in training, and from the longest capsule in evaluation.

    Args:
        present: m+ of the margin loss.
        absent: m- of the margin loss.
        down_weight: lambda of the margin loss.
        reconstruction_weight: of the squared differences summed over an image, at least 0.
        **parts: what :class:`BaseModule` takes.
    """

    def __init__(
        self,
        *,
        present: float = 0.9,
        absent: float = 0.1,
        down_weight: float = 0.5,
        reconstruction_weight: float = 0.0005,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self._margin = {
            "present": require_number("present", present, 0, 1),
            "absent": require_number("absent", absent, 0, 1),
            "down_weight": require_number("down_weight", down_weight, 0),
        }
        self._reconstruction_weight = require_number("reconstruction_weight", reconstruction_weight, 0)

    @property
    def terms(self) -> tuple[str, ...]:
        """Both terms of the loss, where there are two."""
        return () if self._capsnet.decoder is None else ("margin", "reconstruction")

    @property
    def _capsnet(self) -> CapsNet:
        return cast("CapsNet", self.model)

    def shared_step(self, batch: Batch) -> StepOutput:
        """Loss and capsule lengths of a batch."""
        poses_BKE, lengths_BK, _ = self._capsnet.capsules(batch.images_BCHW)
        margin = margin_loss(lengths_BK, batch.labels_B, **self._margin)
        if self._capsnet.decoder is None:
            return StepOutput(margin, lengths_BK)
        shown_B = batch.labels_B if self.training else lengths_BK.argmax(1)
        reconstruction = self._reconstruction(poses_BKE, shown_B, batch.pixels_BCHW)
        loss = margin + self._reconstruction_weight * reconstruction
        return StepOutput(loss, lengths_BK, {"margin": margin, "reconstruction": reconstruction})

    def _reconstruction(self, poses_BKE: Tensor, shown_B: Tensor, pixels_BCHW: Tensor) -> Tensor:
        assert self._capsnet.decoder is not None
        return reconstruction_loss(self._capsnet.decoder(poses_BKE, shown_B), pixels_BCHW / 255)
