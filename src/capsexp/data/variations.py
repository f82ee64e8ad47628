"""Variations of MNIST, computed from MNIST: rotated digits, and digits in front of pieces of photographs.

Source: Larochelle, Erhan, Courville, Bergstra and Bengio 2007, *An Empirical Evaluation of Deep Architectures on
Problems with Many Factors of Variation*, section 4 (mnist-rot and mnist-back-image).
"""

import contextlib
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from capsexp.data.arrays import Arrays, MalformedError
from capsexp.data.npz import NAMES, Npz, checked, read
from capsexp.data.pixels import gray_photographs, rotated, textured, windows
from capsexp.data.sources import OpenML
from capsexp.errors import ConfigError, require, require_int, require_number
from capsexp.records import replacing

MNIST: dict[str, Any] = {
    "data_id": 554,
    "name": "mnist",
    "shape": (1, 28, 28),
    "classes": 10,
    "count": 70_000,
    "test_count": 10_000,
}
"""The source of the digits if no file is named, as in ``conf/data/mnist.yaml``."""

LabelledImages = tuple[NDArray[np.uint8], NDArray[np.int64]]
StoredArrays = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]
"""x_train, y_train, x_test and y_test, as in :class:`Arrays`."""


@dataclass(frozen=True)
class Variation(ABC):
    """Images that are computed once from other gray images, and kept as a ``.npz`` file.

    The training images of the base and then its test images, in their order, are permuted with ``seed``.  The first
    ``train_count`` of them become the training part, the next ``test_count`` the test part.  Every machine gives the
    same numbers: all random draws come from numpy's ``RandomState``, whose streams are frozen.

    Attributes:
        name: name of the data set in results, and the start of the name of the kept file.
        path: the base, a ``.npz`` file such as :class:`Npz` reads; None = MNIST from OpenML.
        seed: 0..2^32-1; determines the choice of images and their variation.
        train_count: number of training images.
        test_count: number of test images.
        cache: folder of the kept file (and of MNIST, if it is downloaded).
    """

    name: str
    path: str | None
    seed: int
    train_count: int
    test_count: int
    cache: str

    VERSION: ClassVar[int] = 1
    """Raise it when the same settings give other pixels: a kept file of another version is not read."""

    def __post_init__(self) -> None:
        # The config of a data module holds a variation under the key "source".
        named = isinstance(self.name, str) and self.name != "" and "/" not in self.name
        require(named, "source.name", "be a word that can begin a file's name", self.name)
        rule = "be the path of an .npz file, or null"
        require(self.path is None or (isinstance(self.path, str) and self.path != ""), "source.path", rule, self.path)
        require_int("source.seed", self.seed, 0, 2**32 - 1)
        require_int("source.train_count", self.train_count, 2)
        require_int("source.test_count", self.test_count, 1)
        require(isinstance(self.cache, str) and self.cache != "", "source.cache", "name a folder", self.cache)

    @abstractmethod
    def vary(self, images_NHW: NDArray[np.uint8], random: RandomState) -> NDArray[np.uint8]:
        """Images of the same shape, each varied separately.

        Args:
            images_NHW: uint8, at least one image.
            random: the only source of randomness.

        Raises:
            ConfigError: if images of this size cannot be varied.
        """

    def key(self) -> Hashable:
        """All settings, and the key of the base."""
        with _about_the_base():
            return (type(self).__name__, *astuple(self), self._base.key())

    def load(self) -> Arrays:
        """Read the kept file, after computing it if there is none.

        Raises:
            ConfigError: key ``data.source.path``, if the base is not available, is not gray or has too few images; key
                ``data.source.cache``, if the folder cannot be made.
        """
        with _about_the_base():
            base = self._base.load()
        images, labels = self._digits(base)
        file = self._file(images, labels)
        stored = self._read_kept(file, images) or self._make_once(file, images, labels)
        return Arrays(*stored, name=self.name, kind=base.kind, sha256=content_sha256(*stored), generated=True)

    @property
    def _base(self) -> Npz | OpenML:
        return OpenML(**MNIST, cache=self.cache) if self.path is None else Npz(self.path)

    def _digits(self, base: Arrays) -> LabelledImages:
        """The images (N, H, W) and labels of the base, training part first."""
        parts = [(base.x_train, base.y_train)]
        if base.x_test is not None and base.y_test is not None:
            parts.append((base.x_test, base.y_test))
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        rule = f"name a .npz file of gray images (here: {images.shape[1]} colours)"
        require(images.shape[1] == 1, "data.source.path", rule, self.path)
        wanted = self.train_count + self.test_count
        rule = f"name a .npz file of at least train_count + test_count = {wanted} images (here: {len(images)})"
        require(len(images) >= wanted, "data.source.path", rule, self.path)
        return images[:, 0], labels

    def _file(self, images_NHW: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> Path:
        """Path of the kept file; its name has a digest of the settings and of the base."""
        # As floats, since 16 and 16.0 are the same.
        settings = {key: float(value) for key, value in vars(self).items() if key not in ("name", "path", "cache")}
        made_by = f"{type(self).__name__} {sorted(settings.items())}"
        origin = hashlib.sha256((made_by + content_sha256(images_NHW, labels_N)).encode()).hexdigest()
        name = f"{self.name}-v{self.VERSION}-seed{self.seed}-{origin[:16]}.npz"
        return Path(self.cache).expanduser() / name

    def _make_once(self, file: Path, images_NHW: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> StoredArrays:
        from filelock import FileLock

        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError("data.source.cache", f"name a folder ({error.strerror})", self.cache) from error
        # The cells of a sweep start together: one computes the images, the others wait and then read its file.
        with FileLock(f"{file}.lock"):
            stored = self._read_kept(file, images_NHW)
            if stored is None:
                with replacing(file) as temporary, temporary.open("wb") as stream:
                    np.savez(stream, **self._made(images_NHW, labels_N))
                stored = self._read_kept(file, images_NHW)
        if stored is None:
            raise ConfigError("data.source.cache", f"name a folder from which {file.name} can be read back", self.cache)
        return stored

    def _made(self, images_NHW: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> dict[str, Any]:
        random, cut = RandomState(self.seed), self.train_count
        chosen = random.permutation(len(labels_N))[: cut + self.test_count]
        varied, labels = self.vary(images_NHW[chosen], random), labels_N[chosen]
        return {"x_train": varied[:cut], "y_train": labels[:cut], "x_test": varied[cut:], "y_test": labels[cut:]}

    def _read_kept(self, file: Path, images_NHW: NDArray[np.uint8]) -> StoredArrays | None:
        """The arrays of the kept file; None if it is missing, incomplete or of another form (it is then replaced)."""
        try:
            stored: StoredArrays = checked(read(file, NAMES))
        except MalformedError:
            return None
        counts = (self.train_count, self.test_count)
        wanted = [(count, 1, *images_NHW.shape[1:]) for count in counts]
        return stored if [stored[0].shape, stored[2].shape] == wanted else None


@dataclass(frozen=True)
class Rotated(Variation):
    """Each image rotated about its centre by an angle uniform in [0, 2 pi), with black outside (mnist-rot)."""

    def vary(self, images_NHW: NDArray[np.uint8], random: RandomState) -> NDArray[np.uint8]:
        """The rotated images, by N random angles."""
        return rotated(images_NHW, random.random_sample(len(images_NHW)) * 2 * math.pi)


@dataclass(frozen=True)
class Background(Variation):
    """Each image in front of its own piece of a photograph; each pixel is the brighter of the two (mnist-back-image).

    The pieces come from the textured places of scikit-learn's two photographs (in gray), all of which are equally
    likely.

    Attributes:
        min_std: smallest standard deviation of the pixels of a textured piece, on the scale 0..255.
    """

    min_std: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("source.min_std", self.min_std, 0, 127)

    def vary(self, images_NHW: NDArray[np.uint8], random: RandomState) -> NDArray[np.uint8]:
        """The digits over pieces of the photographs, from N random places."""
        photographs = gray_photographs()
        height, width = images_NHW.shape[1:]
        largest = photographs.shape[1:]
        rule = f"name a .npz file of images that fit into photographs of {largest} pixels (here: {(height, width)})"
        require(height <= largest[0] and width <= largest[1], "data.source.path", rule, self.path)
        places = textured(photographs, height, width, self.min_std)
        require(len(places) > 0, "data.source.min_std", "leave some of the photographs' pieces", self.min_std)
        drawn = places[random.randint(len(places), size=len(images_NHW), dtype=np.int64)]
        pieces: NDArray[np.uint8] = windows(photographs, height, width)[tuple(drawn.T)]
        return np.maximum(images_NHW, pieces)


def content_sha256(*arrays: NDArray[Any]) -> str:
    """Digest of the shapes and values of integer arrays, in hexadecimal; the same on any machine."""
    digest = hashlib.sha256()
    for array in arrays:
        values = np.ascontiguousarray(array, dtype=np.uint8 if array.dtype == np.uint8 else "<i8")
        digest.update(repr((values.dtype.str, values.shape)).encode())
        digest.update(values.data)
    return digest.hexdigest()


@contextlib.contextmanager
def _about_the_base() -> Iterator[None]:
    """Rename the key ``data.path`` of an error about the base to ``data.source.path``."""
    try:
        yield
    except ConfigError as error:
        if error.key != "data.path":
            raise
        rule = error.rule.replace("data.path=", "data.source.path=")
        raise ConfigError("data.source.path", rule, error.value) from error
