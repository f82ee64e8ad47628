import http.client
import subprocess
import sys
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import sklearn.datasets

from capsexp.data import arrays as arrays_module
from capsexp.data.arrays import load_cached
from capsexp.data.npz import Npz
from capsexp.data.sources import Digits, OpenML, numbered
from capsexp.errors import ConfigError


class Fetch:
    """Stands in for scikit-learn's fetch_openml and counts the calls."""

    def __init__(self, data, target, error=None):
        self.data, self.target, self.error, self.calls = data, target, error, []

    def __call__(self, **arguments):
        self.calls.append(arguments)
        if self.error is not None:
            raise self.error
        return SimpleNamespace(data=self.data, target=self.target)


def rows(count=30, values=12):
    return np.random.RandomState(0).randint(0, 256, (count, values)).astype(float)


def words(count=30, classes=3):
    return np.array([str(number % classes) for number in range(count)], dtype=object)


@pytest.fixture
def fetch(monkeypatch):
    stand_in = Fetch(rows(), words())
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", stand_in)
    return stand_in


def openml(folder, **changes):
    settings = {"data_id": 1, "name": "fake", "shape": [3, 2, 2], "classes": 3, "count": 30, "test_count": 6}
    return OpenML(**(settings | {"cache": str(folder)} | changes))


def refusal(source):
    with pytest.raises(ConfigError) as caught:
        source.load()
    message = str(caught.value)
    assert message.startswith("data.path must name a local .npz file (data.path=FILE.npz, or fake.npz in a folder")
    assert "CAPSEXP_DATA" in message
    assert "\n" not in message
    return message


# -- digits -----------------------------------------------------------------------------------------------------------


def bilinear_reference(small, size):
    """One pixel at a time: sample positions at pixel centres, clamped at the border."""
    height, width = small.shape
    large = np.empty((size, size))
    for y in range(size):
        for x in range(size):
            v = min(max((y + 0.5) * height / size - 0.5, 0), height - 1)
            u = min(max((x + 0.5) * width / size - 0.5, 0), width - 1)
            top, left = int(v), int(u)
            low, right = min(top + 1, height - 1), min(left + 1, width - 1)
            above = small[top, left] * (1 - (u - left)) + small[top, right] * (u - left)
            below = small[low, left] * (1 - (u - left)) + small[low, right] * (u - left)
            large[y, x] = above * (1 - (v - top)) + below * (v - top)
    return large


def test_digits_are_scikit_learns_enlarged():
    loaded = Digits().load()
    original = sklearn.datasets.load_digits()
    assert loaded.x_train.shape == (1797, 1, 32, 32)
    assert loaded.x_train.dtype == np.uint8
    assert (loaded.x_train.min(), loaded.x_train.max()) == (0, 255)
    assert np.array_equal(loaded.y_train, original.target)
    assert (loaded.x_test, loaded.y_test, loaded.classes, loaded.kind) == (None, None, 10, "embedded")
    for index in (0, 700, 1796):
        expected = np.rint(bilinear_reference(original.images[index], 32) * 255 / 16)
        assert np.array_equal(loaded.x_train[index, 0], expected)


# -- OpenML -----------------------------------------------------------------------------------------------------------


def test_planes_become_channels_and_the_last_rows_the_test_part(fetch, tmp_path):
    loaded = openml(tmp_path).load()
    assert (loaded.x_train.shape, loaded.x_test.shape) == ((24, 3, 2, 2), (6, 3, 2, 2))
    assert np.array_equal(loaded.x_train.reshape(24, 12), fetch.data[:24])
    assert np.array_equal(loaded.x_test.reshape(6, 12), fetch.data[24:])
    assert np.array_equal(loaded.y_test, np.arange(24, 30) % 3)
    assert (loaded.name, loaded.kind, len(loaded.sha256)) == ("fake", "openml", 64)
    assert fetch.calls == [{"data_id": 1, "as_frame": False, "parser": "liac-arff", "cache": False}]


def test_gray_images_without_a_published_test_part(fetch, tmp_path):
    loaded = openml(tmp_path, shape=[1, 3, 4], test_count=0).load()
    assert loaded.x_train.shape == (30, 1, 3, 4)
    assert (loaded.x_test, loaded.y_test) == (None, None)


def test_what_was_fetched_is_kept_and_not_fetched_again(fetch, tmp_path):
    first, second = openml(tmp_path).load(), openml(tmp_path).load()
    assert len(fetch.calls) == 1
    assert np.array_equal(first.x_train, second.x_train)
    assert np.array_equal(first.y_test, second.y_test)
    assert first.sha256 == second.sha256


def test_the_kept_file_serves_as_a_local_file(fetch, tmp_path):
    source = openml(tmp_path)
    loaded = source.load()
    assert np.array_equal(Npz(str(source.file)).load().x_train, loaded.x_train)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut short"])
def test_a_damaged_kept_file_is_fetched_again(fetch, tmp_path, damage):
    source = openml(tmp_path)
    source.load()
    source.file.write_bytes(damage)
    assert source.load().x_train.shape == (24, 3, 2, 2)
    assert len(fetch.calls) == 2


def test_a_kept_file_of_another_form_is_fetched_again(fetch, tmp_path):
    openml(tmp_path).load()
    assert openml(tmp_path, shape=[1, 3, 4]).load().x_train.shape == (24, 1, 3, 4)
    assert len(fetch.calls) == 2


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["10", "9", "2", "9"], [2, 1, 0, 1]),
        (["character_2", "character_10", "digit_0"], [1, 0, 2]),
        ([3.0, -1.0, 3.0], [1, 0, 1]),
    ],
)
def test_labels_are_numbered_in_numeric_order_else_alphabetically(labels, expected):
    assert numbered(np.array(labels, dtype=object)).tolist() == expected


@pytest.mark.parametrize(
    ("data", "target", "found"),
    [
        (rows(29), words(29), "it has (29, 12) values and (29,) labels"),
        (rows(30, 11), words(), "it has (30, 11) values"),
        (rows(), words(29), "and (29,) labels"),
        (rows(), words(classes=4), "it has 4 classes"),
        (rows() + 1000, words(), "not numbers 0..255"),
        (rows() - 256, words(), "not numbers 0..255"),
        (np.where(rows() > 200, np.nan, 1), words(), "not numbers 0..255"),
        (rows() / 2, words(), "not whole numbers"),
        (rows().astype(object), words(), "not numbers 0..255"),
    ],
)
def test_anything_but_what_was_expected_is_refused(fetch, tmp_path, data, target, found):
    fetch.data, fetch.target = data, target
    assert found in refusal(openml(tmp_path))
    assert not openml(tmp_path).file.exists()


@pytest.mark.parametrize(
    "error",
    [
        URLError("Temporary failure in name resolution"),
        TimeoutError("timed out"),
        ConnectionResetError(104, "Connection reset by peer"),
        ValueError("md5 checksum does not match\nsecond line"),
        http.client.IncompleteRead(b"half"),
        EOFError("Compressed file ended before the end-of-stream marker was reached"),
    ],
)
def test_no_network_is_one_line_that_says_what_to_do(fetch, tmp_path, error):
    fetch.error = error
    assert f"could not be fetched ({type(error).__name__}: " in refusal(openml(tmp_path))


def test_a_cache_that_cannot_be_made_is_named(fetch, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^data\.source\.cache must name a folder \(Not a directory\)"):
        openml(tmp_path / "file" / "cache").load()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"data_id": 0}, "source.data_id"),
        ({"shape": [28, 28]}, "source.shape"),
        ({"shape": [2, 28, 28]}, "source.shape"),
        ({"shape": [1, 28, 0]}, "source.shape"),
        ({"classes": 1}, "source.classes"),
        ({"count": 2}, "source.count"),
        ({"test_count": 30}, "source.test_count"),
        ({"test_count": -1}, "source.test_count"),
        ({"cache": ""}, "source.cache"),
    ],
)
def test_bad_arguments_are_named(tmp_path, changes, key):
    with pytest.raises(ConfigError) as caught:
        openml(tmp_path, **changes)
    assert caught.value.key == key


def test_making_sources_imports_no_scikit_learn():
    code = "import sys; from capsexp.data.sources import Digits; Digits(); sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- the cache between cells ------------------------------------------------------------------------------------------


class Counted:
    def __init__(self, name):
        self.name, self.loads = name, 0

    def key(self):
        return self.name

    def load(self):
        self.loads += 1
        return object()


def test_the_last_two_data_sets_stay_in_memory(monkeypatch):
    monkeypatch.setattr(arrays_module, "_cache", arrays_module.OrderedDict())
    first, second, third = (Counted(name) for name in "abc")
    assert load_cached(first) is load_cached(first)
    load_cached(second)
    load_cached(first)
    load_cached(third)  # the second was used longest ago
    load_cached(first)
    load_cached(second)
    assert (first.loads, second.loads, third.loads) == (1, 2, 1)
