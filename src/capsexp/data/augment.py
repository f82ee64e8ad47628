"""Augmentation: crops and shifts of the images of a batch, and the scaling of their values.

Several papers use the same data set with different crops, so augmentation is a config group of its own.  Everything
runs batched on the device that holds the images.  The random numbers of an epoch are drawn at once, on the CPU, and
every image has its own.

To add an augmentation, subclass :class:`Augment` or :class:`Crop`, draw further numbers in ``draw`` and use them in
``sample``.  Override ``normalise`` where every image is scaled by its own statistics, as :class:`ColourCrop` does.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from capsexp.errors import ConfigError, require, require_int, require_number

Draws = tuple[Tensor, ...]
"""Random numbers: tensors whose first dimension counts the images."""

SCHEMES = ("symmetric", "unit")
"""Scalings of values v in 0..255: (v/255 - 0.5)/0.5, in [-1, 1], and v/255, in [0, 1]."""


class Augment:
    """No augmentation, in training and in evaluation; the base class of all others."""

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, in pixels, of an augmented image whose original has ``height`` x ``width`` pixels.

        Raises:
            ConfigError: if an image of that size cannot be augmented.
        """
        return height, width

    def prepare(self, images_NCHW: Tensor) -> Tensor:
        """The form of all images that :meth:`sample` indexes; called once, not once per epoch.

        Args:
            images_NCHW: uint8, the whole training part.
        """
        return images_NCHW

    def draw(self, count: int, height: int, width: int, generator: Generator) -> Draws:
        """The random numbers of one epoch, on the CPU.

        Args:
            count: number of images N; every tensor returned is (N, ...).
            height: height of the stored images, in pixels.
            width: width of the stored images, in pixels.
            generator: the only source of randomness.
        """
        return ()

    def sample(self, prepared: Tensor, index_B: Tensor, draws: Draws) -> Tensor:
        """A training batch before normalisation.

        Args:
            prepared: the return value of :meth:`prepare`.
            index_B: int64, the indices of the images.
            draws: the random numbers of these images, each of shape (B, ...).

        Returns:
            (B, C, height, width) on the scale 0..255; uint8, or float32 where pixels are computed.
        """
        return prepared[index_B]

    def evaluate(self, images_BCHW: Tensor) -> Tensor:
        """A batch for validation and test before normalisation, of the same size as in training; nothing is random."""
        return images_BCHW

    def normalise(self, images_BCHW: Tensor, scheme: str) -> Tensor:
        """Pixels on the scale 0..255 as float32 on the scale of ``scheme``, one of :data:`SCHEMES`."""
        if scheme == "symmetric":
            return torch.div(images_BCHW, 127.5).sub_(1)
        return torch.div(images_BCHW, 255)


class Crop(Augment):
    """Cut a square out of each image: at a random position in training, in the middle in evaluation.

    All positions at which the square fits are equally likely: offsets 0..H-size and 0..W-size, both inclusive.  These
    are 25 positions for 28 x 28 in 32 x 32 (Wang 2019).

    Attributes:
        size: the square's side in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = require_int("size", size, 1)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """The sides of the square; a smaller image raises an error."""
        if min(height, width) < self.size:
            # Raised outside the constructors of data and crop, where nothing adds the group: hence the whole key.
            rule = f"be at most the images' {height} x {width} pixels (augment=none leaves them whole)"
            raise ConfigError("augment.size", rule, self.size)
        return self.size, self.size

    def prepare(self, images_NCHW: Tensor) -> Tensor:
        """All crops of all images, as a view that takes no memory."""
        return _windows(images_NCHW, self.size, self.size)

    def draw(self, count: int, height: int, width: int, generator: Generator) -> Draws:
        """The top and left offset of each image."""
        rows, columns = height - self.size + 1, width - self.size + 1
        return _offsets(count, rows, generator), _offsets(count, columns, generator)

    def sample(self, prepared: Tensor, index_B: Tensor, draws: Draws) -> Tensor:
        """The crops at the drawn positions, gathered by one indexing operation."""
        rows_B, columns_B = draws[:2]
        return prepared[index_B, :, rows_B, columns_B]

    def evaluate(self, images_BCHW: Tensor) -> Tensor:
        """The crop in the middle."""
        height, width = images_BCHW.shape[-2:]
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return images_BCHW[..., top : top + self.size, left : left + self.size]


class Shift(Augment):
    """Move each training image by a few pixels along both axes; pixels from outside the image are black (0).

    Attributes:
        pixels: the largest shift; the shift along each axis is one of -pixels..pixels, all equally likely.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels = require_int("pixels", pixels, 1)

    def prepare(self, images_NCHW: Tensor) -> Tensor:
        """All shifts of all images: windows on a copy with a black frame."""
        height, width = images_NCHW.shape[-2:]
        return _windows(pad(images_NCHW, [self.pixels] * 4), height, width)

    def draw(self, count: int, height: int, width: int, generator: Generator) -> Draws:
        """The position of each image in its frame; position p is a shift by ``pixels - p`` down or right."""
        places = 2 * self.pixels + 1
        return _offsets(count, places, generator), _offsets(count, places, generator)

    def sample(self, prepared: Tensor, index_B: Tensor, draws: Draws) -> Tensor:
        """The windows at the drawn positions, gathered by one indexing operation."""
        rows_B, columns_B = draws
        return prepared[index_B, :, rows_B, columns_B]


class ColourCrop(Crop):
    """A crop with random mirroring, brightness and contrast; every image is standardised by its own statistics.

    In training, four operations follow the crop.  The image is mirrored left to right or not; a number is added to all
    values; in each channel, the differences from the mean are multiplied by a factor; values are clamped to 0..255.
    Evaluation takes the crop in the middle and does none of this.  Source: TensorFlow's CIFAR-10 tutorial, which does
    not clamp.

    Attributes:
        size: the square's side in pixels.
        flip: probability that an image is mirrored.
        brightness: the number added is uniform in [-brightness, brightness), on the scale 0..255.
        contrast: lowest and highest factor; uniform between them.
    """

    def __init__(self, size: int, flip: float, brightness: float, contrast: Sequence[float]) -> None:
        super().__init__(size)
        self.flip = require_number("flip", flip, 0, 1)
        self.brightness = require_number("brightness", brightness, 0, 255)
        rule = "be two numbers >= 0, [lowest, highest]"
        require(isinstance(contrast, Sequence) and len(contrast) == 2, "contrast", rule, contrast)
        lowest, highest = (require_number("contrast", factor, 0) for factor in contrast)
        require(lowest <= highest, "contrast", rule, contrast)
        self.contrast = lowest, highest

    def draw(self, count: int, height: int, width: int, generator: Generator) -> Draws:
        """Per image: top and left offset, True if it is mirrored, the number to add, and the contrast factor."""
        mirrored, added, factor = torch.rand(3, count, generator=generator)
        lowest, highest = self.contrast
        return (
            *super().draw(count, height, width, generator),
            mirrored < self.flip,
            (2 * added - 1) * self.brightness,
            lowest + (highest - lowest) * factor,
        )

    def sample(self, prepared: Tensor, index_B: Tensor, draws: Draws) -> Tensor:
        """The augmented crops, float32 in 0..255."""
        mirrored_B, added_B, factor_B = (numbers.view(-1, 1, 1, 1) for numbers in draws[2:])
        crops = super().sample(prepared, index_B, draws).float()
        images = torch.where(mirrored_B, crops.flip(-1), crops) + added_B
        mean = images.mean((-2, -1), keepdim=True)
        return torch.lerp(mean, images, factor_B).clamp_(0, 255)

    def normalise(self, images_BCHW: Tensor, scheme: str) -> Tensor:
        """(x - mean) / max(standard deviation, 1 / sqrt(n)) over all n values of an image, whatever the scheme.

        The bound is that of TensorFlow's ``per_image_standardization``: an image of one colour becomes 0.
        """
        images = images_BCHW.float()
        centred = images - images.mean((1, 2, 3), keepdim=True)
        deviation = centred.square().mean((1, 2, 3), keepdim=True).sqrt_()
        return centred.div_(deviation.clamp_(min=centred[0].numel() ** -0.5))


def _windows(images_NCHW: Tensor, height: int, width: int) -> Tensor:
    """Every window as a view (N, C, rows, columns, height, width)."""
    return images_NCHW.unfold(2, height, 1).unfold(3, width, 1)


def _offsets(count: int, places: int, generator: Generator) -> Tensor:
    return torch.randint(places, (count,), generator=generator)
