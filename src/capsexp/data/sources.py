"""The sources of images without a local file: the digits of scikit-learn, and OpenML."""

import http.client
import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capsexp.data.arrays import Arrays, MalformedError
from capsexp.data.npz import Npz, checked, read
from capsexp.errors import ConfigError, require, require_int
from capsexp.records import file_sha256, replacing

__all__ = ["Digits", "Npz", "OpenML"]

DIGITS_MAXIMUM = 16
"""The largest value in the digits of scikit-learn."""


@dataclass(frozen=True)
class Digits:
    """The 1,797 handwritten digits that ship with scikit-learn, enlarged from 8x8 to 32x32 pixels.

    Source: the test part of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998).
    """

    def key(self) -> Hashable:
        """A constant, since there is only one such data set."""
        return ("digits",)

    def load(self) -> Arrays:
        """The digits, enlarged by bilinear interpolation, with values 0..16 scaled to 0..255."""
        import torch
        from sklearn.datasets import load_digits

        digits = load_digits()
        # float64 holds every intermediate value exactly (all are multiples of 1/1024), so the rounding is the same
        # on every machine.
        small = torch.tensor(digits.images, dtype=torch.float64)[:, None]
        large = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
        images = (large * 255 / DIGITS_MAXIMUM).round().to(torch.uint8).numpy()
        return Arrays(images, digits.target.astype(np.int64), None, None, name="digits", kind="embedded")


@dataclass(frozen=True)
class OpenML:
    """A data set of openml.org, downloaded once and kept as a ``.npz`` file.

    Attributes:
        data_id: number of the data set at OpenML.
        name: name of the data set in results, and of the kept file.
        shape: (C, H, W) of an image; OpenML's rows hold one colour plane after the other.
        classes: required number of classes.
        count: required number of images.
        test_count: number of images of the published test part, which come last; 0 where none was published.
        cache: folder of the kept file.
    """

    data_id: int
    name: str
    shape: Sequence[int]
    classes: int
    count: int
    test_count: int
    cache: str

    def __post_init__(self) -> None:
        # The config of a data module holds an OpenML under the key "source".
        require_int("source.data_id", self.data_id, 1)
        rule = "be [1 or 3, height, width]"
        require(len(self.shape) == 3 and self.shape[0] in (1, 3), "source.shape", rule, self.shape)
        for size in self.shape:
            require_int("source.shape", size, 1)
        require_int("source.classes", self.classes, 2)
        require_int("source.count", self.count, self.classes)
        require_int("source.test_count", self.test_count, 0, self.count - self.classes)
        require(bool(self.cache), "source.cache", "name a folder", self.cache)

    @property
    def file(self) -> Path:
        """The kept file; if it holds a published test part, it can also serve as ``data.path``."""
        return Path(self.cache).expanduser() / f"openml-{self.data_id}-{self.name}.npz"

    def key(self) -> Hashable:
        """The number at OpenML, and the settings for reading the rows."""
        return ("openml", self.data_id, tuple(self.shape), self.classes, self.count, self.test_count, str(self.file))

    def load(self) -> Arrays:
        """Read the kept file, after a download if there is none.

        Raises:
            ConfigError: key ``data.path``, if the download fails or gives something unexpected; key
                ``data.source.cache``, if the folder cannot be made.
        """
        kept = self._read_kept() or self._fetch_once()
        if kept is None:
            raise self._unavailable(f"the copy kept as {self.file} cannot be read back")
        return kept

    def _fetch_once(self) -> Arrays | None:
        from filelock import FileLock

        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError("data.source.cache", f"name a folder ({error.strerror})", self.cache) from error
        # The cells of a sweep start together: one downloads the file, the others wait and then read it.
        with FileLock(f"{self.file}.lock"):
            kept = self._read_kept()
            if kept is None:
                self._keep(*self._fetch())
                kept = self._read_kept()
        return kept

    def _read_kept(self) -> Arrays | None:
        """The arrays of the kept file; None if it is missing, incomplete or of another form (it is then replaced)."""
        names = ("x_train", "y_train") + (("x_test", "y_test") if self.test_count else ())
        try:
            arrays = checked(read(self.file, names))
        except MalformedError:
            return None
        if arrays[0].shape != (self.count - self.test_count, *self.shape):
            return None
        return Arrays(*arrays, name=self.name, kind="openml", sha256=file_sha256(self.file))

    def _fetch(self) -> tuple[NDArray[Any], NDArray[Any]]:
        from sklearn.datasets import fetch_openml

        try:
            with warnings.catch_warnings():
                # scikit-learn warns once per retry; the one error line below is enough.
                warnings.simplefilter("ignore")
                found = fetch_openml(data_id=self.data_id, as_frame=False, parser="liac-arff", cache=False)
        except (OSError, ValueError, EOFError, http.client.HTTPException) as error:
            raise self._unavailable(f"it could not be fetched ({type(error).__name__}: {error})") from error
        return np.asarray(found.data), np.asarray(found.target)

    def _keep(self, rows: NDArray[Any], labels: NDArray[Any]) -> None:
        """Check the downloaded data and write them in the form of :class:`Npz`."""
        if rows.shape != (self.count, math.prod(self.shape)) or labels.shape != (self.count,):
            raise self._unavailable(f"it has {rows.shape} values and {labels.shape} labels")
        numbers = numbered(labels)
        if numbers.max() + 1 != self.classes:
            raise self._unavailable(f"it has {numbers.max() + 1} classes")
        planes = self._pixels(rows).reshape(-1, *self.shape)
        images = planes[:, 0] if self.shape[0] == 1 else np.moveaxis(planes, 1, -1)
        cut = self.count - self.test_count
        arrays: dict[str, Any] = {"x_train": images[:cut], "y_train": numbers[:cut]}
        if self.test_count:
            arrays |= {"x_test": images[cut:], "y_test": numbers[cut:]}
        with replacing(self.file) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    def _pixels(self, rows: NDArray[Any]) -> NDArray[np.uint8]:
        # A NaN compares as false, so it fails here too.
        if not (rows.dtype.kind in "iuf" and rows.min() >= 0 and rows.max() <= 255):
            raise self._unavailable("its values are not numbers 0..255")
        pixels = rows.astype(np.uint8)
        if not np.array_equal(pixels, rows):
            raise self._unavailable("its values are not whole numbers")
        return pixels

    def _unavailable(self, why: str) -> ConfigError:
        wanted = f"{self.count} images of shape {list(self.shape)} in {self.classes} classes"
        rule = (
            f"name a local .npz file (data.path=FILE.npz, or {self.name}.npz in a folder named by the environment "
            f"variable CAPSEXP_DATA) where OpenML's data set {self.data_id} ({self.name}, {wanted}) is not available: "
            f"{why}"
        )
        return ConfigError("data.path", " ".join(rule.split()), None)


def numbered(labels_N: NDArray[Any]) -> NDArray[np.int64]:
    """Labels of any kind as numbers 0..K-1: in numeric order where all are numbers, else in alphabetical order."""
    words = labels_N.astype(str)
    try:
        values: NDArray[Any] = words.astype(np.float64)
    except ValueError:
        values = words
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)
