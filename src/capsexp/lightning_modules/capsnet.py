"""Classification by capsule lengths: margin loss, and reconstruction loss if the network has a decoder."""

from typing import Any, cast

from torch import Tensor, nn

from capsexp.errors import require_number
from capsexp.lightning_modules.base import BaseModule, Made
from capsexp.losses.margin import margin_loss
from capsexp.losses.reconstruction import reconstruction_loss
from capsexp.models.capsnet import CapsNet
from capsexp.types import Batch, StepOutput


class CapsNetModule(BaseModule):
    """Sabour et al. (2017), sections 3 and 4.1: loss = margin + reconstruction_weight * squared pixel differences.

    The decoder reconstructs from the true class in training, and from the longest capsule in evaluation.

    Args:
        present: m+ of the margin loss.
        absent: m- of the margin loss.
        down_weight: lambda of the margin loss.
        reconstruction_weight: weight of the squared differences summed over an image, at least 0.
        **parts: arguments of :class:`BaseModule`.
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
        """The names of the two terms of the loss; empty without a decoder."""
        return () if cast("CapsNet", self.model).decoder is None else ("margin", "reconstruction")

    def made_by(self, model: nn.Module, images_BCHW: Tensor, labels_B: Tensor) -> Made:
        """``lengths`` (B, K) of the capsules and, if ``model`` has a decoder, its images ``drawn`` (B, C, H, W)."""
        capsnet = cast("CapsNet", model)
        poses_BKE, lengths_BK, _ = capsnet.capsules(images_BCHW)
        if capsnet.decoder is None:
            return {"lengths": lengths_BK}
        shown_B = labels_B if capsnet.training else capsnet.decoder.longest(lengths_BK)
        return {"lengths": lengths_BK, "drawn": capsnet.decoder(poses_BKE, shown_B)}

    def judged(self, made: Made, batch: Batch) -> StepOutput:
        """The loss and the scores for the outputs ``made`` of a batch."""
        margin = margin_loss(made["lengths"], batch.labels_B, **self._margin)
        if "drawn" not in made:
            return StepOutput(margin, made["lengths"])
        reconstruction = reconstruction_loss(made["drawn"], batch.pixels_BCHW / 255)
        loss = margin + self._reconstruction_weight * reconstruction
        return StepOutput(loss, made["lengths"], {"margin": margin, "reconstruction": reconstruction})
