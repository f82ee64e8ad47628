"""Reconstructions that show the components of a class capsule's pose, each perturbed on its own."""

from typing import Any, cast

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from capsexp.callbacks.base import ResultCallback
from capsexp.callbacks.first_of_class import FirstOfClass
from capsexp.errors import require, require_int, require_number
from capsexp.nn.decoder import Decoder
from capsexp.nn.routing_hooks import ClassReader
from capsexp.types import Batch


class ActivityVectors(ResultCallback):
    """Reconstructions of one test image per class, with one component of its pose changed at a time.

    Sabour et al. (2017), figure 4, and Ou's slides.  The image is the first of its class that is recognised, or else
    the first of its class (see ``decoded/class<k>/recognised``).  The result has ``decoded/class<k>`` (E, S, C, H, W)
    and the image ``decoded/class<k>/original`` (C, H, W), both in 0..255, and the offsets ``decoded/steps`` (S,).

    Args:
        reach: the largest change of a component.
        steps: number of offsets from -reach to +reach; an odd number, so that one of them is zero.
    """

    def __init__(self, reach: float = 0.25, steps: int = 11) -> None:
        self.reach = require_number("reach", reach, 0, open_ends="<")
        self.steps = require_int("steps", steps, 3)
        require(steps % 2 == 1, "steps", "be odd, so that one of them changes nothing", steps)
        self._examples: FirstOfClass | None = None
        self._reader = ClassReader()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a network without a decoder before it is trained.

        Raises:
            ConfigError: the network has no decoder.
        """
        decoder = getattr(pl_module.model, "decoder", None)
        rule = "be null where the model has no decoder"
        require(isinstance(decoder, Decoder), "callbacks.activity_vectors", rule, type(self).__name__)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Register the hooks; only the first test counts, since a recipe may test the same network in other ways."""
        self._wanted = self._examples is None
        self._reader.listen(cast("nn.Module", pl_module.model))

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Collect images of classes that have no recognised image yet."""
        poses_BKE, lengths_BK = self._reader.last.poses_BJE, self._reader.last.activations_BJ
        if not self._wanted:
            return
        if self._examples is None:
            self._examples = FirstOfClass(lengths_BK.shape[1])
        images = torch.arange(len(poses_BKE), device=poses_BKE.device)
        own_BE, right_B = poses_BKE[images, batch.labels_B], lengths_BK.argmax(1) == batch.labels_B
        self._examples.add(batch.labels_B, own_BE, batch.pixels_BCHW, preferred_B=right_B)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the hooks."""
        self._reader.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the hooks."""
        self._reader.stop()

    @torch.no_grad()
    def result_arrays(self, module: L.LightningModule) -> dict[str, NDArray[np.generic]]:
        """The grids of all classes that have a test image."""
        if self._examples is None:
            return {}
        decoder = cast("Decoder", cast("nn.Module", module.model).decoder)
        half = self.steps // 2
        offsets_S = torch.arange(-half, half + 1) * (self.reach / half)  # the middle offset is exactly zero
        arrays: dict[str, NDArray[np.generic]] = {"decoded/steps": offsets_S.numpy()}
        for label, ((pose_E, image_CHW), recognised) in self._examples.found().items():
            grid = perturbed(decoder, pose_E.to(module.device), label, offsets_S.to(module.device))
            arrays[f"decoded/class{label}"] = _bytes(grid * 255)
            arrays[f"decoded/class{label}/original"] = _bytes(image_CHW)
            arrays[f"decoded/class{label}/recognised"] = np.array(recognised)
        return arrays


def perturbed(decoder: Decoder, pose_E: Tensor, label: int, offsets_S: Tensor) -> Tensor:
    """Reconstructions (E, S, C, H, W) in 0..1 of a class' pose, with each component changed by each offset."""
    dim, steps = len(pose_E), len(offsets_S)
    changes_ESE = torch.eye(dim, device=pose_E.device)[:, None] * offsets_S[:, None]
    poses_BKE = pose_E.new_zeros(dim * steps, decoder.classes, dim)
    poses_BKE[:, label] = (pose_E + changes_ESE).flatten(0, 1)
    shown_B = torch.full((dim * steps,), label, device=pose_E.device)
    drawn: Tensor = decoder(poses_BKE, shown_B)
    return drawn.view(dim, steps, *drawn.shape[1:])


def _bytes(pixels: Tensor) -> NDArray[np.generic]:
    return pixels.detach().float().round().clamp(0, 255).to(torch.uint8).cpu().numpy()
