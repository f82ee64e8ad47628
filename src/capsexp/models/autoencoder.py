"""The autoencoders of Wang (2019), section 3.2: the normal one and the one with shared weights."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.errors import require, require_int, require_number
from capsexp.models.base import Classifier, count_weights
from capsexp.nn.functional import at_least_single
from capsexp.nn.unpooling import max_pool, max_unpool


class Encoding(NamedTuple):
    """The encoding of a batch of images, the input of the decoder.

    Attributes:
        latent_BCHW: the latent maps, with a quarter of the height and width of the image.
        places1_BCHW: positions of the maxima of the first pooling.
        places2_BCHW: positions of the maxima of the second pooling.
    """

    latent_BCHW: Tensor
    places1_BCHW: Tensor
    places2_BCHW: Tensor


class Autoencoder(Classifier):
    """An encoder, a decoder that reconstructs the image from the latent maps, and a linear layer that classifies them.

    Source: Wang (2019), section 3.2.  Padding keeps the size, and each of two poolings halves it: 28 -> 14 -> 7.

    Args:
        image_shape: (C, H, W) of the images; both sides are multiples of 4.
        classes: number of classes K.
        c1: output channels of the first convolution, input channels of the last deconvolution.
        c2: output channels of the second convolution, input channels of the second deconvolution.
        latent: channels of the latent maps.
        kernel: kernel size of all layers, odd, so that padding keeps the size.
        dropout: share of activations dropped after each pooling and unpooling, in [0, 1).
        decoder: "own" weights, the encoder's weights "shared", or None for no decoder.

    Example:
        >>> model = Autoencoder(image_shape=(1, 28, 28), classes=46, decoder="shared")
        >>> model.reconstruct(torch.rand(2, 1, 28, 28)).shape, model(torch.rand(2, 1, 28, 28)).shape
        (torch.Size([2, 1, 28, 28]), torch.Size([2, 46]))
    """

    stackable = frozenset({"c1", "c2", "latent", "dropout"})

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        c1: int = 16,
        c2: int = 16,
        latent: int = 6,
        kernel: int = 3,
        dropout: float = 0.25,
        decoder: str | None = "own",
    ) -> None:
        super().__init__()
        for key, value in (("c1", c1), ("c2", c2), ("latent", latent), ("kernel", kernel)):
            require_int(key, value, 1)
        require(kernel % 2 == 1, "kernel", "be an odd size", kernel)
        require_number("dropout", dropout, 0, 1, open_ends=">")
        require(decoder in ("own", "shared", None), "decoder", "be own, shared, or null for none", decoder)
        channels, height, width = _check_sides(image_shape)
        # The decoder comes last, so that the initial encoder and linear layer are the same with any decoder.
        self.encoder = Encoder((channels, c1, c2, latent), kernel, dropout)
        self.linear = nn.Linear(latent * (height // 4) * (width // 4), classes)
        self.decoder = None if decoder is None else Decoder(self.encoder, dropout, shared=decoder == "shared")

    def encode(self, images_BCHW: Tensor) -> Encoding:
        """Latent maps (B, latent, H/4, W/4) and the positions of the maxima of the poolings."""
        encoded: Encoding = self.encoder(images_BCHW)
        return encoded

    def decode(self, encoded: Encoding) -> Tensor:
        """The images (B, C, H, W) reconstructed from the output of :meth:`encode`, on the scale of its images.

        Raises:
            ConfigError: there is no decoder.
        """
        require(self.decoder is not None, "decoder", "be own or shared, to draw images", None)
        drawn_BCHW: Tensor = self.decoder(encoded, self.encoder)  # type: ignore[misc]
        return at_least_single(drawn_BCHW)

    def classify(self, encoded: Encoding) -> Tensor:
        """Class scores (B, K) from the latent maps of :meth:`encode`."""
        scores_BK: Tensor = self.linear(encoded.latent_BCHW.flatten(1))
        return scores_BK

    def reconstruct(self, images_BCHW: Tensor) -> Tensor:
        """The images (B, C, H, W) reconstructed from their latent maps.

        Raises:
            ConfigError: there is no decoder.
        """
        return self.decode(self.encode(images_BCHW))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Class scores of shape (B, K), before any softmax."""
        return self.classify(self.encode(images_BCHW))

    def params_paper(self) -> int:
        """2 * (9*c1 + 9*c1*c2 + 9*c2*6) on gray images, and half of it where weights are shared; without biases.

        Like the paper, it leaves the linear layer out; without a decoder it counts encoder and linear layer.
        """
        if self.decoder is None:
            return count_weights(self)
        return count_weights(self.encoder) + count_weights(self.decoder)

    def count_autoencoder(self) -> int:
        """The true number of parameters of encoder and decoder, each tensor once, biases included."""
        return _count(self.encoder) + (0 if self.decoder is None else _count(self.decoder))

    def count_classifier(self) -> int:
        """The true number of parameters of encoder and linear layer."""
        return _count(self.encoder) + _count(self.linear)


class Encoder(nn.Module):
    """Three convolutions with ReLU; max pooling and dropout follow the first two.

    Args:
        widths: channels of the image and of the three convolutions.
        kernel: kernel size of the convolutions.
        dropout: share of activations dropped.
    """

    def __init__(self, widths: tuple[int, int, int, int], kernel: int, dropout: float) -> None:
        super().__init__()
        channels, c1, c2, latent = widths
        self.conv1 = nn.Conv2d(channels, c1, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(c1, c2, kernel, padding=kernel // 2)
        self.conv3 = nn.Conv2d(c2, latent, kernel, padding=kernel // 2)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, images_BCHW: Tensor) -> Encoding:
        """Latent maps, and the positions of the maxima."""
        maps_BCHW, places1_BCHW = max_pool(self.conv1(images_BCHW))
        maps_BCHW, places2_BCHW = max_pool(self.conv2(self.dropout1(F.relu(maps_BCHW))))
        latent_BCHW = F.relu(self.conv3(self.dropout2(F.relu(maps_BCHW))))
        return Encoding(latent_BCHW, places1_BCHW, places2_BCHW)


class Decoder(nn.Module):
    """Three deconvolutions in reverse order of the convolutions; unpooling, ReLU and dropout follow the first two.

    Args:
        encoder: the encoder whose convolutions the decoder mirrors.
        dropout: share of activations dropped.
        shared: True if each deconvolution uses the weights of its convolution.  Biases are never shared.
    """

    def __init__(self, encoder: Encoder, dropout: float, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        mirror = SharedDeconvolution if shared else _own_deconvolution
        self.deconv1 = mirror(encoder.conv3)
        self.deconv2 = mirror(encoder.conv2)
        self.deconv3 = mirror(encoder.conv1)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, encoded: Encoding, encoder: Encoder) -> Tensor:
        """The image (B, C, H, W).

        ReLU and dropout act before the unpooling.  The unpooling adds zeros, which both leave unchanged, so the result
        is the same, and they process a quarter of the values.
        """
        maps_BCHW = self._deconvolve(self.deconv1, encoder.conv3, encoded.latent_BCHW)
        maps_BCHW = max_unpool(self.dropout1(F.relu(maps_BCHW)), encoded.places2_BCHW)
        maps_BCHW = self._deconvolve(self.deconv2, encoder.conv2, maps_BCHW)
        maps_BCHW = max_unpool(self.dropout2(F.relu(maps_BCHW)), encoded.places1_BCHW)
        return self._deconvolve(self.deconv3, encoder.conv1, maps_BCHW)

    def _deconvolve(self, layer: nn.Module, conv: nn.Conv2d, maps_BCHW: Tensor) -> Tensor:
        made_BCHW: Tensor = layer(maps_BCHW, conv.weight) if self.shared else layer(maps_BCHW)
        return made_BCHW


class SharedDeconvolution(nn.Module):
    """The transposed convolution with the weights of another layer, and its own bias.

    Args:
        conv: the layer whose weights are the argument of :meth:`forward`; it is not kept: weights count once.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.padding = conv.kernel_size[0] // 2
        bound = conv.weight[0].numel() ** -0.5  # torch's initial bias of a transposed convolution
        self.bias = nn.Parameter(torch.empty(conv.in_channels).uniform_(-bound, bound))

    def forward(self, maps_BCHW: Tensor, weight: Tensor) -> Tensor:
        """Maps of the same height and width, with the input channels of the convolution."""
        return F.conv_transpose2d(maps_BCHW, weight, self.bias, padding=self.padding)


def _own_deconvolution(conv: nn.Conv2d) -> nn.ConvTranspose2d:
    kernel = conv.kernel_size[0]
    return nn.ConvTranspose2d(conv.out_channels, conv.in_channels, kernel, padding=kernel // 2)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _check_sides(image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    rule = (
        "give images whose sides are multiples of 4, for two poolings, to this model (data and augment choose the size)"
    )
    require(all(side >= 4 and side % 4 == 0 for side in image_shape[1:]), "image_shape", rule, tuple(image_shape))
    return image_shape
