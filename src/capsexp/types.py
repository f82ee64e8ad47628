"""What passes between data, models and modules, and the legend of the shape letters.

Shape letters, written as a suffix of a tensor's name (``images_BCHW``):

====== =============================================================================
letter meaning
====== =============================================================================
N      images in a data set
B      images in a batch
C      channels of an image or of a feature map
H, W   height and width
K      classes
O      output channels (filters) of a layer
F      values in one flattened filter: input channels x kernel height x kernel width
====== =============================================================================
"""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """A batch on the training device.

    Attributes:
        images_BCHW: float32, cropped and normalised.
        labels_B: int64 in 0..K-1.
    """

    images_BCHW: Tensor
    labels_B: Tensor


class StepOutput(NamedTuple):
    """What one shared step gives for train, validation and test alike.

    Attributes:
        loss: scalar that is minimised, the mean over the batch.
        scores_BK: one score a class, the highest is the prediction.
    """

    loss: Tensor
    scores_BK: Tensor
