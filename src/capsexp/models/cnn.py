"""The convolutional network of Wang (2019), section 3.1, whose channels are pruned."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from capsexp.errors import require, require_int, require_number
from capsexp.models.base import Classifier, check_image_shape, count_weights
from capsexp.nn.channels import ChannelLayer, Reader


class CNN(Classifier):
    """Three convolutions, each followed by max pooling, ReLU and dropout, and one linear layer.

    Source: Wang (2019), section 3.1.  Padding keeps the size, and each pooling halves it: 28 -> 14 -> 7 -> 3.

    Args:
        image_shape: (C, H, W) of the images, at least 8x8 pixels.
        classes: number of classes K.
        c1: output channels of the first convolution.
        c2: output channels of the second convolution.
        c3: output channels of the third convolution.
        kernels: kernel sizes of the three convolutions, odd, so that padding keeps the size.
        dropout: share of activations dropped after each pooling, in [0, 1).

    Example:
        >>> model = CNN(image_shape=(1, 28, 28), classes=46, c1=8)
        >>> model(torch.rand(2, 1, 28, 28)).shape, model.widths()
        (torch.Size([2, 46]), {'conv1': 8, 'conv2': 16, 'conv3': 16})
    """

    stackable = frozenset({"c1", "c2", "c3", "dropout"})

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        c1: int = 6,
        c2: int = 16,
        c3: int = 16,
        kernels: Sequence[int] = (7, 5, 3),
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        channels, height, width = check_image_shape(image_shape, smallest=8)
        widths = [channels, *(require_int(key, value, 1) for key, value in (("c1", c1), ("c2", c2), ("c3", c3)))]
        require_number("dropout", dropout, 0, 1, open_ends=">")
        require(len(kernels) == 3, "kernels", "hold three sizes", list(kernels))
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, kernel in enumerate(kernels, 1):
            _check_kernel(kernel)
            layers[f"conv{number}"] = nn.Conv2d(widths[number - 1], widths[number], kernel, padding=kernel // 2)
            layers[f"pool{number}"] = nn.MaxPool2d(2)
            layers[f"relu{number}"] = nn.ReLU()
            layers[f"dropout{number}"] = nn.Dropout(dropout)
        layers["flatten"] = nn.Flatten()
        places = (height // 8) * (width // 8)
        layers["linear"] = nn.Linear(c3 * places, classes)
        self.layers = nn.Sequential(layers)
        self._readers = (Reader("layers.conv2"), Reader("layers.conv3"), Reader("layers.linear", places))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Class scores of shape (B, K), before any softmax."""
        scores: Tensor = self.layers(images_BCHW)
        return scores

    def params_paper(self) -> int:
        """49*c1 + 25*c1*c2 + 9*c2*c3 + 9*c3*46 on 28x28 gray images of 46 classes: the weights without biases."""
        return count_weights(self)

    def channel_layers(self) -> dict[str, ChannelLayer]:
        """The three convolutions; their maps are those after pooling and ReLU."""
        return {
            f"conv{number}": ChannelLayer(f"layers.conv{number}", f"layers.relu{number}", (reader,))
            for number, reader in enumerate(self._readers, 1)
        }

    def sized(self, widths: Mapping[str, int]) -> dict[str, Any]:
        """The arguments c1, c2 and c3."""
        return {name.replace("conv", "c"): width for name, width in {**self.widths(), **widths}.items()}


def _check_kernel(kernel: int) -> None:
    require(require_int("kernels", kernel, 1) % 2 == 1, "kernels", "be odd sizes", kernel)
