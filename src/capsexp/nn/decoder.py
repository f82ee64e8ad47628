"""The decoder, which reconstructs the image from the class capsules."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.errors import require, require_int
from capsexp.nn.functional import at_least_single


class Decoder(nn.Module):
    """Three linear layers that reconstruct the image from the pose of one class: Sabour et al. (2017), figure 2.

    Args:
        classes: K.
        dim: E, components of a class capsule.
        image_shape: (C, H, W) of the image.
        hidden: widths of the hidden layers.

    Example:
        >>> decoder = Decoder(10, 16, (1, 8, 8), hidden=[32])
        >>> decoder(torch.rand(2, 10, 16), shown_B=torch.tensor([3, 7])).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self, classes: int, dim: int, image_shape: tuple[int, int, int], hidden: Sequence[int] = (512, 1024)
    ) -> None:
        super().__init__()
        require(len(hidden) > 0, "hidden", "name the widths of at least one layer", list(hidden))
        self.classes, self.image_shape = classes, tuple(image_shape)
        channels, height, width = image_shape
        widths = [classes * dim, *(require_int("hidden", each, 1) for each in hidden), channels * height * width]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1], nn.Sigmoid())

    def longest(self, lengths_BK: Tensor) -> Tensor:
        """The class (B,) of the longest capsule."""
        return lengths_BK.argmax(1)

    def forward(self, poses_BKE: Tensor, shown_B: Tensor) -> Tensor:
        """The image (B, C, H, W) in [0, 1] reconstructed from class ``shown_B`` alone, the other poses set to zero."""
        shown_BK = F.one_hot(shown_B, self.classes).bool()
        precision = next(self.layers.parameters()).dtype  # half precision, where the whole network has it
        drawn: Tensor = self.layers(poses_BKE.where(shown_BK[..., None], 0).flatten(1).to(precision))
        return at_least_single(drawn).view(-1, *self.image_shape)
