"""Local files in the format that Keras uses: one ``.npz`` with x_train, y_train, x_test and y_test."""

import logging
import os
import tokenize
import zipfile
import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capsexp.data.arrays import Arrays, MalformedError, check_classes, check_same_shape, checked_images, checked_labels
from capsexp.errors import ConfigError
from capsexp.records import file_sha256

log = logging.getLogger(__name__)

MOST_NAMES = 8
"""Names of other arrays in an error at most."""

NAMES = ("x_train", "y_train", "x_test", "y_test")

# The exceptions that zipfile, zlib and numpy's reader raise for damaged bytes, depending on the position of the damage.
_DAMAGE = (
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Npz:
    """Images and labels from one ``.npz`` file.

    The file holds ``x_train`` and ``x_test``, uint8 of shape (N, H, W) or (N, H, W, 3) with values 0..255, and
    ``y_train`` and ``y_test``, integers 0..K-1 of shape (N,) or (N, 1).  Every class occurs in ``y_train``.  Files with
    pickled objects raise an error, since loading such objects runs code.

    Attributes:
        path: the file; its name without the ending is the data set's name.
    """

    path: str

    def key(self) -> Hashable:
        """Path, size and modification time: a file that was written again is read again."""
        found = self._stat()
        return ("npz", str(Path(self.path).absolute()), found.st_size, found.st_mtime_ns)

    def load(self) -> Arrays:
        """Read and check the file.

        Raises:
            ConfigError: key ``data.path``, if the file is missing, damaged, or an array in it breaks a rule.
        """
        self._stat()
        path = Path(self.path)
        try:
            arrays = checked(read(path, NAMES))
        except MalformedError as error:
            raise refusal(self.path, f"{error.rule} (here: {error.found})") from error
        if arrays[0].max() <= 1:
            cure = "its images are black; 255 * x_train makes 1 white"
            log.warning("%s: x_train holds no value above 1, of 0..255: %s", path, cure)
        return Arrays(*arrays, name=path.stem, kind="npz", sha256=file_sha256(path))

    def _stat(self) -> os.stat_result:
        path = Path(self.path)
        try:
            found = path.stat()
            with path.open("rb"):
                return found
        except FileNotFoundError as error:
            raise refusal(self.path, "that exists") from error
        except IsADirectoryError as error:
            raise refusal(self.path, "and not a folder") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise refusal(self.path, f"that can be read (here: {reason})") from error


def refusal(path: str, rule: str) -> ConfigError:
    """The error for a bad file.  A cell raises it while it loads its data, so it carries the whole key."""
    return ConfigError("data.path", f"name a .npz file {' '.join(rule.split())}", path)


def checked(found: Mapping[str, NDArray[Any]]) -> tuple[Any, Any, Any, Any]:
    """The arrays x_train, y_train, x_test and y_test (None where absent) of ``found``, as :class:`Arrays` has them.

    Raises:
        MalformedError: if one of them, or their combination, breaks a rule.
    """
    parts: dict[str, Any] = dict.fromkeys(NAMES)
    for part in ("train", "test"):
        if f"x_{part}" in found:
            images = checked_images(f"x_{part}", found[f"x_{part}"])
            parts[f"x_{part}"] = images
            parts[f"y_{part}"] = checked_labels(f"y_{part}", found[f"y_{part}"], len(images))
    if parts["x_test"] is not None:
        check_same_shape(parts["x_train"], parts["x_test"])
    check_classes(parts["y_train"], parts["y_test"])
    return parts["x_train"], parts["y_train"], parts["x_test"], parts["y_test"]


def read(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named arrays of a ``.npz`` file.

    Args:
        path: the file; a missing file is malformed too.
        names: names of the arrays to read.

    Raises:
        MalformedError: if the file is not a complete ``.npz`` file, lacks an array or holds pickled objects.
    """
    if not _looks_like_npz(path):
        raise MalformedError("written by numpy.savez", "not a .npz file, or cut short")
    reading, arrays = "its list of contents", {}
    try:
        # Opened here, since numpy leaves a file with a damaged list of contents open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            held = list(stored.files)
            missing = [name for name in names if name not in held]
            for name in () if missing else names:
                reading = name
                arrays[name] = stored[name]
    except _DAMAGE as error:
        raise _explained(error, reading) from error
    if missing:
        there = f"the file holds {_some(held)}" if held else "the file is empty"
        raise MalformedError(f"with the arrays {', '.join(names)}", f"{missing[0]} is missing; {there}")
    for name, array in arrays.items():
        # For a member that is not an array, numpy returns its bytes.
        if not isinstance(array, np.ndarray):
            raise MalformedError("written by numpy.savez", f"{name} is no array")
    return arrays


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:MOST_NAMES], *(["..."] if len(names) > MOST_NAMES else [])])


def _looks_like_npz(path: Path) -> bool:
    """True if the file has the first bytes that numpy expects and the end that zipfile expects."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04" and zipfile.is_zipfile(stream)


def _explained(error: BaseException, reading: str) -> MalformedError:
    if "allow_pickle" in str(error):
        return MalformedError("without pickled Python objects, which could run code", f"{reading} holds some")
    return MalformedError("that is whole", f"damaged at {reading}: {type(error).__name__}")
