"""A cell's config as plain Python, and its id."""

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from capsexp import records
from capsexp.errors import require

Plain = dict[str, Any]
"""A config as plain dicts, lists and scalars."""


def resolved(config: DictConfig) -> Plain:
    """A cell's config with every interpolation resolved, without Hydra's own part and the plan's ``sweep.cell``."""
    plain = {str(key): _plain(config[key]) for key in config if key != "hydra"}
    records.drop(plain, records.CELL_KEY)
    for dotted, node, key in records.named_files(plain):
        path = node[key]
        if dotted.startswith("data."):
            require(isinstance(path, str), dotted, "be the path of an .npz file", path)
        if isinstance(path, str):  # else the routing reports the error
            node[key] = str(Path(path).expanduser().absolute())
    return plain


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def override_texts(hydra: DictConfig, kind: str = "task") -> list[str]:
    """The overrides of a command, verbatim; their interpolations are not resolved.

    Args:
        hydra: Hydra's part of the composed config.
        kind: ``task`` or ``hydra``, Hydra's two kinds of overrides.
    """
    words = cast("Plain", OmegaConf.to_container(hydra.overrides, resolve=False))
    return [str(word) for word in words[kind]]


def swept_by_experiment(hydra: DictConfig) -> dict[str, str]:
    """The grid of an experiment by key, with values in the syntax of overrides.

    Args:
        hydra: Hydra's part of the composed config.
    """
    sweeper = cast("Plain", OmegaConf.to_container(hydra.sweeper, resolve=False))
    return {str(key): str(value) for key, value in (sweeper.get("params") or {}).items()}


def cell_id(config: DictConfig) -> str:
    """The id of a cell from its config."""
    return id_of(resolved(config))


def id_of(plain: Plain) -> str:
    """The id of a cell from its resolved config; files count by their content."""
    kept = records.digested(plain, _digest)
    return records.cell_id(kept, kept["data"]["path"])


def _digest(key: str, path: Path) -> str:
    kind = ".npz" if key.startswith("data.") else ".npy"
    require(path.exists(), key, f"name an existing {kind} file", str(path))
    require(path.is_file(), key, "name a file, not a folder", str(path))
    return records.cached_sha256(path)
