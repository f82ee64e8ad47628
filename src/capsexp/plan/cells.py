"""One cell: its config as plain Python, and its id."""

import copy
import functools
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from capsexp import records
from capsexp.errors import require

Plain = dict[str, Any]

COUPLINGS = (("routing",), ("model", "routing"))
"""Where a config holds the options of a routing, whose ``coupling`` may name a file."""


def data_file(name: str) -> str | None:
    """The path of ``<name>.npz`` in the folder that ``CAPSEXP_DATA`` names, or None where it is not there."""
    folder = os.environ.get("CAPSEXP_DATA")
    path = Path(folder, f"{name}.npz") if folder else None
    return str(path.absolute()) if path and path.is_file() else None


def resolved(config: DictConfig) -> Plain:
    """A cell's config with every interpolation filled in and without Hydra's own part, as plain Python."""
    plain = {str(key): _plain(config[key]) for key in config if key != "hydra"}
    path = plain["data"].get("path")
    if path is not None:
        require(isinstance(path, str), "data.path", "be the path of an .npz file", path)
        plain["data"]["path"] = str(Path(path).expanduser().absolute())
    for routing, path in _couplings(plain):
        routing["coupling"] = str(Path(path).expanduser().absolute())
    return plain


def _couplings(plain: Plain) -> list[tuple[Plain, str]]:
    """The options of every routing that names a file, and the file."""
    found = []
    for keys in COUPLINGS:
        node: Any = plain
        for key in keys:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get("coupling"), str):
            found.append((node, node["coupling"]))
    return found


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def cell_id(config: DictConfig) -> str:
    """The id of a cell from its config."""
    return id_of(resolved(config))


def id_of(plain: Plain) -> str:
    """The id of a cell from its resolved config; a file counts by its content."""
    plain = copy.deepcopy(plain)
    for routing, file in _couplings(plain):
        routing["coupling"] = _digest("routing.coupling", Path(file), ".npy")
    path = plain["data"]["path"]
    return records.cell_id(plain, path and data_sha256(Path(path)))


def data_sha256(path: Path) -> str:
    """Digest of a data file, computed once for each version of the file."""
    return _digest("data.path", path, ".npz")


def _digest(key: str, path: Path, kind: str) -> str:
    require(path.exists(), key, f"name an existing {kind} file", str(path))
    require(path.is_file(), key, "name a file, not a folder", str(path))
    stat = path.stat()
    return _sha256(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=16)
def _sha256(path: Path, _mtime_ns: int, _size: int) -> str:
    return records.file_sha256(path)
