"""Reconstructions of test images by an autoencoder."""

from collections.abc import Mapping
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from capsexp.callbacks.base import ResultCallback
from capsexp.callbacks.first_of_class import FirstOfClass
from capsexp.errors import require, require_int
from capsexp.types import Batch


class Reconstructions(ResultCallback):
    """Keeps test images and their reconstructions by the best weights.

    The result has ``reconstructions/images`` (2, N, C, H, W), the images and their reconstructions in 0..255, and
    ``reconstructions/labels`` (N,).  The images are the first test images of N classes, evenly spread over all classes.

    Args:
        images: the largest N.
    """

    def __init__(self, images: int = 10) -> None:
        self.images = require_int("images", images, 1)
        self._first: FirstOfClass | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a network without a decoder before it is trained.

        Raises:
            ConfigError: the network has no decoder.
        """
        model = cast("nn.Module", pl_module.model)
        draws = hasattr(model, "reconstruct") and model.decoder is not None
        rule = "be null where the model draws no images (model=autoencoder does, with a decoder)"
        require(draws, "callbacks.reconstructions", rule, type(self).__name__)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Collect images of classes that have no image yet."""
        if self._first is None:
            self._first = FirstOfClass(cast("Mapping[str, Any]", pl_module.hparams)["sizes"]["classes"])
        self._first.add(batch.labels_B, batch.images_BCHW, batch.pixels_BCHW)

    @torch.no_grad()
    def result_arrays(self, module: L.LightningModule) -> dict[str, NDArray[np.generic]]:
        """The images and their reconstructions by the present weights."""
        first = {} if self._first is None else self._first.found()
        if not first:
            return {}
        found = list(first)
        spread = np.linspace(0, len(found) - 1, min(self.images, len(found))).round().astype(int)
        labels = [found[place] for place in spread]
        images_NCHW, pixels_NCHW = (torch.stack(each) for each in zip(*(first[k].values for k in labels), strict=True))
        module.eval()
        drawn_NCHW = module.model.reconstruct(images_NCHW.to(module.device)).to(images_NCHW.device)  # type: ignore[operator, union-attr]
        shown = [pixels_NCHW, as_pixels(drawn_NCHW, images_NCHW, pixels_NCHW)]
        return {
            "reconstructions/images": np.stack([_bytes(each) for each in shown]),
            "reconstructions/labels": np.array(labels),
        }


def as_pixels(drawn_NCHW: Tensor, images_NCHW: Tensor, pixels_NCHW: Tensor) -> Tensor:
    """Convert reconstructions from the scale of the normalised images to the scale 0..255.

    Each image was normalised by an increasing linear function, which its smallest and largest pixel determine.  A
    constant image is returned as its own value.
    """
    low, high = (each.flatten(1) for each in (images_NCHW, pixels_NCHW.float()))
    spread = low.amax(1) - low.amin(1)
    slope = torch.where(spread > 0, (high.amax(1) - high.amin(1)) / spread.where(spread > 0, 1), 0)[:, None, None, None]
    return (drawn_NCHW - low.amin(1)[:, None, None, None]) * slope + high.amin(1)[:, None, None, None]


def _bytes(pixels: Tensor) -> NDArray[np.generic]:
    return pixels.float().round().clamp(0, 255).to(torch.uint8).cpu().numpy()
