"""Classification by cross-entropy."""

import torch.nn.functional as F

from capsexp.lightning_modules.base import BaseModule
from capsexp.types import Batch, StepOutput


class ClassifierModule(BaseModule):
    """An architecture with one score a class, trained by cross-entropy of its softmax."""

    def shared_step(self, batch: Batch) -> StepOutput:
        """Mean cross-entropy over the batch, and the scores."""
        scores_BK = self.model(batch.images_BCHW)
        return StepOutput(F.cross_entropy(scores_BK, batch.labels_B), scores_BK)
