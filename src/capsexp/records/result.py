"""A finished cell's result, with a checksum."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from capsexp.records.checksums import file_digests, first_damaged, id_of
from capsexp.records.files import checksum, finite, leaves, read_json, write_record
from capsexp.records.identity import config_digest
from capsexp.records.layout import NUMERICS_VERSION, PREVIOUS_RESULT, RESULT, RESUME_CHECKPOINT, SCHEMA
from capsexp.records.sources import changed_code
from capsexp.records.status import Status, write_status


def write_result(
    directory: Path, body: Mapping[str, Any], name: str = RESULT, config: Mapping[str, Any] | None = None
) -> None:
    """Write a cell's result (or a stage's, under another ``name``) with its schema version and its checksums.

    Beside the body stand the digests of the folder's files (``files``), the id in the folder's name (``of``), and the
    digest of the config.

    Args:
        directory: the folder, with all its other files.
        body: the content.
        name: name of the file.
        config: the resolved config of a cell; None for a stage.
    """
    plain = cast("dict[str, Any]", json.loads(json.dumps(finite(body))))
    sums: dict[str, Any] = {"of": id_of(directory), "files": file_digests(directory)}
    if config is not None:
        sums["config"] = config_digest(config)
    write_record(directory / name, {"schema": SCHEMA, "checksum": checksum(plain), **sums, "body": plain})


def read_result(directory: Path, name: str = RESULT) -> dict[str, Any] | None:
    """A cell's result; None if it is missing, damaged (its checksum does not match) or that of another folder."""
    raw = _read(directory, name)
    return None if raw is None else cast("dict[str, Any]", raw["body"])


NO_METRICS = ("id", "numerics", "axes", "clocks", "metrics", "environment", "data", "code")
"""Parts of a result whose numbers no report shows as a metric by itself."""


def metric_names(body: Mapping[str, Any]) -> set[str]:
    """The names by which a report finds a result's numbers: those under ``metrics``, and paths such as ``params``."""
    other = leaves({key: value for key, value in body.items() if key not in NO_METRICS})
    found = {key for key, value in other if isinstance(value, int | float) and not isinstance(value, bool)}
    return {*(body.get("metrics") or {}), *found}


def has_metric(body: Mapping[str, Any], metric: str) -> bool:
    """True if a report finds a metric in a result: by its name under ``metrics``, or by its path."""
    return metric in (body.get("metrics") or {}) or metric in dict(leaves(body))


def result_digests(directory: Path, name: str = RESULT) -> tuple[dict[str, str] | None, str | None]:
    """The digests of a finished folder's files, and that of its config; None where an older version wrote none."""
    raw = _read(directory, name) or {}
    files, config = raw.get("files"), raw.get("config")
    known = isinstance(files, dict) and all(isinstance(digest, str) for digest in files.values())
    return (cast("dict[str, str]", files) if known else None), (config if isinstance(config, str) else None)


def is_damaged(directory: Path, name: str) -> bool:
    """True if a file of a finished cell is missing or has another content than its result says."""
    digest = (result_digests(directory)[0] or {}).get(name)
    return digest is not None and first_damaged(directory, {name: digest}) is not None


def _read(directory: Path, name: str) -> dict[str, Any] | None:
    raw = read_json(directory / name)
    if raw is None or not isinstance(raw.get("body"), dict) or raw.get("checksum") != checksum(raw["body"]):
        return None
    here, owners = id_of(directory), (raw.get("of"), raw["body"].get("id"))
    return None if here and any(owner and owner != here for owner in owners) else raw


def set_aside(directory: Path) -> None:
    """Set a finished or failed cell back to pending; its result is kept as the previous one."""
    identifier = directory.name.rpartition("-")[2]
    write_status(directory, Status("pending", identifier, cause="set back by sweep.rerun"))
    with contextlib.suppress(FileNotFoundError):
        (directory / RESULT).replace(directory / PREVIOUS_RESULT)
    (directory / RESUME_CHECKPOINT).unlink(missing_ok=True)


def is_stale(result: Mapping[str, Any]) -> bool:
    """True if a finished cell's numbers come from other code than today's; see :func:`stale_cause`."""
    return stale_cause(result) is not None


def stale_cause(result: Mapping[str, Any]) -> str | None:
    """The reason for which a finished cell is stale (another ``NUMERICS_VERSION``, one's code changed), or None."""
    if not _as_today(result):
        return "its numbers come from older code"
    code = result.get("code")
    changed = changed_code(code) if isinstance(code, dict) else None
    return f"the code of {changed} has changed since" if changed else None


def _as_today(result: Mapping[str, Any]) -> bool:
    """True if today's code would compute a finished cell's numbers in the same way."""
    version = result.get("numerics")
    if version == 1:  # version 2 describes networks that collapsed at their last epoch, and changes no others
        training = result.get("training")
        return not (isinstance(training, dict) and training.get("broken"))
    return bool(version == NUMERICS_VERSION)
