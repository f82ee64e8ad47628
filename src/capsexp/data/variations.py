"""Variations of MNIST, computed from MNIST: turned digits, and digits before pieces of photographs.

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
"""Where the digits come from if no file is named: the source of ``conf/data/mnist.yaml``."""

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]
Stored = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]
"""x_train, y_train, x_test and y_test, as :class:`Arrays` has them."""


@dataclass(frozen=True)
class Variation(ABC):
    """Images that are computed from other gray images, once, and kept as a ``.npz`` file.

    The base's training images and then its test images, in their order, are permuted with ``seed``.  The first
    ``train_count`` of them become the training part, the next ``test_count`` the test part.  The same numbers come out
    on any machine; all random draws are numpy's ``RandomState``, whose streams are frozen.

    Attributes:
        name: what to call the data set in results; also the start of the kept file's name.
        path: the base, a ``.npz`` file such as :class:`Npz` reads; None = MNIST from OpenML.
        seed: 0..2^32-1; decides which images are taken and how they are varied.
        train_count: training images.
        test_count: test images.
        cache: folder in which the images are kept (and MNIST, where it is fetched).
    """

    name: str
    path: str | None
    seed: int
    train_count: int
    test_count: int
    cache: str

    VERSION: ClassVar[int] = 1
    """To be raised when the same settings give other pixels: a kept file of another version is not read."""

    def __post_init__(self) -> None:
        # A variation is made inside a data module's config, under the key "source".
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
        """Images of the same shape, each varied on its own.

        Args:
            images_NHW: uint8, at least one image.
            random: the only origin of randomness.

        Raises:
            ConfigError: if images of this size cannot be varied.
        """

    def key(self) -> Hashable:
        """All settings, and the base's key."""
        with _about_the_base():
            return (type(self).__name__, *astuple(self), self._base.key())

    def load(self) -> Arrays:
        """Read the kept file, making it first where there is none.

        Raises:
            ConfigError: key ``data.source.path``, if the base cannot be had, is not gray or has too few images; key
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

    def _digits(self, base: Arrays) -> Labelled:
        """The base's images (N, H, W) and labels, training part first."""
        parts = [(base.x_train, base.y_train)]
        if base.x_test is not None and base.y_test is not None:
            parts.append((base.x_test, base.y_test))
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        rule = f"name a .npz file of gray images (here: {images.shape[1]} colours)"
        require(images.shape[1] == 1, "data.source.path", rule, self.path)
        wanted = self.train_count + self.test_count
        rule = f"name a .npz file of train_count + test_count = {wanted} images at least (here: {len(images)})"
        require(len(images) >= wanted, "data.source.path", rule, self.path)
        return images[:, 0], labels

    def _file(self, images_NHW: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> Path:
        """The kept file; its name tells what it was made from."""
        # As floats, since 16 and 16.0 are the same.
        settings = {key: float(value) for key, value in vars(self).items() if key not in ("name", "path", "cache")}
        made_by = f"{type(self).__name__} {sorted(settings.items())}"
        origin = hashlib.sha256((made_by + content_sha256(images_NHW, labels_N)).encode()).hexdigest()
        name = f"{self.name}-v{self.VERSION}-seed{self.seed}-{origin[:16]}.npz"
        return Path(self.cache).expanduser() / name

    def _make_once(self, file: Path, images_NHW: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> Stored:
        from filelock import FileLock

        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError("data.source.cache", f"name a folder ({error.strerror})", self.cache) from error
        # The cells of a sweep start together: one makes the images, the others wait and then read its file.
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

    def _read_kept(self, file: Path, images_NHW: NDArray[np.uint8]) -> Stored | None:
        """The kept file's arrays; None where there is none, or not a whole one of this form (it is then replaced)."""
        try:
            stored: Stored = checked(read(file, NAMES))
        except MalformedError:
            return None
        counts = (self.train_count, self.test_count)
        wanted = [(count, 1, *images_NHW.shape[1:]) for count in counts]
        return stored if [stored[0].shape, stored[2].shape] == wanted else None


@dataclass(frozen=True)
class Rotated(Variation):
    """Each image turned about its middle by an angle of its own, uniform in [0, 2 pi); black comes in (mnist-rot)."""

    def vary(self, images_NHW: NDArray[np.uint8], random: RandomState) -> NDArray[np.uint8]:
        """Draw N angles and turn."""
        return rotated(images_NHW, random.random_sample(len(images_NHW)) * 2 * math.pi)


@dataclass(frozen=True)
class Background(Variation):
    """Each image before a piece of a photograph of its own, pixel by pixel the brighter of both (mnist-back-image).

    The pieces are drawn from all places of scikit-learn's two photographs (in gray) at which there is some texture, all
    of them equally likely.

    Attributes:
        min_std: least standard deviation of the pixels of a piece, on the scale 0..255.
    """

    min_std: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("source.min_std", self.min_std, 0, 127)

    def vary(self, images_NHW: NDArray[np.uint8], random: RandomState) -> NDArray[np.uint8]:
        """Draw N places in the photographs and lay the digits over them."""
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
    """Digest of arrays of whole numbers by their shapes and values, in hexadecimal; the same on any machine."""
    digest = hashlib.sha256()
    for array in arrays:
        values = np.ascontiguousarray(array, dtype=np.uint8 if array.dtype == np.uint8 else "<i8")
        digest.update(repr((values.dtype.str, values.shape)).encode())
        digest.update(values.data)
    return digest.hexdigest()


@contextlib.contextmanager
def _about_the_base() -> Iterator[None]:
    """A base is named by another key than a data set of its own."""
    try:
        yield
    except ConfigError as error:
        if error.key != "data.path":
            raise
        rule = error.rule.replace("data.path=", "data.source.path=")
        raise ConfigError("data.source.path", rule, error.value) from error
