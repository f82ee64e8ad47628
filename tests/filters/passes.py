"""Columns to choose from, and the passes over them as a Trainer makes them."""

import torch
from torch import Tensor

from capsexp.filters.base import Filter

CLASSES, CHILDREN = 3, 12


def draw(
    images: int = 60, classes: int = CLASSES, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Columns in [0, 1] about a class' own mean, some of them far off, and labels in any order."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.arange(images)[torch.randperm(images, generator=generator)] % classes
    means_KI = torch.rand(classes, CHILDREN, generator=generator)
    noise_N1 = torch.where(torch.rand(images, 1, generator=generator) < 0.1, 0.5, 0.05)
    columns_NI = means_KI[labels_N] + noise_N1 * torch.randn(images, CHILDREN, generator=generator)
    return columns_NI.clamp(0, 1).to(dtype), labels_N


def look(filter: Filter, columns_NI: Tensor, labels_N: Tensor, batch: int = 16) -> None:
    """All passes but the last, as a Trainer makes them: batches where no gradient can run, the rest outside."""
    for _ in range(filter.looks):
        with torch.inference_mode():
            for pair in zip(columns_NI.split(batch), labels_N.split(batch), strict=True):
                filter.observe(*pair)
        filter.end_look()


def chosen(filter: Filter, columns_NI: Tensor, labels_N: Tensor, batch: int = 16, classes: int = CLASSES) -> Tensor:
    """Which images are kept, bool (N,)."""
    with torch.inference_mode():
        filter.reset(classes, columns_NI.shape[1])
    look(filter, columns_NI, labels_N, batch)
    with torch.inference_mode():
        pairs = zip(columns_NI.split(batch), labels_N.split(batch), strict=True)
        return torch.cat([filter.keep(*pair) for pair in pairs])
