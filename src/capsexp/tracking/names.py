"""Names that Weights & Biases accepts, made from the names of a sweep and its cells."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from capsexp.errors import require

RUN_ID_MOST = 64
GROUP_MOST = DISPLAY_NAME_MOST = PROJECT_MOST = ENTITY_MOST = 128
PROJECT_REFUSES = r"/\#?%:"

_PLAIN_SWEEP = re.compile(r"[A-Za-z0-9_.-]+")
_PLAIN_CELL = re.compile(r"[0-9a-f]{10}")
_DIGEST = 20
_HASHED = re.compile(rf".*-[0-9a-f]{{{_DIGEST}}}-[0-9a-f]{{10}}")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9.+-]*[A-Za-z0-9+-]|[A-Za-z]")
_ENDS_IN_ID = re.compile(r"-[0-9a-f]{10}\Z")
_LIKE_OTHER_TYPES = {"true", "false", "none", "null", "nan", "inf"}


def check(project: object, entity: object, sweep: object) -> None:
    """Refuse names that Weights & Biases would reject for every run.

    A sweep's name may be longer than its limits: :func:`run_id` and :func:`group` shorten it.

    Raises:
        ConfigError: for ``logger.wandb.project``, ``logger.wandb.entity`` (may be None) or ``sweep.name``.
    """
    _check("logger.wandb.project", project, PROJECT_MOST)
    if entity is not None:
        _check("logger.wandb.entity", entity, ENTITY_MOST)
    require(isinstance(sweep, str) and bool(sweep.strip()), "sweep.name", "be a text that is not empty", sweep)


def _check(key: str, value: object, most: int) -> None:
    rule = f"be a text of 1 to {most} characters, none of them one of {' '.join(PROJECT_REFUSES)}"
    fits = isinstance(value, str) and bool(value.strip()) and len(value) <= most
    require(fits and not set(str(value)) & set(PROJECT_REFUSES), key, rule, value)


def run_id(sweep: str, cell_id: str) -> str:
    """The run's id, at most 64 of the characters ``A-Z a-z 0-9 _ . -``; no two (sweep, cell) share one.

    It is ``<sweep>-<cell id>`` if that is short and plain.  Any other pair, and one that looks like a shortened id,
    gets a digest of both.
    """
    plain = f"{sweep}-{cell_id}"
    fits = _PLAIN_SWEEP.fullmatch(sweep) and _PLAIN_CELL.fullmatch(cell_id) and len(plain) <= RUN_ID_MOST
    if fits and not _HASHED.fullmatch(plain):
        return plain
    digest = _digest(f"{len(sweep)}:{sweep}{cell_id}", _DIGEST)
    cell = cell_id if _PLAIN_CELL.fullmatch(cell_id) else _digest(cell_id, 10)
    tail = f"-{digest}-{cell}"
    return re.sub(r"[^A-Za-z0-9_.-]", "-", sweep)[: RUN_ID_MOST - len(tail)] + tail


def group(sweep: str) -> str:
    """The runs' group: the sweep's name, or its beginning and a digest if it is longer than 128 characters."""
    if len(sweep) <= GROUP_MOST:
        return sweep
    tail = f"-{_digest(sweep, _DIGEST)}"
    return sweep[: GROUP_MOST - len(tail)] + tail


def display_name(directory: str, cell_id: str, axes: Mapping[str, Any]) -> str:
    """The display name of a run: its cell's swept values, as in ``c2-16_c3-07``.

    Two cells of a sweep never share a name.  So the cell's id stays in the name if the values may be ambiguous: nothing
    was swept, the directory's name was shortened, or a value cannot be written into a name unchanged.

    Args:
        directory: the name of the cell's directory, which ends in the cell's id.
        cell_id: the cell's id.
        axes: the swept values.
    """
    tail = f"-{cell_id}"
    stem = directory.removesuffix(tail)
    whole = len(stem) < 100  # records.cell_name cuts there
    if axes and whole and all(_is_unambiguous(value) for value in axes.values()) and not _ENDS_IN_ID.search(stem):
        return stem
    return stem[: max(0, DISPLAY_NAME_MOST - len(tail))] + tail[-DISPLAY_NAME_MOST:]


def _is_unambiguous(value: object) -> bool:
    """True if a directory's name represents this value unambiguously."""
    if isinstance(value, str):
        return bool(_WORD.fullmatch(value)) and value.lower() not in _LIKE_OTHER_TYPES
    return value is None or isinstance(value, bool | int | float)


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
