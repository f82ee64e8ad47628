"""A finished cell's result, with a checksum."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from capsexp.records.files import finite, read_json, write_json
from capsexp.records.layout import NUMERICS_VERSION, PREVIOUS_RESULT, RESULT, RESUME_CHECKPOINT, SCHEMA
from capsexp.records.status import Status, write_status


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def write_result(directory: Path, body: Mapping[str, Any], name: str = RESULT) -> None:
    """Write a cell's result (or a stage's, under another ``name``) with its schema version and a checksum."""
    plain = cast("dict[str, Any]", json.loads(json.dumps(finite(body))))
    write_json(directory / name, {"schema": SCHEMA, "checksum": _checksum(plain), "body": plain})


def read_result(directory: Path, name: str = RESULT) -> dict[str, Any] | None:
    """A cell's result; None if it is missing or damaged (its checksum does not match)."""
    raw = read_json(directory / name)
    if raw is None or not isinstance(raw.get("body"), dict) or raw.get("checksum") != _checksum(raw["body"]):
        return None
    return cast("dict[str, Any]", raw["body"])


def set_aside(directory: Path) -> None:
    """Set a finished or failed cell back to pending; its result is kept as the previous one."""
    identifier = directory.name.rpartition("-")[2]
    write_status(directory, Status("pending", identifier, cause="set back by sweep.rerun"))
    with contextlib.suppress(FileNotFoundError):
        (directory / RESULT).replace(directory / PREVIOUS_RESULT)
    (directory / RESUME_CHECKPOINT).unlink(missing_ok=True)


def is_stale(result: Mapping[str, Any]) -> bool:
    """True if a finished cell's numbers come from an older numerics version of the code."""
    return bool(result.get("numerics") != NUMERICS_VERSION)
