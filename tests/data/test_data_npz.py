import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capsexp.data.npz import Npz
from capsexp.errors import ConfigError
from capsexp.records import file_sha256


def good(count=20, classes=2, shape=(6, 6)):
    random = np.random.RandomState(0)
    return {
        "x_train": random.randint(0, 256, (count, *shape)).astype(np.uint8),
        "y_train": np.arange(count) % classes,
        "x_test": random.randint(0, 256, (count // 2, *shape)).astype(np.uint8),
        "y_test": np.arange(count // 2) % classes,
    }


def written(folder, arrays, name="fake.npz"):
    path = folder / name
    np.savez_compressed(path, **arrays)
    return path


def refusal(path):
    with pytest.raises(ConfigError) as caught:
        Npz(str(path)).load()
    message = str(caught.value)
    assert message.startswith("data.path must name a .npz file ")
    assert "\n" not in message
    assert message.endswith(f"got {str(path)!r}")
    return message


def test_gray_and_colour_images_come_back_channels_first(tmp_path):
    gray, colour = good(), good(shape=(6, 5, 3))
    loaded = Npz(str(written(tmp_path, gray))).load()
    assert np.array_equal(loaded.x_train[:, 0], gray["x_train"])
    assert np.array_equal(loaded.y_test, gray["y_test"])
    assert loaded.y_train.dtype == np.int64
    assert loaded.classes == 2
    loaded = Npz(str(written(tmp_path, colour))).load()
    assert loaded.x_test.shape == (10, 3, 6, 5)
    assert np.array_equal(loaded.x_test[4, 2], colour["x_test"][4, :, :, 2])


def test_a_file_is_known_by_its_name_and_its_digest(tmp_path):
    path = written(tmp_path, good(), "letters.npz")
    loaded = Npz(str(path)).load()
    assert (loaded.name, loaded.kind, loaded.generated) == ("letters", "npz", False)
    assert loaded.sha256 == file_sha256(path)


def test_arrays_cannot_be_changed(tmp_path):
    loaded = Npz(str(written(tmp_path, good()))).load()
    with pytest.raises(ValueError, match="read-only"):
        loaded.x_train[0] = 0


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.uint64])
def test_labels_may_be_of_any_integer_type_and_in_a_column(tmp_path, kind):
    arrays = good()
    columns = arrays | {name: arrays[name].astype(kind)[:, None] for name in ("y_train", "y_test")}
    loaded = Npz(str(written(tmp_path, columns))).load()
    assert np.array_equal(loaded.y_train, arrays["y_train"])


def test_the_test_part_may_lack_a_class(tmp_path):
    arrays = good(classes=5) | {"y_test": np.zeros(10, int)}
    assert Npz(str(written(tmp_path, arrays))).load().classes == 5


X, Y = good()["x_train"], good()["y_train"]
WITH_NAN = np.where(np.arange(20) == 3, np.nan, 1.0)
MALFORMED = {
    "float images": (
        {"x_train": X / 255},
        "x_train has type uint8",
        "float64 from 0 to 1; (255 * x_train).round().astype(np.uint8) makes it right)",
    ),
    "float images up to 255": (
        {"x_train": X.astype(np.float32)},
        "x_train has type uint8",
        "float32 from 0 to 255; x_train.round().astype(np.uint8) makes it right)",
    ),
    "images around zero": ({"x_train": X / 128 - 1}, "x_train has type uint8", "float64 from -1 to 0.992188)"),
    "channels first": ({"x_train": X[:, None]}, "x_train has shape", "(20, 1, 6, 6); x_train[:, 0] makes it right)"),
    "colours first": (
        {"x_train": X[:, None].repeat(3, 1)},
        "x_train has shape",
        "(20, 3, 6, 6); np.moveaxis(x_train, 1, -1) makes it right)",
    ),
    "NaN in images": ({"x_train": np.where(X > 250, np.nan, 1.0)}, "x_train has type uint8", " NaN"),
    "wide images": (
        {"x_test": X[:10].astype(np.int32)},
        "x_test has type uint8",
        "int32 from 0 to 255; x_test.astype(np.uint8)",
    ),
    "flat images": ({"x_train": X.reshape(20, 36)}, "x_train has shape (N, H, W)", "(20, 36)"),
    "two colours": ({"x_train": X[..., None].repeat(2, -1)}, "x_train has shape", "(20, 6, 6, 2)"),
    "no images": ({"x_train": X[:0], "y_train": Y[:0]}, "x_train holds images", "(0, 6, 6)"),
    "no test images": ({"x_test": X[:0], "y_test": Y[:0]}, "x_test holds images", "(0, 6, 6)"),
    "one-hot labels": ({"y_train": np.eye(2, dtype=int)[Y]}, "y_train has shape (N,)", "(20, 2)"),
    "float labels": (
        {"y_train": Y.astype(float)},
        "y_train holds whole numbers",
        "float64; y_train.astype(np.int64) makes it right)",
    ),
    "labels between": ({"y_train": Y + 0.5}, "y_train holds whole numbers", "float64)"),
    "NaN in labels": ({"y_train": WITH_NAN}, "y_train holds whole numbers", "1 NaN"),
    "labels as words": ({"y_test": np.array(["a"] * 10)}, "y_test holds whole numbers", "<U1"),
    "truth values": ({"y_test": np.zeros(10, bool)}, "y_test holds whole numbers", "bool"),
    "negative label": ({"y_train": Y - 1}, "y_train holds labels from 0", "label -1"),
    "huge label": (
        {"y_train": np.where(Y, 2**64 - 1, 0).astype(np.uint64)},
        "y_train holds labels 0..K-1",
        "label 1844",
    ),
    "absent class": ({"y_train": Y * 2}, "y_train holds every class 0..2", "class 1 has no image"),
    "labels from one": (
        {"y_train": Y + 1},
        "y_train holds every class 0..2",
        "class 0 has no image; labels begin at 0: subtract 1 from y_train and y_test)",
    ),
    "new test label": ({"y_test": np.full(10, 2)}, "y_test holds the training labels 0..1", "label 2"),
    "negative test label": ({"y_test": np.full(10, -3)}, "y_test holds labels from 0", "label -3"),
    "one class": ({"y_train": Y * 0, "y_test": Y[:10] * 0}, "at least two classes", "one class"),
    "too few labels": ({"y_train": Y[:-1]}, "y_train has one label per image", "19 labels, 20 images"),
    "too many test labels": ({"y_test": Y}, "y_test has one label per image", "20 labels, 10 images"),
    "other test shape": ({"x_test": X[:10, :5]}, "images of one shape", "(1, 6, 6) and (1, 5, 6)"),
    "other test colours": ({"x_test": X[:10, ..., None].repeat(3, -1)}, "images of one shape", "(3, 6, 6)"),
    "pickled objects": ({"x_train": np.array([{}] * 20, dtype=object)}, "without pickled", "x_train"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_array_is_named_with_what_is_wrong(tmp_path, case):
    changes, rule, found = MALFORMED[case]
    message = refusal(written(tmp_path, good() | changes))
    assert rule in message
    assert found in message.split("(here: ", 1)[1]


@pytest.mark.parametrize("name", ["x_train", "y_train", "x_test", "y_test"])
def test_an_absent_array_is_named_with_those_that_are_there(tmp_path, name):
    arrays = good()
    arrays[name.upper()] = arrays.pop(name)
    there = ", ".join(arrays)
    assert f"(here: {name} is missing; the file holds {there})" in refusal(written(tmp_path, arrays))


def test_images_of_zeros_and_ones_are_warned_of(tmp_path, caplog):
    arrays = good()
    Npz(str(written(tmp_path, arrays))).load()
    assert caplog.messages == []
    Npz(str(written(tmp_path, arrays | {"x_train": arrays["x_train"] // 128}))).load()
    assert [message.partition(": ")[2][:34] for message in caplog.messages] == ["x_train holds no value above 1, of"]


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "that exists" in refusal(tmp_path / "none.npz")
    assert "and not a folder" in refusal(tmp_path)
    (tmp_path / "file").write_text("")
    assert "that can be read (here: Not a directory)" in refusal(tmp_path / "file" / "x.npz")


def test_names_with_odd_characters_stay_on_one_line(tmp_path):
    refusal(tmp_path / "two\nlines.npz")
    refusal("nul\0byte.npz")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00", b"PK\x03\x04" + b"\0" * 60])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "fake.npz"
    path.write_bytes(content)
    assert "not a .npz file, or cut short" in refusal(path)


def test_a_single_array_is_refused(tmp_path):
    path = tmp_path / "fake.npz"
    with path.open("wb") as stream:
        np.save(stream, X)
    assert "not a .npz file" in refusal(path)


def test_a_member_that_is_no_array_is_refused(tmp_path):
    path = written(tmp_path, good())
    with zipfile.ZipFile(path, "w") as archive:
        for name in good():
            archive.writestr(f"{name}.npy", b"words")
    assert "x_train is no array" in refusal(path)


def test_damage_that_shows_only_in_an_array_is_named(tmp_path):
    path = written(tmp_path, good(count=200))
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("x_test.npy")
        middle = member.header_offset + member.compress_size // 2
    content = bytearray(path.read_bytes())
    content[middle] ^= 0xFF
    path.write_bytes(content)
    assert "damaged at x_test" in refusal(path)


def _bytes(save):
    stream = io.BytesIO()
    save(stream, **good(count=8))
    return stream.getvalue()


def attempt(path):
    try:
        return Npz(str(path)).load(), ""
    except ConfigError as error:
        return None, str(error)


@given(st.sampled_from([_bytes(np.savez), _bytes(np.savez_compressed)]), st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_gives_anything_but_one_line(tmp_path, content, data):
    position = data.draw(st.integers(0, len(content) - 1))
    cut_short = data.draw(st.booleans())
    flipped = bytes([content[position] ^ data.draw(st.integers(1, 255))])
    damaged = content[:position] if cut_short else content[:position] + flipped + content[position + 1 :]
    path = Path(tmp_path) / "fake.npz"
    path.write_bytes(damaged)
    loaded, message = attempt(path)
    if loaded is None:
        assert "\n" not in message
        assert "fake.npz" in message
    else:
        # The flipped bit was one that nothing reads: a time stamp, say.
        assert np.array_equal(loaded.x_train[:, 0], good(count=8)["x_train"])


def test_the_key_changes_with_the_file(tmp_path):
    path = written(tmp_path, good())
    first = Npz(str(path)).key()
    assert first == Npz(str(path)).key()
    written(tmp_path, good(count=24))
    assert first != Npz(str(path)).key()
