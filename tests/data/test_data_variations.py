"""MNIST's variations: against slow references, and the promises that every generated data set keeps."""

import itertools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage
import sklearn.datasets
from omegaconf import OmegaConf

from capsexp.data import pixels, variations
from capsexp.data.arrays import Source
from capsexp.data.augment import Augment
from capsexp.data.base import ImageDataModule
from capsexp.data.pixels import gray_photographs, rotated, textured, windows
from capsexp.data.variations import Background, Rotated, Variation
from capsexp.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"
TRAIN, TEST = 60, 40


def images(count=120, height=11, width=11, seed=0):
    """Images full of values up to the border, so that nothing hides in black."""
    return np.random.RandomState(seed).randint(0, 256, (count, height, width)).astype(np.uint8)


def write_base(folder, pixels_NHW=None, name="base"):
    """A file of 100 training and 20 test images in 4 classes; the label is also the image's number modulo 4."""
    pixels_NHW = images() if pixels_NHW is None else pixels_NHW
    labels = np.arange(len(pixels_NHW)) % 4
    path = folder / f"{name}.npz"
    np.savez(path, x_train=pixels_NHW[:100], y_train=labels[:100], x_test=pixels_NHW[100:], y_test=labels[100:])
    return path


@dataclass(frozen=True)
class Same(Variation):
    """Images as they are, to see which ones are taken."""

    def vary(self, images_NHW, random):
        return images_NHW


KINDS = {Same: {}, Rotated: {}, Background: {"min_std": 16}}


def made(kind, folder, path="", **changes):
    settings = {"name": "varied", "seed": 0, "train_count": TRAIN, "test_count": TEST, "cache": str(folder / "cache")}
    path = str(folder / "base.npz") if path == "" else path
    return kind(**(settings | {"path": path} | KINDS[kind] | changes))


def whole(loaded):
    """Training and then test images (N, H, W)."""
    return np.concatenate([loaded.x_train, loaded.x_test])[:, 0]


def chosen(seed=0, count=120):
    """The same draws as a variation makes, and the stream behind them."""
    random = np.random.RandomState(seed)
    return random.permutation(count)[: TRAIN + TEST], random


# -- turning ----------------------------------------------------------------------------------------------------------


def turned_by_loops(image, angle):
    """One pixel at a time, clockwise about the middle; outside all is 0."""
    height, width = image.shape

    def value(y, x):
        return float(image[y, x]) if 0 <= y < height and 0 <= x < width else 0.0

    out = np.empty((height, width))
    for y, x in itertools.product(range(height), range(width)):
        down, right = y - (height - 1) / 2, x - (width - 1) / 2
        v = math.cos(angle) * down - math.sin(angle) * right + (height - 1) / 2
        u = math.sin(angle) * down + math.cos(angle) * right + (width - 1) / 2
        top, left = math.floor(v), math.floor(u)
        out[y, x] = sum(
            (1 - abs(v - row)) * (1 - abs(u - column)) * value(row, column)
            for row, column in itertools.product((top, top + 1), (left, left + 1))
        )
    return out


def turned_by_scipy(image, angle):
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = (np.array(image.shape) - 1) / 2
    return scipy.ndimage.affine_transform(
        image.astype(float), turn, middle - turn @ middle, order=1, mode="grid-constant", cval=0
    )


@pytest.mark.parametrize(("height", "width"), [(11, 11), (28, 28), (7, 12), (1, 5)])
def test_turning_equals_two_slow_references(height, width):
    stored = images(6, height, width)
    angles = np.array([0.3, 1.9, 3.3, 5.1, 6.2, 2 * math.pi - 1e-9])
    found = rotated(stored, angles)
    assert found.dtype == np.uint8
    for image, angle, turned in zip(stored, angles, found, strict=True):
        assert np.array_equal(turned, np.rint(turned_by_loops(image, angle)))
        assert np.array_equal(turned, np.rint(turned_by_scipy(image, angle)))


def test_quarters_of_a_turn_are_exact_and_clockwise():
    stored = images(4)
    found = rotated(stored, np.arange(4) * math.pi / 2)
    for quarters in range(4):
        assert np.array_equal(found[quarters], np.rot90(stored[quarters], -quarters))


def test_many_images_are_turned_as_few_are(monkeypatch):
    stored, angles = images(10), np.linspace(0, 6, 10)
    at_once = rotated(stored, angles)
    monkeypatch.setattr(pixels, "TURNED_AT_ONCE", 3)
    assert np.array_equal(rotated(stored, angles), at_once)


def test_each_digit_is_turned_by_its_own_drawn_angle(tmp_path):
    write_base(tmp_path)
    found = whole(made(Rotated, tmp_path, seed=3).load())
    taken, random = chosen(3)
    angles = random.random_sample(len(taken)) * 2 * math.pi
    for number in (0, 1, TRAIN - 1, TRAIN, TRAIN + TEST - 1):
        expected = turned_by_scipy(images()[taken[number]], angles[number])
        assert np.array_equal(found[number], np.rint(expected))


def test_all_angles_are_equally_likely(monkeypatch):
    seen = []
    monkeypatch.setattr(variations, "rotated", lambda images, angles: (seen.append(angles), images)[1])
    Rotated("x", None, 0, 2, 1, "cache").vary(np.zeros((40_000, 1, 1), np.uint8), np.random.RandomState(0))
    (angles,) = seen
    assert 0 <= angles.min() < 0.001
    assert 2 * math.pi - 0.001 < angles.max() < 2 * math.pi
    counts = np.histogram(angles, bins=16, range=(0, 2 * math.pi))[0]
    assert abs(counts - 2500).max() < 250


# -- photographs ------------------------------------------------------------------------------------------------------


def test_photographs_are_scikit_learns_in_gray():
    photographs, originals = gray_photographs(), sklearn.datasets.load_sample_images().images
    assert (photographs.shape, photographs.dtype) == ((2, 427, 640), np.uint8)
    for picture, row, column in ((0, 0, 0), (0, 200, 300), (1, 426, 639), (1, 10, 500)):
        red, green, blue = (int(value) for value in originals[picture][row, column])
        assert photographs[picture, row, column] == (299 * red + 587 * green + 114 * blue + 500) // 1000
    exact = np.stack(originals) @ np.array([0.299, 0.587, 0.114])
    assert abs(photographs - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(("height", "width"), [(3, 3), (2, 5), (9, 8)])
def test_textured_pieces_equal_a_slow_reference(height, width):
    pictures = images(2, 9, 12)
    pictures[0, :5, :6] = 40
    limit = 70.0
    expected = [
        (picture, row, column)
        for picture, row, column in itertools.product(range(2), range(10 - height), range(13 - width))
        if np.std(pictures[picture, row : row + height, column : column + width].astype(float)) >= limit
    ]
    assert textured(pictures, height, width, limit).tolist() == [list(place) for place in expected]
    assert windows(pictures, height, width).shape == (2, 10 - height, 13 - width, height, width)


def test_a_piece_with_exactly_the_least_deviation_is_kept():
    pictures = np.array([[[0, 32, 7, 7]]], np.uint8)
    assert textured(pictures, 1, 2, 16).tolist() == [[0, 0, 0]]
    assert textured(pictures, 1, 2, 0).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2]]


def test_each_digit_lies_before_its_own_drawn_piece(tmp_path):
    write_base(tmp_path)
    found = whole(made(Background, tmp_path, seed=5).load())
    taken, random = chosen(5)
    photographs = gray_photographs()
    places = textured(photographs, 11, 11, 16)
    for number, place in enumerate(random.randint(len(places), size=len(taken), dtype=np.int64)):
        picture, top, left = places[place]
        for row, column in ((0, 0), (3, 10), (10, 4)):
            piece, digit = photographs[picture, top + row, left + column], images()[taken[number], row, column]
            assert found[number, row, column] == max(int(piece), int(digit))


def digits_in_black():
    """Images of 28 x 28 that are black but for a square of 255 and a square of 120."""
    stored = np.zeros((120, 28, 28), np.uint8)
    stored[:, 8:14, 8:14], stored[:, 16:20, 8:14] = 255, 120
    return stored


def test_what_is_not_digit_is_a_textured_piece_of_a_photograph(tmp_path):
    write_base(tmp_path, digits_in_black())
    found = whole(made(Background, tmp_path, min_std=30).load())
    views = windows(gray_photographs(), 28, 28)
    black = np.argwhere(digits_in_black()[0] == 0)
    for image in found[:5]:
        fitting = np.ones(views.shape[:3], bool)
        for row, column in black[::7]:
            fitting &= views[..., row, column] == image[row, column]
        pieces = views[fitting]
        assert len(pieces) >= 1
        assert pieces.astype(float).std((1, 2)).max() >= 30
        assert any(np.array_equal(np.maximum(piece, digits_in_black()[0]), image) for piece in pieces)


def test_digits_dominate_where_they_are_bright(tmp_path):
    write_base(tmp_path, digits_in_black())
    found = whole(made(Background, tmp_path).load())
    assert (found >= digits_in_black()[0]).all()
    assert (found[:, 8:14, 8:14] == 255).all()
    assert len({image.tobytes() for image in found}) == TRAIN + TEST


def test_pieces_are_textured_and_come_from_both_photographs_alike():
    source = Background("x", None, 0, 2, 1, "cache", 25)
    pieces = source.vary(np.zeros((4000, 28, 28), np.uint8), np.random.RandomState(0))
    assert pieces.astype(float).std((1, 2)).min() >= 25
    places = textured(gray_photographs(), 28, 28, 25)
    means = windows(gray_photographs(), 28, 28)[tuple(places.T)].mean((1, 2))
    assert abs(pieces.mean() - means.mean()) < 3 * means.std() / math.sqrt(4000)
    assert 0.2 < (places[:, 0] == 1).mean() < 0.5


# -- which images -----------------------------------------------------------------------------------------------------


def test_a_seeded_order_of_training_then_test_images_is_cut_in_two(tmp_path):
    write_base(tmp_path)
    loaded = made(Same, tmp_path, seed=7).load()
    taken, _ = chosen(7)
    assert (loaded.x_train.shape, loaded.x_test.shape) == ((TRAIN, 1, 11, 11), (TEST, 1, 11, 11))
    assert np.array_equal(whole(loaded), images()[taken])
    assert np.array_equal(np.concatenate([loaded.y_train, loaded.y_test]), taken % 4)
    assert len(set(taken.tolist())) == TRAIN + TEST
    assert {int(number) >= 100 for number in taken[:TRAIN]} == {True, False}  # of both parts of the base


def test_all_variations_take_the_same_digits(tmp_path):
    write_base(tmp_path)
    labels = [made(kind, tmp_path).load().y_train for kind in KINDS]
    assert np.array_equal(labels[0], labels[1])
    assert np.array_equal(labels[0], labels[2])


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_loaded_variation_says_of_itself(kind, tmp_path):
    write_base(tmp_path)
    source = made(kind, tmp_path)
    assert isinstance(source, Source)
    loaded = source.load()
    assert (loaded.name, loaded.kind, loaded.generated, loaded.classes) == ("varied", "npz", True, 4)
    assert (loaded.x_train.dtype, loaded.y_train.dtype) == (np.uint8, np.int64)
    assert loaded.x_train.flags.writeable is False
    summary = ImageDataModule(source=source, augment=Augment(), batch_size=8).summary()
    assert (summary["name"], summary["generated"], summary["sha256"]) == ("varied", True, loaded.sha256)
    assert summary["n_train"] + summary["n_val"] == TRAIN
    assert summary["n_test"] == TEST


# -- the same bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(kind, tmp_path):
    write_base(tmp_path)
    first = made(kind, tmp_path).load()
    again = made(kind, tmp_path, cache=str(tmp_path / "elsewhere")).load()
    other = made(kind, tmp_path, seed=1).load()
    assert whole(first).tobytes() == whole(again).tobytes()
    assert first.sha256 == again.sha256 != other.sha256
    assert whole(first).tobytes() != whole(other).tobytes()


def test_turned_images_are_the_same_on_any_machine_and_for_good(tmp_path):
    write_base(tmp_path)
    assert made(Rotated, tmp_path).load().sha256[:16] == "9784997e0565f92a"


def test_the_digest_tells_values_shapes_and_arrays_apart():
    digest = variations.content_sha256
    values = np.arange(6, dtype=np.uint8)
    assert digest(values) == digest(values.copy()) == digest(np.arange(12, dtype=np.uint8)[:6])
    assert digest(np.arange(6, dtype=">i8")) == digest(np.arange(6, dtype=np.int64))
    different = [digest(values), digest(values.reshape(2, 3)), digest(values[:3], values[3:]), digest(values + 1)]
    assert len({*different, digest(values.astype(np.int64))}) == 5


# -- the kept file ----------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """How often images were made."""
    calls, make = [], Variation._made
    monkeypatch.setattr(Variation, "_made", lambda self, *arrays: (calls.append(self.seed), make(self, *arrays))[1])
    return calls


def kept(folder):
    return sorted((folder / "cache").glob("*.npz"))


@pytest.mark.parametrize("kind", KINDS)
def test_made_once_and_kept(kind, tmp_path, counted):
    write_base(tmp_path)
    first, second = made(kind, tmp_path).load(), made(kind, tmp_path).load()
    assert counted == [0]
    assert (first.sha256, whole(first).tobytes()) == (second.sha256, whole(second).tobytes())
    (file,) = kept(tmp_path)
    assert file.name.startswith("varied-v1-seed0-")


def test_a_kept_file_is_read_without_a_lock(tmp_path):
    write_base(tmp_path)
    made(Rotated, tmp_path).load()
    for lock in (tmp_path / "cache").glob("*.lock"):
        lock.unlink()
    made(Rotated, tmp_path).load()
    assert list((tmp_path / "cache").glob("*.lock")) == []


def test_several_at_once_make_it_once(tmp_path, counted):
    write_base(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        digests = set(pool.map(lambda _: made(Rotated, tmp_path).load().sha256, range(4)))
    assert len(digests) == len(counted) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-100]),
        lambda file: file.write_bytes(file.read_bytes()[:9000] + b"\x00\xff\x00" + file.read_bytes()[9003:]),
        lambda file: np.savez(file, x_train=images()),
        lambda file: write_base(file.parent, name=file.stem),
    ],
    ids=["empty", "cut short", "changed bytes", "arrays missing", "another shape"],
)
def test_a_damaged_file_is_made_again(damage, tmp_path, counted):
    write_base(tmp_path)
    before = made(Rotated, tmp_path).load()
    (file,) = kept(tmp_path)
    damage(file)
    assert made(Rotated, tmp_path).load().sha256 == before.sha256
    assert made(Rotated, tmp_path).load().sha256 == before.sha256
    assert counted == [0, 0]


def test_another_base_seed_count_or_setting_is_another_file(tmp_path, counted):
    write_base(tmp_path)
    write_base(tmp_path, images(seed=1), "other")
    changes = [{}, {"path": str(tmp_path / "other.npz")}, {"seed": 1}, {"train_count": 50}, {"test_count": 30}]
    for change in [*changes, {"min_std": 20}, {"min_std": 20.0}]:
        made(Background, tmp_path, **change).load()
    assert len(kept(tmp_path)) == len(counted) == 6


def test_a_raised_version_is_another_file(tmp_path, counted, monkeypatch):
    write_base(tmp_path)
    made(Rotated, tmp_path).load()
    monkeypatch.setattr(Variation, "VERSION", 2)
    made(Rotated, tmp_path).load()
    assert [file.name[:9] for file in kept(tmp_path)] == ["varied-v1", "varied-v2"]


def test_a_moved_or_renamed_base_is_the_same_base(tmp_path, counted):
    path = write_base(tmp_path)
    made(Rotated, tmp_path).load()
    made(Rotated, tmp_path, path=str(path.rename(tmp_path / "moved.npz"))).load()
    assert counted == [0]


def test_keys_tell_contents_apart(tmp_path):
    write_base(tmp_path)
    keys = {
        made(Rotated, tmp_path).key(),
        made(Same, tmp_path).key(),
        made(Rotated, tmp_path, seed=1).key(),
        made(Background, tmp_path).key(),
        made(Background, tmp_path, min_std=17).key(),
        made(Rotated, tmp_path, None).key(),
    }
    assert len(keys) == 6
    before = made(Rotated, tmp_path).key()
    assert before == made(Rotated, tmp_path).key()
    os.utime(write_base(tmp_path, images(seed=1)), (1, 1))
    assert before != made(Rotated, tmp_path).key()


# -- MNIST from OpenML ------------------------------------------------------------------------------------------------


def test_without_a_file_the_base_is_the_one_of_conf_data_mnist():
    source = OmegaConf.to_container(OmegaConf.load(CONF / "data" / "mnist.yaml").source, resolve=False)
    del source["_target_"], source["cache"]
    assert {**variations.MNIST, "shape": list(variations.MNIST["shape"])} == source


def small_mnist(monkeypatch, fetch):
    monkeypatch.setattr(variations, "MNIST", variations.MNIST | {"shape": (1, 11, 11), "classes": 4, "count": 120})
    variations.MNIST["test_count"] = 20
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)


def test_without_a_file_mnist_is_fetched(tmp_path, monkeypatch):
    labels = np.array([str(number % 4) for number in range(120)], dtype=object)
    found = SimpleNamespace(data=images().reshape(120, -1).astype(float), target=labels)
    small_mnist(monkeypatch, lambda **_: found)
    write_base(tmp_path)
    fetched, local = made(Rotated, tmp_path, None).load(), made(Rotated, tmp_path).load()
    assert (fetched.kind, fetched.generated, fetched.sha256) == ("openml", True, local.sha256)


def test_without_a_network_one_line_names_the_base(tmp_path, monkeypatch):
    def fetch(**_):
        raise TimeoutError("timed out")

    small_mnist(monkeypatch, fetch)
    with pytest.raises(ConfigError) as caught:
        made(Rotated, tmp_path, None).load()
    message = str(caught.value)
    assert message.startswith("data.source.path must name a local .npz file (data.source.path=FILE.npz, or mnist.npz")
    assert "\n" not in message


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"name": ""}, "source.name"),
        ({"name": "../x"}, "source.name"),
        ({"path": 5}, "source.path"),
        ({"seed": -1}, "source.seed"),
        ({"seed": 2**32}, "source.seed"),
        ({"seed": True}, "source.seed"),
        ({"seed": 0.5}, "source.seed"),
        ({"train_count": 1}, "source.train_count"),
        ({"test_count": 0}, "source.test_count"),
        ({"cache": ""}, "source.cache"),
        ({"min_std": -1}, "source.min_std"),
        ({"min_std": "much"}, "source.min_std"),
    ],
)
def test_bad_arguments_are_named(tmp_path, changes, key):
    with pytest.raises(ConfigError) as caught:
        made(Background, tmp_path, **changes)
    assert caught.value.key == key


def refusal(source):
    with pytest.raises(ConfigError) as caught:
        source.load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_base_that_is_not_there_or_damaged_is_named(tmp_path):
    missing = made(Rotated, tmp_path, str(tmp_path / "nowhere.npz"))
    assert refusal(missing).startswith("data.source.path must name a .npz file that exists, got ")
    with pytest.raises(ConfigError, match=r"^data\.source\.path must name a .npz file that exists"):
        missing.key()
    (tmp_path / "base.npz").write_bytes(b"no")
    assert refusal(made(Rotated, tmp_path)).startswith("data.source.path must name a .npz file written by numpy.savez")


def test_a_base_that_does_not_do_is_refused(tmp_path):
    write_base(tmp_path)
    line = refusal(made(Rotated, tmp_path, train_count=100, test_count=50))
    rule = "data.source.path must name a .npz file of at least train_count + test_count = 150 images (here: 120), got "
    assert line.startswith(rule)
    write_base(tmp_path, np.repeat(images()[..., None], 3, -1))
    assert "of gray images (here: 3 colours)" in refusal(made(Rotated, tmp_path))
    write_base(tmp_path, np.zeros((120, 2, 641), np.uint8))
    assert "fit into photographs of (427, 640) pixels (here: (2, 641))" in refusal(made(Background, tmp_path))


def test_a_deviation_that_no_piece_has_is_refused(tmp_path):
    write_base(tmp_path)
    assert refusal(made(Background, tmp_path, min_std=127)).startswith("data.source.min_std must leave some")


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    write_base(tmp_path)
    (tmp_path / "file").write_text("")
    line = refusal(made(Rotated, tmp_path, cache=str(tmp_path / "file" / "cache")))
    assert line.startswith("data.source.cache must name a folder (Not a directory), got ")


# -- real data --------------------------------------------------------------------------------------------------------

MNIST_FILE = Path(os.environ.get("CAPSEXP_DATA", ""), "mnist.npz")


@pytest.mark.real_data
@pytest.mark.skipif(not MNIST_FILE.is_file(), reason="CAPSEXP_DATA names no folder with mnist.npz")
@pytest.mark.parametrize("name", ["rmnist", "bmnist"])
def test_the_real_variations(name, tmp_path):
    config = OmegaConf.to_container(OmegaConf.load(CONF / "data" / f"{name}.yaml").source, resolve=False)
    kind = {"rmnist": Rotated, "bmnist": Background}[name]
    del config["_target_"]
    loaded = kind(**(config | {"path": str(MNIST_FILE), "cache": str(tmp_path)})).load()
    assert (loaded.x_train.shape, loaded.x_test.shape) == ((12_000, 1, 28, 28), (50_000, 1, 28, 28))
    with np.load(MNIST_FILE) as stored:
        shares = np.bincount(np.concatenate([stored["y_train"], stored["y_test"]])) / 70_000
    for labels in (loaded.y_train, loaded.y_test):
        assert abs(np.bincount(labels) / len(labels) - shares).max() < 0.01
    assert len({image.tobytes() for image in whole(loaded)}) > 61_900
    if name == "rmnist":
        assert (whole(loaded)[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 0).mean() > 0.99
    else:
        assert (whole(loaded).max((1, 2)) > 200).all()
        assert (whole(loaded) == 0).mean() < 0.05
