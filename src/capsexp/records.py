"""What is on disk: the files of a cell and of a sweep, how they are written, and how they are read.

A cell's directory holds ``config.yaml``, ``status.json``, ``result.json``, ``metrics.csv``, ``arrays.npz``,
``checkpoints/`` and ``log.txt``; a sweep's directory holds its cells and ``sweep.json``.  Every file here is written to
a temporary name, flushed to the disk and renamed, so a reader sees the old file or the new one and never a half.
Only the standard library is used: ``status`` and ``report`` read a thousand cells without importing torch.
"""

import contextlib
import hashlib
import json
import math
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

SCHEMA = 1
"""Version of the files' layout; raised when a reader of an older one could not read it."""

NUMERICS_VERSION = 1
"""Raised by hand whenever a change alters the numbers that a cell gives: finished cells then read as stale."""

CONFIG, STATUS, RESULT, SWEEP = "config.yaml", "status.json", "result.json", "sweep.json"
METRICS, ARRAYS, LOG = "metrics.csv", "arrays.npz", "log.txt"
BEST_CHECKPOINT = "checkpoints/best.ckpt"
RESUME_CHECKPOINT = f"checkpoints/resume-v{NUMERICS_VERSION}.ckpt"  # older code's half-done cells start over

VOLATILE = (
    "callbacks.resume",
    "data.source.cache",
    "hydra",
    "launcher",
    "logger",
    "paths",
    "report",
    "sweep",
    "threads",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.log_every_n_steps",
    "trainer.progress",
)
"""Keys that do not change what a cell computes, only where, how visibly or how fast it does."""

ID_LENGTH = 10
State = Literal["pending", "running", "done", "failed", "interrupted"]


# -- identity ---------------------------------------------------------------------------------------------------------


def identity(config: Mapping[str, Any], data_sha256: str | None = None) -> dict[str, Any]:
    """The part of a resolved config that decides what the cell computes.

    Args:
        config: the resolved config as plain dicts, lists and scalars.
        data_sha256: digest of the data file, which takes the place of ``data.path``.
    """
    kept = cast("dict[str, Any]", json.loads(json.dumps(config)))
    for dotted in VOLATILE:
        _drop(kept, dotted.split("."))
    if isinstance(kept.get("data"), dict):
        kept["data"]["path"] = data_sha256
    return kept


def _one_spelling(value: Any) -> Any:
    """0 and 0.0 are the same dropout."""
    if isinstance(value, dict):
        return {key: _one_spelling(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_one_spelling(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _drop(tree: dict[str, Any], path: list[str]) -> None:
    for key in path[:-1]:
        tree = tree.get(key) or {}
        if not isinstance(tree, dict):
            return
    tree.pop(path[-1], None)


def cell_id(config: Mapping[str, Any], data_sha256: str | None = None) -> str:
    """The cell's identity as ten hexadecimal digits: the same work has the same id on any machine."""
    canonical = json.dumps(_one_spelling(identity(config, data_sha256)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:ID_LENGTH]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# -- writing ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; when the block ends well it is flushed to the disk and becomes ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` so that a reader never sees a part of it."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON; numbers that JSON has no word for (NaN, infinities) become null."""
    write_text(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``, or None where there is no such file or no whole object in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


# -- a cell's status --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Status:
    """Where a cell stands.

    Attributes:
        state: what the cell's process wrote last; read it through :func:`read_status`, which corrects a dead one's.
        id: the cell's id.
        pid: process that runs or ran it.
        host: machine of that process.
        boot: identifier of that machine's start, so that a process number from before a restart is not believed.
        started: seconds since 1970.
        updated: seconds since 1970.
        cause: for failed and interrupted cells, one line saying why.
    """

    state: State
    id: str
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)
    boot: str = field(default_factory=lambda: _boot_id())
    started: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)
    cause: str | None = None

    def now(self, state: State, cause: str | None = None) -> "Status":
        """This status, changed to ``state`` at this moment."""
        return replace(self, state=state, updated=time.time(), cause=cause)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def write_status(directory: Path, status: Status) -> None:
    """Write a cell's status."""
    write_json(directory / STATUS, {"schema": SCHEMA, **asdict(status)})


def read_status(directory: Path) -> Status | None:
    """A cell's status as it truly is: a running cell whose process on this machine is gone reads as interrupted."""
    raw = _read_json(directory / STATUS)
    if raw is None:
        return None
    try:
        status = Status(**{key: value for key, value in raw.items() if key != "schema"})
    except TypeError:  # written by another version of this package
        return None
    if status.state == "running" and status.host == socket.gethostname() and not _alive(status):
        return replace(status, state="interrupted", cause=f"process {status.pid} ended without a word")
    return status


USER_ERROR = "ConfigError"


def is_user_error(status: Status) -> bool:
    """Whether the cell failed because a value in its config breaks a rule."""
    return status.state == "failed" and (status.cause or "").startswith(f"{USER_ERROR}: ")


def _alive(status: Status) -> bool:
    if status.boot != _boot_id():
        return False
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# -- a cell's result --------------------------------------------------------------------------------------------------


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def write_result(directory: Path, body: Mapping[str, Any]) -> None:
    """Write a cell's result with its schema version and a checksum over its body."""
    plain = cast("dict[str, Any]", json.loads(json.dumps(_finite(body))))
    write_json(directory / RESULT, {"schema": SCHEMA, "checksum": _checksum(plain), "body": plain})


def read_result(directory: Path) -> dict[str, Any] | None:
    """A cell's result, or None where there is none or it is not whole (its checksum does not fit)."""
    raw = _read_json(directory / RESULT)
    if raw is None or not isinstance(raw.get("body"), dict) or raw.get("checksum") != _checksum(raw["body"]):
        return None
    return cast("dict[str, Any]", raw["body"])


def is_stale(result: Mapping[str, Any]) -> bool:
    """Whether a finished cell's numbers come from code that has since changed what it computes."""
    return bool(result.get("numerics") != NUMERICS_VERSION)


# -- a sweep ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedCell:
    """One point of a sweep: its id, its directory's name, and the values that were swept."""

    id: str
    name: str
    axes: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was launched.

    Attributes:
        name: the experiment's name.
        axes: each swept key with its values, in the order given.
        cells: every cell of the plan, in the order in which they run.
        overrides: what the command line said, word for word.
        report: the experiment's ``report:`` block.
    """

    name: str
    axes: dict[str, list[Any]]
    cells: list[PlannedCell]
    overrides: list[str]
    report: dict[str, Any]


def write_sweep(directory: Path, sweep: Sweep) -> None:
    """Write the plan of a sweep into its directory."""
    write_json(directory / SWEEP, {"schema": SCHEMA, **asdict(sweep)})


def read_sweep(directory: Path) -> Sweep | None:
    """The plan of the sweep that was last launched in ``directory``, or None where there is none."""
    raw = _read_json(directory / SWEEP)
    if raw is None:
        return None
    raw.pop("schema", None)
    try:
        raw["cells"] = [PlannedCell(**cell) for cell in raw["cells"]]
        return Sweep(**raw)
    except (KeyError, TypeError):  # not whole, or written by another version of this package
        return None


def cell_directories(directory: Path) -> dict[str, Path]:
    """Every cell directory below a sweep's, by cell id."""
    if not directory.is_dir():
        return {}
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    ids = {name.rpartition("-")[2]: directory / name for name in names}
    return {key: path for key, path in ids.items() if len(key) == ID_LENGTH and set(key) <= set("0123456789abcdef")}


def cell_name(axes: Mapping[str, Any], identifier: str) -> str:
    """A cell directory's name: swept values and id, as in ``c2-16_c3-07-1a2b3c4d5e``.

    Whole numbers are written with two digits at least, so that names sort as values do.
    """
    parts = [f"{key.rpartition('.')[2]}-{_plain(value)}" for key, value in axes.items()]
    stem = "_".join(parts)[:100] or "cell"
    return f"{stem}-{identifier}"


def _plain(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:02d}"
    text = "".join(char if char.isalnum() or char in ".+-" else "." for char in str(value))
    return text.strip(".") or "none"
