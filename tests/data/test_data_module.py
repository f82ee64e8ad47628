import itertools
import json

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsexp.data.arrays import Arrays
from capsexp.data.augment import Augment, Crop, Shift
from capsexp.data.base import ImageDataModule
from capsexp.errors import ConfigError
from capsexp.types import Batch


class Fake:
    """Images that carry their own number in their first three pixels."""

    def __init__(self, count=103, classes=4, channels=1, size=12, test=20):
        self.settings = (count, classes, channels, size, test)

    def key(self):
        return ("fake", *self.settings)

    def load(self):
        count, classes, channels, size, test = self.settings
        images, labels = self._part(count, classes, channels, size, 0)
        x_test, y_test = self._part(test, classes, channels, size, count) if test else (None, None)
        return Arrays(images, labels, x_test, y_test, name="fake", kind="embedded")

    @staticmethod
    def _part(count, classes, channels, size, first):
        images = np.random.RandomState(first).randint(0, 256, (count, channels, size, size)).astype(np.uint8)
        images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(first, first + count), 256)
        return images, np.arange(count) % classes


def module(source=None, augment=None, **settings):
    return ImageDataModule(
        **({"source": source or Fake(), "augment": augment or Augment(), "batch_size": 16} | settings)
    )


def numbers(loader):
    """Which images a loader served, in order; for images that are not cropped, on the scale of bytes."""
    pixels = torch.cat([batch.images_BCHW[:, 0, 0, :2] for batch in loader]).round().long()
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()


class Bytes(Augment):
    """Images as they are, on the scale of bytes."""

    def normalise(self, images_BCHW, scheme):
        return images_BCHW.float()


def collected(loader):
    return [(batch.images_BCHW.clone(), batch.labels_B.clone()) for batch in loader]


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(one, other) for a, b in zip(first, second, strict=True) for one, other in zip(a, b, strict=True)
    )


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("augment", "shape"), [(Augment(), (3, 12, 12)), (Crop(8), (3, 8, 8)), (Shift(2), (3, 12, 12))]
)
@pytest.mark.parametrize("select_on", ["val", "test"])
def test_every_loader_gives_batches_of_the_announced_shape(augment, shape, select_on):
    data = module(Fake(channels=3), augment, eval_batch_size=10, select_on=select_on)
    assert data.image_shape == shape
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batches = list(loader)
        assert len(batches) == len(loader)
        for batch in batches:
            assert isinstance(batch, Batch)
            assert batch.images_BCHW.shape == (len(batch.labels_B), *shape)
            assert batch.images_BCHW.dtype == torch.float32
            assert batch.images_BCHW.is_contiguous()
            assert batch.labels_B.dtype == torch.int64


def test_an_epoch_serves_every_training_image_once_with_its_label():
    data = module(augment=Bytes(), select_on="test")
    loader = data.train_dataloader()
    first, second = numbers(loader), numbers(loader)
    assert sorted(first) == sorted(second) == list(range(103))
    assert first != second
    assert [len(batch.labels_B) for batch in loader] == [16] * 6 + [7]
    for batch in loader:
        pixels = batch.images_BCHW[:, 0, 0, 1].long()
        assert torch.equal(pixels % 4, batch.labels_B)


def test_evaluation_serves_the_images_in_order_and_always_the_same():
    data = module(augment=Bytes(), select_on="test", eval_batch_size=7)
    assert numbers(data.test_dataloader()) == numbers(data.test_dataloader()) == list(range(103, 123))
    assert numbers(data.ordered_train_dataloader()) == list(range(103))


def test_evaluation_draws_no_random_numbers():
    data = module(augment=Crop(8))
    before, outside = data.state_dict()["generator"], torch.random.get_rng_state()
    for loader in (data.val_dataloader(), data.test_dataloader(), data.ordered_train_dataloader()):
        list(loader)
    iter(data.train_dataloader())
    assert torch.equal(before, data.state_dict()["generator"])
    list(data.train_dataloader())
    assert not torch.equal(before, data.state_dict()["generator"])
    assert torch.equal(outside, torch.random.get_rng_state())


def test_crops_are_the_stored_images_crops():
    source = Fake()
    data = module(source, Crop(8), select_on="test", normalise="unit")
    places = {
        image[:, y : y + 8, x : x + 8].tobytes() for image in source.load().x_train for y in range(5) for x in range(5)
    }
    for batch in data.train_dataloader():
        for image in (batch.images_BCHW * 255).round().to(torch.uint8):
            assert image.numpy().tobytes() in places


def test_the_two_scales():
    symmetric, unit = (next(iter(module(normalise=name).test_dataloader()))[0] for name in ("symmetric", "unit"))
    torch.testing.assert_close(symmetric, (unit - 0.5) / 0.5)
    assert (symmetric.min(), unit.min(), unit.max()) == (-1, 0, 1)


# -- seeds and resuming -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["symmetric", "unit"])
@pytest.mark.parametrize("augment", [Augment(), Crop(9), Shift(2)])
def test_a_batch_has_the_same_pixels_as_bytes(augment, scheme):
    data = module(augment=augment, normalise=scheme)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            assert batch.pixels_BCHW.dtype == torch.uint8
            assert batch.pixels_BCHW.shape == batch.images_BCHW.shape
            scaled = batch.pixels_BCHW / 127.5 - 1 if scheme == "symmetric" else batch.pixels_BCHW / 255
            torch.testing.assert_close(batch.images_BCHW, scaled)


@pytest.mark.parametrize("augment", [Augment(), Crop(8), Shift(2)])
def test_the_same_seed_gives_the_same_batches_and_another_seed_others(augment):
    first, second, other = (collected(module(augment=augment, seed=seed).train_dataloader()) for seed in (1, 1, 2))
    assert same(first, second)
    assert not same(first, other)


@pytest.mark.parametrize("augment", [Augment(), Crop(8), Shift(2)])
def test_a_resumed_stream_continues_as_the_uninterrupted_one(augment):
    data = module(augment=augment, seed=3)
    loader = data.train_dataloader()
    list(loader)
    saved = data.state_dict()
    expected = [collected(loader), collected(loader)]
    resumed = module(augment=augment, seed=99)
    resumed.load_state_dict(saved)
    assert all(same(epoch, collected(resumed.train_dataloader())) for epoch in expected)


class Recorder(L.LightningModule):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append((batch.images_BCHW.clone(), batch.labels_B.clone()))
        return self.weight * 0

    def validation_step(self, batch, index):
        assert isinstance(batch, Batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(folder, epochs, resume_from=None):
    recorder = Recorder()
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
    )
    trainer.fit(recorder, datamodule=module(augment=Crop(8), batch_size=32), ckpt_path=resume_from, weights_only=True)
    return recorder.seen, trainer


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")
def test_a_fit_resumed_by_lightning_sees_the_batches_of_an_uninterrupted_one(tmp_path):
    whole, _ = fitted(tmp_path, 4)
    first, trainer = fitted(tmp_path, 2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second, _ = fitted(tmp_path, 4, tmp_path / "half.ckpt")
    assert len(whole) == 12
    assert same(first + second, whole)
    assert not same(whole[:3], whole[3:6])


# -- division ---------------------------------------------------------------------------------------------------------


@given(st.integers(30, 300), st.integers(2, 5), st.integers(0, 2**32 - 1), st.sampled_from([0, 20]))
@settings(max_examples=25, deadline=None)
def test_the_parts_hold_every_image_once(count, classes, split_seed, test):
    data = module(Fake(count, classes, test=test), Bytes(), split_seed=split_seed)
    served = [numbers(loader) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    assert sorted(itertools.chain(*served)) == list(range(count + test))
    assert all(served)


def test_the_division_depends_on_split_seed_alone():
    def parts(**settings):
        data = module(Fake(test=0), Bytes(), **settings)
        return [sorted(numbers(loader)) for loader in (data.val_dataloader(), data.test_dataloader())]

    assert parts() == parts(seed=5, batch_size=3)
    validation, test = parts(split_seed=1)
    assert validation != parts()[0]
    assert test != parts()[1]


def test_selecting_on_test_cuts_nothing_off_and_validates_on_the_test_part():
    data = module(augment=Bytes(), select_on="test")
    assert numbers(data.val_dataloader()) == numbers(data.test_dataloader()) == list(range(103, 123))
    assert (data.summary()["n_train"], data.summary()["n_val"], data.summary()["n_test"]) == (103, 20, 20)


def test_the_summary_is_plain_and_says_how_the_test_part_came_about():
    summary = module(Fake(count=400, test=0), Crop(8), split_seed=7).summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary == {
        "name": "fake",
        "source": "embedded",
        "sha256": None,
        "generated": False,
        "test_split": "seeded stratified 85/15",
        "n_train": 304,
        "n_val": 36,
        "n_test": 60,
        "classes": 4,
        "image_shape": [1, 8, 8],
        "select_on": "val",
        "split_seed": 7,
    }
    assert module().summary()["test_split"] == "published"


def test_one_image_a_class_cannot_be_divided():
    with pytest.raises(ConfigError, match=r"^data\.path must hold at least two images of a class to divide, got 4$"):
        module(Fake(count=4)).setup()


# -- fewer training images ---------------------------------------------------------------------------------------------


def labels_of(loader):
    return torch.cat([batch.labels_B for batch in loader])


@given(st.integers(40, 300), st.integers(2, 5), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_a_share_of_every_class_is_left(count, classes, share, split_seed):
    data, whole = (module(Fake(count, classes), Bytes(), split_seed=split_seed) for _ in range(2))
    data.thin(share)
    before = torch.bincount(labels_of(whole.predict_dataloader()), minlength=classes)
    after = torch.bincount(labels_of(data.predict_dataloader()), minlength=classes)
    for many, left in zip(before.tolist(), after.tolist(), strict=True):
        assert abs(left - min(max(share * many, 1), many - 1)) <= 0.5 + 1e-9
    kept, all_of_them = numbers(data.predict_dataloader()), numbers(whole.predict_dataloader())
    assert kept == sorted(set(kept) & set(all_of_them))
    assert torch.equal(torch.tensor(kept) % classes, labels_of(data.predict_dataloader()))


@pytest.mark.parametrize("select_on", ["val", "test"])
def test_thinning_leaves_the_other_parts_alone(select_on):
    data, whole = (module(augment=Bytes(), select_on=select_on) for _ in range(2))
    data.thin(0.5)
    for one, other in (
        (data.val_dataloader(), whole.val_dataloader()),
        (data.test_dataloader(), whole.test_dataloader()),
    ):
        assert numbers(one) == numbers(other)
    assert data.summary()["n_train"] == len(numbers(data.predict_dataloader())) < whole.summary()["n_train"]
    served = list(data.train_dataloader())
    assert sum(len(batch.labels_B) for batch in served) == data.summary()["n_train"]
    assert sorted(numbers(served)) == numbers(data.predict_dataloader())


def test_split_seed_alone_chooses_which_are_left():
    def left(share=0.5, **settings):
        data = module(augment=Bytes(), select_on="test", **settings)
        data.thin(share)
        return numbers(data.predict_dataloader())

    assert left() == left(seed=5, batch_size=3)
    assert left() != left(split_seed=1)
    assert len(left(0.25)) < len(left())


def test_a_share_of_one_keeps_all_and_setup_brings_nothing_back():
    data = module(augment=Bytes(), select_on="test")
    data.thin(1)
    assert numbers(data.predict_dataloader()) == list(range(103))
    data.thin(0.5)
    kept = numbers(data.predict_dataloader())
    data.setup("fit")
    assert numbers(data.predict_dataloader()) == kept
    assert numbers(module(augment=Bytes(), select_on="test").predict_dataloader()) == list(range(103))


def test_thinning_draws_no_random_numbers():
    data = module()
    before, outside = data.state_dict()["generator"], torch.random.get_rng_state()
    data.thin(0.5)
    assert torch.equal(before, data.state_dict()["generator"])
    assert torch.equal(outside, torch.random.get_rng_state())


def test_predictions_read_the_training_images_in_order():
    data = module(augment=Bytes(), select_on="test", eval_batch_size=7)
    assert numbers(data.predict_dataloader()) == numbers(data.ordered_train_dataloader()) == list(range(103))


# -- loading and arguments --------------------------------------------------------------------------------------------


def test_making_a_module_loads_nothing_and_setup_twice_changes_nothing(monkeypatch):
    source = Fake(count=51)
    monkeypatch.setattr(source, "load", lambda: pytest.fail("loaded"))
    module(source)
    data = module()
    data.setup("fit")
    before = data._parts
    data.setup("test")
    after = data._parts
    assert all(a.images.data_ptr() == b.images.data_ptr() for a, b in zip(before.values(), after.values(), strict=True))


def test_modules_of_one_division_share_their_images_and_others_do_not():
    source = Fake()
    data, same, other = (module(source, select_on="test") for _ in range(3))
    other.split_seed = 1
    for each in (data, same, other):
        each.setup()
    assert data._parts["train"].images is same._parts["train"].images
    assert data._parts["train"].images is not other._parts["train"].images


def test_the_arrays_are_left_alone_whatever_happens_to_the_images_in_use():
    source = Fake()
    data = module(source, select_on="test")
    data.setup()
    data._parts["train"].images.zero_()
    del data
    assert numbers(module(source, Bytes(), select_on="test").ordered_train_dataloader()) == list(range(103))


def test_thinning_leaves_the_others_images_alone():
    source = Fake()
    data, other = (module(source, select_on="test") for _ in range(2))
    data.setup()
    other.setup()
    data.thin(0.5)
    data.setup()
    assert len(data._parts["train"].labels) < len(other._parts["train"].labels) == 103


def test_a_path_takes_the_place_of_the_source(tmp_path):
    images = np.zeros((40, 5, 5), np.uint8)
    np.savez(tmp_path / "own.npz", x_train=images, y_train=np.arange(40) % 2, x_test=images, y_test=np.arange(40) % 2)
    data = module(Fake(), path=str(tmp_path / "own.npz"))
    assert data.image_shape == (1, 5, 5)
    assert (data.summary()["name"], data.summary()["source"]) == ("own", "npz")


def test_a_crop_larger_than_the_images_is_refused_before_training():
    with pytest.raises(
        ConfigError,
        match=r"^augment\.size must be at most the images' 12 x 12 pixels \(augment=none .*\), got 28$",
    ):
        module(augment=Crop(28)).setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number >= 1, got 2.5"),
        ({"batch_size": True}, "batch_size must be a whole number >= 1, got True"),
        ({"eval_batch_size": -1}, "eval_batch_size must be a whole number >= 1, got -1"),
        ({"split_seed": -1}, "split_seed must be a whole number from 0 to 4294967295, got -1"),
        ({"val_share": 0}, "val_share must be a number in (0, 1), got 0"),
        ({"val_share": 1.0}, "val_share must be a number in (0, 1), got 1.0"),
        ({"val_share": "much"}, "val_share must be a number in (0, 1), got 'much'"),
        ({"select_on": "train"}, "select_on must be one of val, test, got 'train'"),
        ({"normalise": "none"}, "normalise must be one of symmetric, unit, got 'none'"),
        ({"seed": -3}, "seed must be a whole number from 0 to 9223372036854775807, got -3"),
        ({"augment": "crop"}, "augment must be an augmentation, got 'crop'"),
        ({"source": 3}, "source must be a source of images where no path is given, got 3"),
        ({"path": ""}, "path must name a .npz file or be null, got ''"),
        ({"path": 3}, "path must name a .npz file or be null, got 3"),
    ],
)
def test_bad_arguments_are_refused_at_once(settings, message):
    with pytest.raises(ConfigError) as caught:
        module(**settings)
    assert str(caught.value) == message
