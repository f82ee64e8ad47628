"""The arrays that every source of images provides, their rules, and the cache that cells of a sweep share."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Kind = Literal["embedded", "npz", "openml"]


@dataclass(frozen=True)
class Arrays:
    """A data set in memory.  The arrays are shared between cells and read-only.

    Attributes:
        x_train: uint8 (N, C, H, W), values 0..255.
        y_train: int64 (N,), 0..K-1, every class present.
        x_test: as ``x_train``, or None where no split into training and test part was published.
        y_test: as ``y_train`` (a class may be absent), or None together with ``x_test``.
        name: name of the data set in results.
        kind: "embedded" (ships with a library), "npz" (a local file) or "openml".
        sha256: digest of the file that was read, in hexadecimal; None where no file was read.
        generated: True if the images were computed from those of another data set.
    """

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8] | None
    y_test: NDArray[np.int64] | None
    name: str
    kind: Kind
    sha256: str | None = None
    generated: bool = False

    def __post_init__(self) -> None:
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            if array is not None:
                array.setflags(write=False)

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return int(self.y_train.max()) + 1


@runtime_checkable
class Source(Protocol):
    """A source of images.  Its construction is cheap; :meth:`load` does the loading."""

    def load(self) -> Arrays:
        """Read, check and return the arrays.

        Raises:
            ConfigError: if there is nothing to read, or if the data break a rule.
        """

    def key(self) -> Hashable:
        """A key that identifies the content of this source within one process."""


CACHED = 2
"""Number of data sets kept in memory: the one in use and the previous one (MNIST takes 55 MB, DHCD 94 MB)."""

_cache: OrderedDict[Hashable, Arrays] = OrderedDict()


def load_cached(source: Source) -> Arrays:
    """``source.load()``, cached within this process, so that the cells of a sweep read a file once."""
    key = source.key()
    if key not in _cache:
        _cache[key] = source.load()
    _cache.move_to_end(key)
    while len(_cache) > CACHED:
        _cache.popitem(last=False)
    return _cache[key]


class MalformedError(ValueError):
    """The error for an array that breaks a rule.

    Attributes:
        rule: the rule that must hold; it continues the sentence "name a file ...".
        found: a description of the data that break it.
    """

    def __init__(self, rule: str, found: str) -> None:
        super().__init__(rule, found)
        self.rule, self.found = rule, found


def _insist(condition: bool, rule: str, found: str) -> None:
    if not condition:
        raise MalformedError(rule, found)


def _cured(found: str, cure: str) -> str:
    """What was found, with the line of numpy that makes it right."""
    return f"{found}; {cure} makes it right" if cure else found


def _of_another_type(name: str, images: NDArray[Any]) -> str:
    holes = int(np.isnan(images).sum()) if images.dtype.kind == "f" else 0
    found = f"{images.dtype}{f' with {holes} NaN' if holes else ''}"
    if images.dtype.kind not in "fiu" or holes or not images.size:
        return found
    lowest, highest, real = images.min(), images.max(), images.dtype.kind == "f"
    cure = ""
    if real and lowest >= 0 and highest <= 1:
        cure = f"(255 * {name}).round().astype(np.uint8)"
    elif lowest >= 0 and highest <= 255:
        cure = f"{name}{'.round()' if real else ''}.astype(np.uint8)"
    return _cured(f"{found} from {lowest:g} to {highest:g}", cure)


def _of_another_shape(name: str, images: NDArray[Any]) -> str:
    cure = ""
    if images.ndim == 4:
        cure = f"{name}[:, 0]" if images.shape[1] == 1 else f"{name}[..., 0]" if images.shape[-1] == 1 else ""
        cure = f"np.moveaxis({name}, 1, -1)" if images.shape[1] == 3 else cure
    return _cured(f"shape {images.shape}", cure)


def _no_integers(name: str, labels: NDArray[Any]) -> str:
    holes = int(np.isnan(labels).sum()) if labels.dtype.kind == "f" else 0
    found = f"{labels.dtype}{f' with {holes} NaN' if holes else ''}"
    whole = labels.dtype.kind in "fb" and not holes and bool((labels == labels.round()).all())
    return _cured(found, f"{name}.astype(np.int64)" if whole else "")


def checked_images(name: str, images: NDArray[Any]) -> NDArray[np.uint8]:
    """``images`` of shape (N, H, W) or (N, H, W, 3) as uint8 (N, C, H, W).

    Args:
        name: name of the array in an error.
        images: any array.

    Raises:
        MalformedError: if the type, the number of dimensions or the number of colours is wrong, or the array is empty.
    """
    if images.dtype != np.uint8:
        raise MalformedError(f"whose {name} has type uint8 with values 0..255", _of_another_type(name, images))
    gray, colour = images.ndim == 3, images.ndim == 4 and images.shape[-1] == 3
    if not (gray or colour):
        raise MalformedError(f"whose {name} has shape (N, H, W) or (N, H, W, 3)", _of_another_shape(name, images))
    _insist(images.size > 0, f"whose {name} holds images", f"shape {images.shape}")
    return images[:, None] if gray else np.moveaxis(images, -1, 1)


def checked_labels(name: str, labels: NDArray[Any], count: int) -> NDArray[np.int64]:
    """``labels`` of shape (N,) or (N, 1) as non-negative int64 (N,).

    Args:
        name: name of the array in an error.
        labels: any array.
        count: number of images.

    Raises:
        MalformedError: if the shape, the type, the length or a value breaks its rule.
    """
    column = labels.ndim == 2 and labels.shape[1] == 1
    _insist(labels.ndim == 1 or column, f"whose {name} has shape (N,)", f"shape {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise MalformedError(f"whose {name} holds whole numbers of an integer type", _no_integers(name, labels))
    _insist(len(labels) == count, f"whose {name} has one label per image", f"{len(labels)} labels, {count} images")
    lowest, highest = int(labels.min()), int(labels.max())
    _insist(lowest >= 0, f"whose {name} holds labels from 0", f"label {lowest}")
    # A larger unsigned label would turn negative in the conversion to int64 below.
    _insist(highest <= np.iinfo(np.int64).max, f"whose {name} holds labels 0..K-1", f"label {highest}")
    return labels.reshape(-1).astype(np.int64)


def check_classes(y_train: NDArray[np.int64], y_test: NDArray[np.int64] | None) -> None:
    """Check that labels are 0..K-1, with every class in the training part and at least two classes.

    Raises:
        MalformedError: with the first class that is missing, or the label that is too large.
    """
    present = np.unique(y_train)
    gaps = np.flatnonzero(present != np.arange(len(present)))
    rule = f"whose y_train holds every class 0..{present[-1]}"
    from_one = np.array_equal(present, np.arange(1, len(present) + 1))
    cure = "; labels begin at 0: subtract 1 from y_train and y_test" if from_one else ""
    _insist(len(gaps) == 0, rule, f"class {gaps[0] if len(gaps) else ''} has no image{cure}")
    _insist(len(present) >= 2, "whose y_train holds at least two classes", "one class")
    if y_test is not None:
        highest = int(y_test.max())
        rule = f"whose y_test holds the training labels 0..{present[-1]}"
        _insist(highest < len(present), rule, f"label {highest}")


def check_same_shape(x_train: NDArray[np.uint8], x_test: NDArray[np.uint8]) -> None:
    """Check that training and test images have the same size and number of colours.

    Raises:
        MalformedError: with both shapes, as (C, H, W).
    """
    found = f"{x_train.shape[1:]} and {x_test.shape[1:]}, channels first"
    _insist(x_train.shape[1:] == x_test.shape[1:], "whose x_train and x_test hold images of one shape", found)
