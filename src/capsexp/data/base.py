"""The data module: a source of images, its split into parts, and their loaders."""

from collections.abc import Hashable
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor

from capsexp.data.arrays import Arrays, Source, load_cached
from capsexp.data.augment import SCHEMES, Augment
from capsexp.data.loaders import EvalLoader, Part, TrainLoader
from capsexp.data.npz import Npz
from capsexp.data.splits import TEST_SHARE, stratified
from capsexp.errors import ConfigError, require, require_choice, require_int, require_number

LabelledImages = tuple[NDArray[np.uint8], NDArray[np.int64]]


class Parts(dict[str, Part]):
    """The parts of a data set by name, on one device."""


_in_use: WeakValueDictionary[Hashable, Parts] = WeakValueDictionary()
"""Whole parts that data modules of this process hold: cells that train together share one copy of the images."""


class ImageDataModule(LightningDataModule):
    """Labelled images, held as uint8 on the training device.

    Its construction is cheap.  The images are loaded at their first use, and ``setup`` moves them to the device.

    Args:
        source: the source of the images.
        augment: crops and shifts; see :mod:`capsexp.data.augment`.
        batch_size: images in a training batch; the last batch of an epoch may be smaller.
        eval_batch_size: images in a batch for validation and test.
        split_seed: seed of the choice of images for validation (and for the test part, where none was published).
        val_share: share of the training images that goes to validation, class by class.
        select_on: "val": the validation loader serves images taken from the training part.  "test": the training
            part stays whole and the validation loader serves the test part, which is the protocol of the papers.
        normalise: "symmetric" for values in [-1, 1], "unit" for values in [0, 1].
        seed: seed of the order and of the random crops in training; the split does not depend on it.
        path: a ``.npz`` file that replaces ``source``.

    Raises:
        ConfigError: if an argument breaks its rule; while loading, with the whole key, if the images break theirs.
    """

    def __init__(
        self,
        *,
        source: Source | None = None,
        augment: Augment,
        batch_size: int,
        eval_batch_size: int = 512,
        split_seed: int = 0,
        val_share: float = 0.1,
        select_on: str = "val",
        normalise: str = "symmetric",
        seed: int = 0,
        path: str | None = None,
    ) -> None:
        super().__init__()
        if path is not None:
            require(isinstance(path, str) and path != "", "path", "name a .npz file or be null", path)
            source = Npz(path)
        if not isinstance(source, Source):
            raise ConfigError("source", "be a source of images where no path is given", source)
        require(isinstance(augment, Augment), "augment", "be an augmentation", augment)
        self._source, self._augment = source, augment
        self.batch_size = require_int("batch_size", batch_size, 1)
        self.eval_batch_size = require_int("eval_batch_size", eval_batch_size, 1)
        self.split_seed = require_int("split_seed", split_seed, 0, 2**32 - 1)
        self.val_share = require_number("val_share", val_share, 0, 1, open_ends="<>")
        self.select_on = require_choice("select_on", select_on, ("val", "test"))
        self.normalise = require_choice("normalise", normalise, SCHEMES)
        self._generator = torch.Generator().manual_seed(require_int("seed", seed, 0, 2**63 - 1))
        self._parts = Parts()
        self._thinned = False

    # -- loading ------------------------------------------------------------------------------------------------------

    @property
    def _arrays(self) -> Arrays:
        return load_cached(self._source)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images in a batch."""
        channels, height, width = self._arrays.x_train.shape[1:]
        return (channels, *self._augment.output_size(height, width))

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return self._arrays.classes

    def setup(self, stage: str | None = None) -> None:
        """Load the images, split them, and move the parts to the trainer's device, or to the CPU without a trainer.

        Args:
            stage: not used: all parts are ready for every stage.  A second call changes nothing.
        """
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        if self._thinned:
            self._parts = _on(device, self._parts)
            return
        _ = self.image_shape  # Raises an error for images that are too small, before any are copied.
        key = (self._source.key(), self.split_seed, self.val_share, self.select_on, str(device))
        shared = _in_use.get(key)
        if shared is None:
            made = self._parts or Parts({name: _part(*labelled) for name, labelled in self._divide().items()})
            shared = _in_use[key] = _on(device, made)
        self._parts = shared

    def _divide(self) -> dict[str, LabelledImages]:
        arrays = self._arrays
        train: LabelledImages = arrays.x_train, arrays.y_train
        if arrays.x_test is not None and arrays.y_test is not None:
            test: LabelledImages = arrays.x_test, arrays.y_test
        else:
            train, test = self._cut(train, TEST_SHARE)
        if self.select_on == "test":
            return {"train": train, "test": test}
        train, val = self._cut(train, self.val_share)
        return {"train": train, "val": val, "test": test}

    def thin(self, share: float) -> None:
        """Keep only this share of the training images, class by class, chosen by ``split_seed``."""
        if share < 1:
            train = self._ready("train")
            labels = train.labels.cpu().numpy()
            kept = torch.from_numpy(stratified(labels, 1 - share, self.split_seed)[0]).to(train.labels.device)
            self._parts = Parts(self._parts, train=Part(*(tensor[kept] for tensor in train)))
            self._thinned = True

    def _cut(self, labelled: LabelledImages, share: float) -> tuple[LabelledImages, LabelledImages]:
        images, labels = labelled
        kept, cut = stratified(labels, share, self.split_seed)
        if len(cut) == 0:
            raise ConfigError("data.path", "hold at least two images of a class to divide", len(labels))
        return (images[kept], labels[kept]), (images[cut], labels[cut])

    def _ready(self, name: str) -> Part:
        if not self._parts:
            self.setup()
        return self._parts["test" if name == "val" and self.select_on == "test" else name]

    # -- loaders ------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> TrainLoader:
        """Training batches; each pass over them is the next epoch of the random stream of this module."""
        return TrainLoader(self._ready("train"), self._augment, self.normalise, self.batch_size, self._generator)

    def ordered_train_dataloader(self) -> EvalLoader:
        """The training images as in evaluation: in their order, without randomness or use of the random stream."""
        return self._eval_loader("train")

    def predict_dataloader(self) -> EvalLoader:
        """The ordered training images, for passes over a trained network."""
        return self.ordered_train_dataloader()

    def val_dataloader(self) -> EvalLoader:
        """The batches by which the best model is selected."""
        return self._eval_loader("val")

    def test_dataloader(self) -> EvalLoader:
        """The test batches."""
        return self._eval_loader("test")

    def _eval_loader(self, name: str) -> EvalLoader:
        return EvalLoader(self._ready(name), self._augment, self.normalise, self.eval_batch_size)

    # -- records ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the random stream: stored after epoch n, it continues with epoch n + 1."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Restore the random stream from ``state_dict``."""
        self._generator.set_state(state_dict["generator"].cpu())

    def summary(self) -> dict[str, Any]:
        """The description of the data in a result, in plain types."""
        arrays = self._arrays
        return {
            "name": arrays.name,
            "source": arrays.kind,
            "sha256": arrays.sha256,
            "generated": arrays.generated,
            "test_split": _test_split(arrays),
            **{f"n_{name}": len(self._ready(name).labels) for name in ("train", "val", "test")},
            "classes": arrays.classes,
            "image_shape": list(self.image_shape),
            "select_on": self.select_on,
            "split_seed": self.split_seed,
        }


def _test_split(arrays: Arrays) -> str:
    """Origin of the split into training and test part."""
    if arrays.x_test is None:
        return "seeded stratified 85/15"
    return "seeded" if arrays.generated else "published"


def _on(device: torch.device, parts: Parts) -> Parts:
    return Parts({name: Part(*(tensor.to(device) for tensor in part)) for name, part in parts.items()})


def _part(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Part:
    """A part with copies of the arrays, which cells share and which must not change."""
    return Part(torch.from_numpy(np.array(images, order="C")), torch.from_numpy(np.array(labels)))
