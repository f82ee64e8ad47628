"""One cell: its config as plain Python, and its id."""

import functools
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from capsexp import records
from capsexp.errors import require

Plain = dict[str, Any]


def data_file(name: str) -> str | None:
    """The path of ``<name>.npz`` in the folder that ``CAPSEXP_DATA`` names, or None where it is not there."""
    folder = os.environ.get("CAPSEXP_DATA")
    path = Path(folder, f"{name}.npz") if folder else None
    return str(path.absolute()) if path and path.is_file() else None


def resolved(config: DictConfig) -> Plain:
    """A cell's config with every interpolation filled in and without Hydra's own part, as plain Python."""
    plain = {str(key): _plain(config[key]) for key in config if key != "hydra"}
    for dotted, node, key in records.named_files(plain):
        path = node[key]
        if dotted.startswith("data."):
            require(isinstance(path, str), dotted, "be the path of an .npz file", path)
        if isinstance(path, str):  # else the routing says what is wrong with it
            node[key] = str(Path(path).expanduser().absolute())
    return plain


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def cell_id(config: DictConfig) -> str:
    """The id of a cell from its config."""
    return id_of(resolved(config))


def id_of(plain: Plain) -> str:
    """The id of a cell from its resolved config; a file counts by its content."""
    kept = records.digested(plain, _digest)
    return records.cell_id(kept, kept["data"]["path"])


def data_sha256(path: Path) -> str:
    """Digest of a data file, computed once for each version of the file."""
    return _digest("data.path", path)


def _digest(key: str, path: Path) -> str:
    kind = ".npz" if key.startswith("data.") else ".npy"
    require(path.exists(), key, f"name an existing {kind} file", str(path))
    require(path.is_file(), key, "name a file, not a folder", str(path))
    stat = path.stat()
    return _sha256(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=16)
def _sha256(path: Path, _mtime_ns: int, _size: int) -> str:
    return records.file_sha256(path)
