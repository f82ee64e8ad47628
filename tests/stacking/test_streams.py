"""The batches of members side by side: every one gets those that it would have drawn alone."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from capsexp.data.arrays import Arrays
from capsexp.data.augment import Augment, Shift
from capsexp.data.base import ImageDataModule
from capsexp.stacking.streams import SharedLoader, StackBatch, StreamLoader, in_streams
from capsexp.types import Batch


@dataclass(frozen=True)
class Noise:
    """20 images for training and 4 for validation, all different."""

    def key(self) -> str:
        return "noise of streams"

    def load(self) -> Arrays:
        images = np.random.default_rng(0).integers(0, 256, (24, 1, 6, 6)).astype(np.uint8)
        labels = np.arange(24) % 2
        return Arrays(images, labels, images[:4].copy(), labels[:4].copy(), "noise", "embedded")


def data(seed: int, augment: Augment | None = None) -> ImageDataModule:
    augment = Shift(pixels=2) if augment is None else augment
    return ImageDataModule(source=Noise(), augment=augment, batch_size=8, eval_batch_size=3, val_share=0.17, seed=seed)


def order(of: ImageDataModule) -> torch.Tensor:
    return of.state_dict()["generator"]


def of_stream(batches: list[StackBatch], stream: int) -> list[Batch]:
    return [Batch(*(part[stream] for part in batch)) for batch in batches]


def assert_same(found: list[Batch], wanted: list[Batch]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert all(torch.equal(*parts) for parts in zip(one, other, strict=True))


def test_members_are_in_one_stream_where_their_orders_are_equal_now() -> None:
    datas = [data(seed) for seed in (4, 5, 4, 6, 5)]
    assert in_streams(datas) == [[0, 2], [1, 4], [3]]
    list(datas[2].train_dataloader())
    assert in_streams(datas) == [[0], [1, 4], [2], [3]], "one is an epoch ahead"
    list(datas[0].train_dataloader())
    assert in_streams(datas) == [[0, 2], [1, 4], [3]]


@pytest.mark.parametrize("seeds", [(3,), (3, 4), (3, 4, 9)])
def test_every_stream_has_the_batches_that_its_leader_would_draw(seeds: tuple[int, ...]) -> None:
    loader = StreamLoader([data(seed) for seed in seeds])
    alone = [data(seed).train_dataloader() for seed in seeds]
    assert len(loader) == len(alone[0]) == 3
    for _ in range(2):
        batches = list(loader)
        assert [tuple(batch.images_SBCHW.shape[:2]) for batch in batches] == [(len(seeds), size) for size in (8, 8, 4)]
        for stream, own in enumerate(alone):
            assert_same(of_stream(batches, stream), list(own))


def test_who_leads_two_streams_draws_once() -> None:
    """As where all members of a stream have stopped: what is led by another one is looked at by nobody."""
    first, second, stopped = data(1), data(2), data(3)
    loader = StreamLoader([first, second, stopped])
    list(loader)
    before = order(stopped)
    loader.leaders[2] = first
    batches = list(loader)
    for seed, leader, stream in ((1, first, 0), (2, second, 1), (1, first, 2)):
        alone = data(seed)
        list(alone.train_dataloader())
        assert_same(of_stream(batches, stream), list(alone.train_dataloader()))
        assert torch.equal(order(leader), order(alone))
    assert torch.equal(order(stopped), before)


def test_evaluation_is_one_stream_without_anything_random() -> None:
    own = data(7)
    before = order(own)
    loader = SharedLoader(own)
    assert len(loader) == 2
    for _ in range(2):
        batches = list(loader)
        assert {len(batch.images_SBCHW) for batch in batches} == {1}
        assert_same(of_stream(batches, 0), list(data(8).val_dataloader()))
    assert torch.equal(order(own), before)
