import itertools

import numpy as np
import pytest
import torch

from capsexp.data.augment import Augment, ColourCrop, Crop, Shift
from capsexp.data.base import ImageDataModule
from capsexp.errors import ConfigError

COLOUR = ColourCrop(8, 0.5, 63, [0.2, 1.8])


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


@pytest.mark.parametrize(
    ("augment", "size"), [(Augment(), (12, 10)), (Crop(8), (8, 8)), (Shift(2), (12, 10)), (COLOUR, (8, 8))]
)
def test_training_and_evaluation_have_the_size_announced(augment, size):
    stored = images()
    assert augment.output_size(12, 10) == size
    assert sampled(augment, stored)[0].shape[-2:] == size
    assert augment.evaluate(stored).shape[-2:] == size


@pytest.mark.parametrize("augment", [Augment(), Crop(8), Shift(2), COLOUR])
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
    with pytest.raises(
        ConfigError,
        match=r"^augment\.size must be at most the images' 8 x 8 pixels \(augment=none .*\), got 28$",
    ):
        Crop(28).output_size(8, 8)


# -- crops in other colours -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_equal_a_slow_reference(channels):
    stored = images(channels=channels)
    found, index, draws = sampled(COLOUR, stored)
    assert found.dtype == torch.float32
    for position, image in enumerate(index):
        row, column, mirrored, added, factor = (numbers[position].item() for numbers in draws)
        for channel in range(channels):
            crop = stored.numpy()[image, channel, row : row + 8, column : column + 8].astype(np.float64)
            pixels = (crop[:, ::-1] if mirrored else crop) + added
            mean = sum(pixels.flat) / 64
            for y, x in itertools.product(range(8), range(8)):
                expected = min(max(mean + (pixels[y, x] - mean) * factor, 0), 255)
                assert found[position, channel, y, x].item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_standardising_equals_a_slow_reference(channels):
    stored = images(count=5, channels=channels)
    stored[1] = 77
    stored[2] = 10
    stored[2, 0, 0, 0] = 11
    for pixels in (stored, stored.float() + 0.25):
        found = COLOUR.normalise(pixels, "unit")
        assert found.dtype == torch.float32
        for image, scaled in zip(pixels, found, strict=True):
            values = [float(value) for value in image.flatten()]
            mean = sum(values) / len(values)
            deviation = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
            expected = (image.double() - mean) / max(deviation, len(values) ** -0.5)
            torch.testing.assert_close(scaled.double(), expected, rtol=1e-4, atol=1e-4)


def test_standardised_images_have_mean_0_and_deviation_1_whatever_the_scheme():
    sampled_B, evaluated_B = sampled(COLOUR, images(channels=3))[0], COLOUR.evaluate(images(channels=3))
    for pixels in (sampled_B, evaluated_B):
        found = COLOUR.normalise(pixels, "symmetric")
        assert torch.equal(found, COLOUR.normalise(pixels, "unit"))
        assert found.mean((1, 2, 3)).abs().max() < 1e-5
        assert (found.std((1, 2, 3), correction=0) - 1).abs().max() < 1e-5
    assert COLOUR.normalise(torch.full((2, 3, 8, 8), 255, dtype=torch.uint8), "unit").abs().max() == 0


def test_contrast_1_brightness_0_and_no_mirror_is_the_crop_alone():
    stored = images(channels=3)
    plain, (found, _, draws) = Crop(8), sampled(ColourCrop(8, 0, 0, [1, 1]), stored)
    assert torch.equal(found, plain.sample(plain.prepare(stored), torch.arange(40).flip(0), draws[:2]).float())


def test_mirrored_always_never_or_half_of_the_time():
    stored = images(height=8, width=8)
    always, index, _ = sampled(ColourCrop(8, 1, 0, [1, 1]), stored)
    never, _, _ = sampled(ColourCrop(8, 0, 0, [1, 1]), stored)
    assert torch.equal(always, stored[index].flip(-1).float())
    assert torch.equal(never, stored[index].float())
    mirrored = COLOUR.draw(10_000, 8, 8, torch.Generator().manual_seed(0))[2]
    assert 0.47 < mirrored.float().mean() < 0.53


def test_brightness_and_contrast_are_uniform_in_their_ranges():
    rows, columns, _, added, factor = COLOUR.draw(40_000, 12, 10, torch.Generator().manual_seed(0))
    assert (rows.max(), columns.max()) == (4, 2)
    for drawn, lowest, highest in ((added, -63, 63), (factor, 0.2, 1.8)):
        assert drawn.dtype == torch.float32
        assert lowest <= drawn.min() < lowest + 0.001 * (highest - lowest)
        assert highest - 0.001 * (highest - lowest) < drawn.max() <= highest
        counts = torch.histc(drawn, 8, lowest, highest)
        assert (counts - 5000).abs().max() < 300


def test_brightness_and_contrast_move_the_values_and_keep_them_in_range():
    stored = images(channels=3)
    found, _, draws = sampled(ColourCrop(8, 0.5, 255, [0.2, 1.8]), stored)
    assert (found.min(), found.max()) == (0, 255)
    assert (draws[3].abs() > 63).any()
    gentle, _, _ = sampled(ColourCrop(8, 0, 0, [0.5, 0.5]), stored)
    exact, _, _ = sampled(ColourCrop(8, 0, 0, [1, 1]), stored)
    torch.testing.assert_close(gentle.mean((2, 3)), exact.mean((2, 3)))
    torch.testing.assert_close(gentle.std((2, 3)) * 2, exact.std((2, 3)))


def test_every_image_of_a_batch_has_its_own_draws():
    stored = images(count=1, channels=3, height=32, width=32).expand(64, -1, -1, -1)
    augment = ColourCrop(32, 0.5, 63, [0.2, 1.8])  # as large as the image: one place alone
    found, _, draws = sampled(augment, stored)
    assert len({image.numpy().tobytes() for image in found}) == 64
    assert all(len(set(numbers.tolist())) == 64 for numbers in draws[3:])


def test_the_middle_is_evaluated_without_other_colours():
    stored = images(channels=3, height=32, width=32)
    crop = ColourCrop(24, 0.5, 63, [0.2, 1.8])
    assert torch.equal(crop.evaluate(stored), stored[:, :, 4:28, 4:28])
    assert torch.equal(crop.evaluate(stored), crop.evaluate(stored))


@pytest.mark.parametrize("channels", [1, 3])
def test_what_a_decoder_should_draw_is_what_the_network_saw_before_standardising(channels, tmp_path):
    stored, labels = images(channels=channels).numpy(), np.arange(40) % 4
    stored = stored[:, 0] if channels == 1 else np.moveaxis(stored, 1, -1)
    np.savez(tmp_path / "x.npz", x_train=stored, y_train=labels, x_test=stored, y_test=labels)
    augment = ColourCrop(8, 0.5, 200, [0.2, 1.8])
    data = ImageDataModule(path=str(tmp_path / "x.npz"), augment=augment, batch_size=16)
    assert data.image_shape == (channels, 8, 8)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            assert 0 <= batch.pixels_BCHW.min() <= batch.pixels_BCHW.max() <= 255
            assert batch.images_BCHW.is_contiguous()
            assert torch.equal(batch.images_BCHW, augment.normalise(batch.pixels_BCHW, "unit"))


def test_images_smaller_than_the_coloured_crop_are_refused():
    with pytest.raises(
        ConfigError,
        match=r"^augment\.size must be at most the images' 28 x 20 pixels \(augment=none .*\), got 24$",
    ):
        ColourCrop(24, 0.5, 63, [0.2, 1.8]).output_size(28, 20)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"size": 0}, "size"),
        ({"flip": 1.5}, "flip"),
        ({"flip": None}, "flip"),
        ({"brightness": -1}, "brightness"),
        ({"brightness": 256}, "brightness"),
        ({"contrast": 1}, "contrast"),
        ({"contrast": [1]}, "contrast"),
        ({"contrast": [-0.1, 1]}, "contrast"),
        ({"contrast": [2, 1]}, "contrast"),
        ({"contrast": "ab"}, "contrast"),
    ],
)
def test_bad_colours_are_named(changes, key):
    with pytest.raises(ConfigError) as caught:
        ColourCrop(**({"size": 8, "flip": 0.5, "brightness": 63, "contrast": [0.2, 1.8]} | changes))
    assert caught.value.key == key
