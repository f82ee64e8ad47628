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
I      capsules of the lower layer (children)
J      capsules of the higher layer (parents); in the class layer J = K
D      components of a child's pose
E      components of a parent's pose
L      places at which a window lies, or of a map
T      capsule types on a grid
====== =============================================================================
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """A batch on the training device.

    Attributes:
        images_BCHW: float32, cropped and normalised.
        labels_B: int64 in 0..K-1.
        pixels_BCHW: the same images in 0..255, cropped or shifted but not normalised: what a decoder should draw.
    """

    images_BCHW: Tensor
    labels_B: Tensor
    pixels_BCHW: Tensor


class RoutingOutput(NamedTuple):
    """What a routing algorithm gives.

    Attributes:
        poses_BJE: the parents' poses.
        activations_BJ: how present each parent is; for most algorithms the length of its pose, in 0..1.
        coupling_BJI: the coefficients that weighted the returned poses.
    """

    poses_BJE: Tensor
    activations_BJ: Tensor
    coupling_BJI: Tensor


class StepOutput(NamedTuple):
    """What one shared step gives for train, validation and test alike.

    Attributes:
        loss: scalar that is minimised, the mean over the batch.
        scores_BK: one score a class, the highest is the prediction; None where nothing is classified.
        terms: what the loss is made of, each the mean over the batch, by the names in the module's ``terms``.
    """

    loss: Tensor
    scores_BK: Tensor | None
    terms: Mapping[str, Tensor] = MappingProxyType({})
