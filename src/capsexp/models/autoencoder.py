"""The autoencoders of Wang (2019), section 3.2: the normal one and the one with shared weights."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.errors import require, require_int, require_number
from capsexp.models.base import Classifier, count_weights
from capsexp.nn.functional import at_least_single
from capsexp.nn.unpooling import max_pool, max_unpool


class Encoded(NamedTuple):
    """What the decoder needs of an image.

    Attributes:
        latent_BCHW: the latent maps, of a quarter of the image's height and width.
        places1_BCHW: where the first pooling found its maxima.
        places2_BCHW: where the second one did.
    """

    latent_BCHW: Tensor
    places1_BCHW: Tensor
    places2_BCHW: Tensor


class Autoencoder(Classifier):
    """An encoder, a decoder that draws the image from the latent maps, and a linear layer that classifies by them.

    Source: Wang (2019), section 3.2.  Paddings keep the size, each of two poolings halves it: 28 -> 14 -> 7.

    Args:
        image_shape: (C, H, W) of the images; both sides are multiples of 4.
        classes: number of classes K.
        c1: output channels of the first convolution, input channels of the last deconvolution.
        c2: output channels of the second convolution, input channels of the second deconvolution.
        latent: channels of the latent maps.
        kernel: kernel size of all layers, odd, so that a padding keeps the size.
        dropout: share of activations dropped behind each pooling and unpooling, in [0, 1).
        decoder: "own" weights, the encoder's weights "shared", or None for no decoder.
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
        # The decoder comes last, so that encoder and linear layer start alike whatever it is.
        self.encoder = Encoder((channels, c1, c2, latent), kernel, dropout)
        self.linear = nn.Linear(latent * (height // 4) * (width // 4), classes)
        self.decoder = None if decoder is None else Decoder(self.encoder, dropout, shared=decoder == "shared")

    def encode(self, images_BCHW: Tensor) -> Encoded:
        """Latent maps (B, latent, H/4, W/4) and the places of the poolings' maxima."""
        encoded: Encoded = self.encoder(images_BCHW)
        return encoded

    def decode(self, encoded: Encoded) -> Tensor:
        """The images (B, C, H, W) drawn from what :meth:`encode` gave, in the scale of its images.

        Raises:
            ConfigError: there is no decoder.
        """
        require(self.decoder is not None, "decoder", "be own or shared, to draw images", None)
        drawn_BCHW: Tensor = self.decoder(encoded, self.encoder)  # type: ignore[misc]
        return at_least_single(drawn_BCHW)

    def classify(self, encoded: Encoded) -> Tensor:
        """Class scores (B, K) from the latent maps that :meth:`encode` gave."""
        scores_BK: Tensor = self.linear(encoded.latent_BCHW.flatten(1))
        return scores_BK

    def reconstruct(self, images_BCHW: Tensor) -> Tensor:
        """The images drawn from their latent maps.

        Raises:
            ConfigError: there is no decoder.
        """
        return self.decode(self.encode(images_BCHW))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Class scores of shape (B, K), before any softmax."""
        return self.classify(self.encode(images_BCHW))

    def params_paper(self) -> int:
        """2 * (9*c1 + 9*c1*c2 + 9*c2*6) on gray images, and half of it where weights are shared; without biases.

        Like the paper it leaves the linear layer out; where there is no decoder, that is counted instead.
        """
        if self.decoder is None:
            return count_weights(self)
        return count_weights(self.encoder) + count_weights(self.decoder)

    def count_autoencoder(self) -> int:
        """The true number of parameters of encoder and decoder, each tensor once, biases and all."""
        return _count(self.encoder) + (0 if self.decoder is None else _count(self.decoder))

    def count_classifier(self) -> int:
        """The true number of parameters of encoder and linear layer."""
        return _count(self.encoder) + _count(self.linear)


class Encoder(nn.Module):
    """Three convolutions with ReLU; behind the first two also max pooling and dropout.

    Args:
        widths: channels of the image and of the three convolutions.
        kernel: their size.
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

    def forward(self, images_BCHW: Tensor) -> Encoded:
        """Latent maps, and the places of the maxima."""
        maps_BCHW, places1_BCHW = max_pool(self.conv1(images_BCHW))
        maps_BCHW, places2_BCHW = max_pool(self.conv2(self.dropout1(F.relu(maps_BCHW))))
        latent_BCHW = F.relu(self.conv3(self.dropout2(F.relu(maps_BCHW))))
        return Encoded(latent_BCHW, places1_BCHW, places2_BCHW)


class Decoder(nn.Module):
    """Three deconvolutions, the encoder's convolutions in mirror order; behind the first two unpooling, ReLU, dropout.

    Args:
        encoder: what is mirrored.
        dropout: share of activations dropped.
        shared: whether each deconvolution uses its convolution's own weights.  The biases are always its own.
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

    def forward(self, encoded: Encoded, encoder: Encoder) -> Tensor:
        """The image (B, C, H, W).

        ReLU and dropout act before the unpooling: what that adds is zero, and both leave zeros alone, so the outcome is
        the same, and they have a quarter of the values to go through.
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
    """The transposed convolution with another layer's weights, and a bias of its own.

    Args:
        conv: the layer whose weights :meth:`forward` is handed; it is not kept, so its weights are counted once.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.padding = conv.kernel_size[0] // 2
        bound = conv.weight[0].numel() ** -0.5  # as torch starts the bias of a transposed convolution
        self.bias = nn.Parameter(torch.empty(conv.in_channels).uniform_(-bound, bound))

    def forward(self, maps_BCHW: Tensor, weight: Tensor) -> Tensor:
        """Maps of the same height and width, with the channels that the convolution takes."""
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
