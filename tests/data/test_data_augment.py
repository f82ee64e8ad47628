import itertools

import numpy as np
import pytest
import torch

from capsexp.data.augment import Augment, Crop, Shift
from capsexp.errors import ConfigError


def images(count=40, channels=1, height=12, width=10):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


def sampled(augment, stored, seed=0):
    """Every image of ``stored`` in reverse order, with the numbers drawn for it."""
    draws = augment.draw(len(stored), *stored.shape[-2:], torch.Generator().manual_seed(seed))
    index = torch.arange(len(stored)).flip(0)
    return augment.sample(augment.prepare(stored), index, draws), index, draws


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(12, 10), (8, 8), (9, 14)])
def test_crop_equals_a_slow_reference(channels, height, width):
    stored = images(channels=channels, height=height, width=width)
    found, index, (rows, columns) = sampled(Crop(8), stored)
    for position, (image, row, column) in enumerate(zip(index, rows, columns, strict=True)):
        expected = stored.numpy()[image, :, row : row + 8, column : column + 8]
        assert np.array_equal(found[position].numpy(), expected)
    assert found.dtype == torch.uint8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pixels", [1, 2, 5])
def test_shift_equals_a_slow_reference(channels, pixels):
    stored = images(channels=channels)
    height, width = stored.shape[-2:]
    found, index, (rows, columns) = sampled(Shift(pixels), stored)
    for position, (image, row, column) in enumerate(zip(index, rows, columns, strict=True)):
        down, right = pixels - int(row), pixels - int(column)
        expected = np.zeros((channels, height, width), np.uint8)
        for y, x in itertools.product(range(height), range(width)):
            if 0 <= y - down < height and 0 <= x - right < width:
                expected[:, y, x] = stored.numpy()[image, :, y - down, x - right]
        assert np.array_equal(found[position].numpy(), expected)


def test_all_25_crops_of_32_by_32_occur_about_equally_often():
    rows, columns = Crop(28).draw(25_000, 32, 32, torch.Generator().manual_seed(0))
    counts = torch.bincount(rows * 5 + columns, minlength=25)
    assert len(counts) == 25
    assert counts.min() > 850
    assert counts.max() < 1150


def test_all_shifts_from_minus_to_plus_two_occur():
    rows, columns = Shift(2).draw(2000, 28, 28, torch.Generator().manual_seed(0))
    assert set((rows * 5 + columns).tolist()) == set(range(25))


def test_images_of_one_batch_are_cropped_each_on_its_own():
    stored = images(count=1, height=32, width=32).expand(64, -1, -1, -1)
    found, _, _ = sampled(Crop(28), stored)
    assert len({image.numpy().tobytes() for image in found}) > 15


def test_a_crop_takes_no_copy_of_the_images():
    stored = images()
    assert Crop(8).prepare(stored).data_ptr() == stored.data_ptr()


def test_evaluation_takes_the_middle():
    stored = images(height=32, width=32)
    assert torch.equal(Crop(28).evaluate(stored), stored[:, :, 2:30, 2:30])
    assert torch.equal(Crop(32).evaluate(stored), stored)
    assert torch.equal(Shift(2).evaluate(stored), stored)
    assert torch.equal(Augment().evaluate(stored), stored)


@pytest.mark.parametrize(("augment", "size"), [(Augment(), (12, 10)), (Crop(8), (8, 8)), (Shift(2), (12, 10))])
def test_training_and_evaluation_have_the_size_announced(augment, size):
    stored = images()
    assert augment.output_size(12, 10) == size
    assert sampled(augment, stored)[0].shape[-2:] == size
    assert augment.evaluate(stored).shape[-2:] == size


@pytest.mark.parametrize("augment", [Augment(), Crop(8), Shift(2)])
def test_the_same_generator_gives_the_same_images(augment):
    first, second = (sampled(augment, images(), seed=5)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_values_are_scaled_as_said():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    unit, symmetric = Augment().normalise(pixels, "unit"), Augment().normalise(pixels, "symmetric")
    exact = torch.arange(256, dtype=torch.float64).view(1, 1, 16, 16) / 255
    assert unit.dtype == symmetric.dtype == torch.float32
    torch.testing.assert_close(unit.double(), exact, rtol=0, atol=1e-7)
    torch.testing.assert_close(symmetric.double(), (exact - 0.5) / 0.5, rtol=0, atol=2e-7)
    assert (unit.min(), unit.max(), symmetric.min(), symmetric.max()) == (0, 1, -1, 1)


@pytest.mark.parametrize(("kind", "key"), [(Crop, "size"), (Shift, "pixels")])
@pytest.mark.parametrize("value", [0, -1, 2.5, "28", True, None])
def test_sizes_must_be_whole_numbers(kind, key, value):
    with pytest.raises(ConfigError, match=f"^{key} must be a whole number >= 1"):
        kind(value)


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(ConfigError, match=r"^augment\.size must be at most the images' 8 x 8 pixels, got 28$"):
        Crop(28).output_size(8, 8)
