"""The first image of every class, chosen on the device, so that no batch waits for it."""

from typing import NamedTuple

import torch
from torch import Tensor

ABSENT, THERE, PREFERRED = range(3)
"""Ranks of a class's present example: none, an ordinary image, a preferred image."""


class ClassExample(NamedTuple):
    """The example of a class.

    Attributes:
        values: the values of its image.
        preferred: whether it is a preferred image.
    """

    values: tuple[Tensor, ...]
    preferred: bool


class FirstOfClass:
    """Keeps values of the first preferred image of every class, or of its first image if none is preferred.

    Only :meth:`found` reads from the device.

    Args:
        classes: number of classes K.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._standing_K: Tensor | None = None
        self._kept: tuple[Tensor, ...] = ()

    def add(self, labels_B: Tensor, *values: Tensor, preferred_B: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            labels_B: in 0..K-1.
            *values: (B, ...) each.
            preferred_B: bool, the preferred images; None for all.
        """
        images = len(labels_B)
        ranks_B = torch.arange(images, device=labels_B.device)
        if preferred_B is not None:
            ranks_B = ranks_B + images * preferred_B.logical_not()
        last_K = ranks_B.new_full((self._classes,), 2 * images)
        first_K = last_K.scatter_reduce(0, labels_B, ranks_B, "amin")
        standing_K = torch.where(first_K < images, PREFERRED, torch.where(first_K < 2 * images, THERE, ABSENT))
        chosen = [each[first_K % images] for each in values]
        if self._standing_K is None:
            self._standing_K, self._kept = standing_K, tuple(chosen)
            return
        better_K = standing_K > self._standing_K
        pairs = zip(chosen, self._kept, strict=True)
        self._kept = tuple(torch.where(better_K.view(-1, *[1] * (new.dim() - 1)), new, old) for new, old in pairs)
        self._standing_K = torch.maximum(standing_K, self._standing_K)

    def found(self) -> dict[int, ClassExample]:
        """The example of every class that had an image, in the order of the classes."""
        standing: list[int] = [] if self._standing_K is None else self._standing_K.tolist()
        return {
            label: ClassExample(tuple(each[label] for each in self._kept), how == PREFERRED)
            for label, how in enumerate(standing)
            if how != ABSENT
        }
