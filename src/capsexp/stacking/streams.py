"""Batch streams: members whose data generators have the same state share their batches."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from capsexp.data.base import ImageDataModule
from capsexp.data.loaders import TrainLoader


class StackBatch(NamedTuple):
    """One batch per stream; in evaluation there is one stream, since all members see the same images.

    Attributes:
        images_SBCHW: as ``Batch.images_BCHW``.
        labels_SB: as ``Batch.labels_B``.
        pixels_SBCHW: as ``Batch.pixels_BCHW``.
    """

    images_SBCHW: Tensor
    labels_SB: Tensor
    pixels_SBCHW: Tensor


def in_streams(datas: Sequence[ImageDataModule]) -> list[list[int]]:
    """Places of the members of each stream."""
    streams: dict[bytes, list[int]] = {}
    for place, data in enumerate(datas):
        streams.setdefault(data.state_dict()["generator"].numpy().tobytes(), []).append(place)
    return list(streams.values())


class StreamLoader:
    """Training batches of several streams, stacked; each pass is the next epoch of all streams.

    Args:
        leaders: one data module per stream.
    """

    def __init__(self, leaders: Sequence[ImageDataModule]) -> None:
        self.leaders = list(leaders)
        self._loaders: dict[ImageDataModule, TrainLoader] = {}

    def __len__(self) -> int:
        return len(self._loader(self.leaders[0]))

    def __iter__(self) -> Iterator[StackBatch]:
        different = list(dict.fromkeys(self.leaders))  # each leader draws once, even if it leads two streams
        places = [different.index(leader) for leader in self.leaders]
        for batches in zip(*map(self._loader, different), strict=True):
            parts = zip(*(batches[place] for place in places), strict=True)
            yield StackBatch(*(torch.stack(part) if len(part) > 1 else part[0][None] for part in parts))

    def _loader(self, data: ImageDataModule) -> TrainLoader:
        if data not in self._loaders:
            self._loaders[data] = data.train_dataloader()
        return self._loaders[data]


class SharedLoader:
    """Evaluation batches, the same for all members.

    Args:
        data: the data module of any member.
    """

    def __init__(self, data: ImageDataModule) -> None:
        self._loader = data.val_dataloader()

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[StackBatch]:
        for batch in self._loader:
            yield StackBatch(*(part[None] for part in batch))
