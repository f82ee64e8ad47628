"""Batches of images that are already on the device: no worker processes, no copy from host to device in a step."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from capsexp.data.augment import Augment
from capsexp.types import Batch


class Part(NamedTuple):
    """The training, validation or test part, on the device.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
    """

    images: Tensor
    labels: Tensor


class TrainLoader:
    """Batches of an epoch in random order, every image augmented separately; the last batch may be smaller.

    The first batch of an epoch draws all its random numbers: one permutation, then the numbers of the augmentation.
    The creation of an iterator draws nothing.

    Args:
        part: the training part.
        augment: the augmentation of each image.
        scheme: scaling of the values, one of :data:`~capsexp.data.augment.SCHEMES`.
        batch_size: images in a batch.
        generator: on the CPU; its state between epochs determines all later epochs.
    """

    def __init__(self, part: Part, augment: Augment, scheme: str, batch_size: int, generator: Generator) -> None:
        self._part, self._augment, self._scheme = part, augment, scheme
        self._batch_size, self._generator = batch_size, generator

    @functools.cached_property
    def _prepared(self) -> Tensor:
        return self._augment.prepare(self._part.images)

    def __len__(self) -> int:
        return -(-len(self._part.labels) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order, *draws = (torch.split(numbers, self._batch_size) for numbers in self._draw())
        for index_B, *drawn in zip(order, *draws, strict=True):
            images = self._augment.sample(self._prepared, index_B, tuple(drawn))
            yield Batch(self._augment.normalise(images, self._scheme), self._part.labels[index_B], images)

    def _draw(self) -> list[Tensor]:
        """The order of the epoch and the random numbers of each image, moved to the device once."""
        count, (height, width) = len(self._part.labels), self._part.images.shape[-2:]
        order_N = torch.randperm(count, generator=self._generator)
        draws = self._augment.draw(count, height, width, self._generator)
        return [numbers.to(self._part.labels.device) for numbers in (order_N, *draws)]


class EvalLoader:
    """Batches of all images of a part, in their order, without randomness.

    Args:
        part: any part.
        augment: the augmentation of each image.
        scheme: scaling of the values, one of :data:`~capsexp.data.augment.SCHEMES`.
        batch_size: images in a batch.
    """

    def __init__(self, part: Part, augment: Augment, scheme: str, batch_size: int) -> None:
        self._part, self._augment, self._scheme, self._batch_size = part, augment, scheme, batch_size

    def __len__(self) -> int:
        return -(-len(self._part.labels) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        images, labels = (torch.split(whole, self._batch_size) for whole in self._part)
        for images_BCHW, labels_B in zip(images, labels, strict=True):
            view = self._augment.evaluate(images_BCHW)
            yield Batch(self._augment.normalise(view, self._scheme), labels_B, view)
