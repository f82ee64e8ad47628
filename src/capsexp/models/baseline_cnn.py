"""The published network with which Wang (2019) compares: Acharya, Pant and Gyawali (2015)."""

from torch import Tensor, nn

from capsexp.errors import require_int, require_number
from capsexp.models.base import Classifier, check_image_shape, count_weights


class BaselineCNN(Classifier):
    """Two convolutions with pooling and two linear layers.

    Source: Wang (2019), section 4.4, after Acharya et al. (2015).  The text names no activation after the
    convolutions; here a ReLU follows each (docs/decisions.md).

    Args:
        image_shape: (C, H, W) of the images, at least 12x12 pixels.
        classes: number of classes K.
        c1: output channels of the first convolution (kernel 5, padding 2).
        c2: output channels of the second convolution (kernel 5, no padding).
        hidden: width of the first linear layer.
        dropout: share of the hidden activations dropped, in [0, 1).

    Example:
        >>> BaselineCNN(image_shape=(1, 28, 28), classes=46).params_paper()
        45588
    """

    stackable = frozenset({"c1", "c2", "hidden", "dropout"})

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        c1: int = 4,
        c2: int = 12,
        hidden: int = 128,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        channels, height, width = check_image_shape(image_shape, smallest=12)
        for key, value in (("c1", c1), ("c2", c2), ("hidden", hidden)):
            require_int(key, value, 1)
        require_number("dropout", dropout, 0, 1, open_ends=">")
        self.conv1 = nn.Conv2d(channels, c1, 5, padding=2)
        self.conv2 = nn.Conv2d(c1, c2, 5)
        self.pool = nn.MaxPool2d(2)
        pixels = ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
        self.linear1 = nn.Linear(c2 * pixels, hidden)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(hidden, classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Class scores of shape (B, K), before any softmax."""
        maps = self.pool(self.conv1(images_BCHW)).relu()  # pooling before ReLU gives the same values with fewer ReLUs
        maps = self.pool(self.conv2(maps)).relu()
        hidden = self.dropout(self.linear1(maps.flatten(1)).relu())
        scores: Tensor = self.linear2(hidden)
        return scores

    def params_paper(self) -> int:
        """The weights without biases: 45,588 for the stated layers on 28x28 images (the paper prints 47,892)."""
        return count_weights(self)
