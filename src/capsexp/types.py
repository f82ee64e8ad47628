"""The types that data, models and modules exchange, and the legend of the shape letters.

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
L      positions of a window, or of a value in a feature map
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
        pixels_BCHW: the same images in 0..255, cropped or shifted but not normalised: the target of a decoder.
    """

    images_BCHW: Tensor
    labels_B: Tensor
    pixels_BCHW: Tensor


class Capsules(NamedTuple):
    """The capsules that a layer hands to the next one.

    Attributes:
        poses: (B, I, D) in a list, (B, T, D, H, W) on a grid.
        activations: of the same capsules, (B, I) or (B, T, H, W); None stands for the lengths of the poses.

    Example:
        >>> poses, activations = Capsules(torch.rand(5, 36, 8))
        >>> activations is None
        True
    """

    poses: Tensor
    activations: Tensor | None = None


class RoutingOutput(NamedTuple):
    """The output of a routing algorithm.

    Attributes:
        poses_BJE: the parents' poses.
        activations_BJ: the activation of each parent; for most algorithms the length of its pose, in 0..1.
        coupling_BJI: the coupling of each child with each parent; in most algorithms it weighted the poses.

    Example:
        >>> poses, activations, coupling = RoutingOutput(torch.zeros(1, 2, 3), torch.zeros(1, 2), torch.ones(1, 2, 4))
        >>> coupling.shape
        torch.Size([1, 2, 4])
    """

    poses_BJE: Tensor
    activations_BJ: Tensor
    coupling_BJI: Tensor


class StepOutput(NamedTuple):
    """The output of the step that training, validation and test share.

    Attributes:
        loss: the scalar to minimise, the mean over the batch.
        scores_BK: one score per class, the highest is the prediction; None where nothing is classified.
        terms: the terms of the loss, each the mean over the batch, by the names in the module's ``terms``.
    """

    loss: Tensor
    scores_BK: Tensor | None
    terms: Mapping[str, Tensor] = MappingProxyType({})
