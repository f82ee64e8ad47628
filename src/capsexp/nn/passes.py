"""Passes over images in plain loops: evaluation mode without gradients, and batches on the model's device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from capsexp.errors import require


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """A context in which a model is in evaluation mode and has no gradients; afterwards its modes are as before."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter; the CPU for a model without parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def images_of(batch: Any, device: torch.device) -> Tensor:
    """The images (B, C, H, W) of a batch, which is the images alone or a sequence that begins with them.

    Raises:
        ConfigError: the batch is neither.
    """
    images = batch[0] if isinstance(batch, tuple | list) and batch else batch
    rule = "hold tensors of images (B, C, H, W), or sequences that begin with one"
    require(isinstance(images, Tensor) and images.dim() == 4, "batches", rule, _seen(images))
    return images.to(device)  # type: ignore[no-any-return]


def labels_of(batch: Any, device: torch.device, classes: int) -> Tensor:
    """The labels (B,) of a batch, which is a sequence that begins with images and labels.

    Raises:
        ConfigError: there are none, not one whole number per image, or some are no class.
    """
    rule = "hold sequences that begin with images and labels, one whole number per image"
    pair = isinstance(batch, tuple | list) and len(batch) > 1
    require(pair, "batches", rule, _seen(batch))
    labels = batch[1]
    whole = isinstance(labels, Tensor) and labels.dim() == 1 and not (labels.is_floating_point() or labels.is_complex())
    require(whole and len(labels) == len(batch[0]), "batches", rule, _seen(labels))
    ends = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    require(0 <= ends[0] <= ends[1] < classes, "batches", f"hold labels from 0 to {classes - 1}", list(ends))
    return labels.to(device, torch.int64)  # type: ignore[no-any-return]


def _seen(value: Any) -> Any:
    """What an error shows of a value: the shape of a tensor, else the type."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
