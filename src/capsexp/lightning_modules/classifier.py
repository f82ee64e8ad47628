"""Classification by cross-entropy."""

import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.lightning_modules.base import BaseModule, Made
from capsexp.types import Batch, StepOutput


class ClassifierModule(BaseModule):
    """An architecture with one score per class, trained with the cross-entropy of its softmax."""

    def made_by(self, model: nn.Module, images_BCHW: Tensor, labels_B: Tensor) -> Made:
        """The ``scores`` (B, K) of ``model``."""
        return {"scores": model(images_BCHW)}

    def judged(self, made: Made, batch: Batch) -> StepOutput:
        """The mean cross-entropy and the scores for the outputs ``made`` of a batch."""
        return StepOutput(F.cross_entropy(made["scores"], batch.labels_B), made["scores"])
