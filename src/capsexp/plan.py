"""From a command to its cells: identity, directory names, and the plan of a sweep.

Hydra composes a config in tens of milliseconds, twice for every job.  A plan composes once for each combination of
group choices (``data=digits,mnist``) and sets plain values (``model.c2=16``) directly, which gives the same configs.
"""

import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from capsexp import records
from capsexp.errors import ConfigError, require

Plain = dict[str, Any]

Axes = dict[str, tuple[Override, dict[str, Any]]]
"""Each swept key with its override, and each of its values behind the text that Hydra gives a job for it."""


# -- one cell ---------------------------------------------------------------------------------------------------------


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
    return plain


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def cell_id(config: DictConfig) -> str:
    """The id of a cell from its config."""
    plain = resolved(config)
    path = plain["data"]["path"]
    return records.cell_id(plain, path and data_sha256(Path(path)))


def data_sha256(path: Path) -> str:
    """Digest of a data file, computed once for each version of the file."""
    require(path.exists(), "data.path", "name an existing .npz file", str(path))
    require(path.is_file(), "data.path", "name a file, not a folder", str(path))
    stat = path.stat()
    return _sha256(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=16)
def _sha256(path: Path, _mtime_ns: int, _size: int) -> str:
    return records.file_sha256(path)


def cell_name(*, _root_: DictConfig) -> str:
    """Hydra resolver ``${cell_name:}``: the name of the cell's directory.

    A directory that carries the cell's id already keeps its name, so that the same work stays in the same place even
    when it is now part of another sweep.
    """
    identifier = cell_id(_root_)
    directory = Path(_root_.paths.sweep)
    existing = records.cell_directories(directory).get(identifier)
    if existing:
        return existing.name
    return records.cell_name(axes_of(_root_, _root_.hydra, identifier), identifier)


def axes_of(config: DictConfig, hydra: Any, identifier: str) -> Plain:
    """The swept keys of a cell with its values: as planned, or those that its experiment would sweep."""
    on_disk = None if launched else records.read_sweep(Path(config.paths.sweep))
    for sweep in [sweep for _, sweep in launched] + ([on_disk] if on_disk else []):
        for cell in sweep.cells:
            if cell.id == identifier:
                return cell.axes
    return {str(key): _value(config, hydra, str(key)) for key in hydra.sweeper.get("params") or {}}


def register_resolvers() -> None:
    """Make ``${cell_name:}`` and ``${data_file:name}`` known to OmegaConf."""
    OmegaConf.register_new_resolver("cell_name", cell_name, replace=True)
    OmegaConf.register_new_resolver("data_file", data_file, replace=True)


# -- a sweep ----------------------------------------------------------------------------------------------------------


launched: list[tuple[Path, records.Sweep]] = []
"""The sweep of this command: another command may write its own plan into the same folder meanwhile."""


class PlanCallback(Callback):
    """Writes the plan of a sweep into its folder before the first cell starts."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Find every cell of the sweep; an impossible one stops the command here."""
        HydraConfig.instance().set_config(config)
        try:
            sweep = make_sweep(config, GlobalHydra.instance().config_loader())
            records.write_sweep(Path(config.paths.sweep), sweep)
            launched.append((Path(config.paths.sweep), sweep))
        except Exception as error:
            raise PlanError from error


class PlanError(BaseException):
    """Carries an error out of :class:`PlanCallback`: Hydra makes mere warnings of a callback's ``Exception``."""


def make_sweep(config: DictConfig, loader: ConfigLoader) -> records.Sweep:
    """The sweep that Hydra's basic sweeper would run, with every cell's id and directory name."""
    fixed, axes = _split(config, loader)
    names = records.cell_directories(Path(config.paths.sweep))
    cells: dict[str, records.PlannedCell] = {}
    for values, cell_config in _cells(config, loader, fixed, axes):
        identifier = cell_id(cell_config)
        name = names[identifier].name if identifier in names else records.cell_name(values, identifier)
        cells.setdefault(identifier, records.PlannedCell(identifier, name, values))
    report = cast("Plain", OmegaConf.to_container(config.report, resolve=True))
    plain_axes = {key: list(values.values()) for key, (_, values) in axes.items()}
    for key in axes:
        where = key in ("sweep", "paths") or key.startswith(("sweep.", "paths.", "hydra."))
        require(not where, key, "be one value: all cells of a sweep lie in one folder", plain_axes[key])
    require(bool(cells), "sweep", "have at least one cell", plain_axes)
    said = [str(word) for word in config.hydra.overrides.task]
    return records.Sweep(config.sweep.name, plain_axes, list(cells.values()), said, report)


def _split(config: DictConfig, loader: ConfigLoader) -> tuple[list[str], Axes]:
    """The overrides that hold for every cell, and the swept ones with their values; a later one wins, as in Hydra.

    An experiment's axis that the command line pins to one value stays an axis, of one value.
    """
    swept = config.hydra.sweeper.get("params") or {}
    params = [f"{key}={value}" for key, value in swept.items()]
    parser = OverridesParser.create(config_loader=loader)
    overrides = parser.parse_overrides(params + list(config.hydra.overrides.task))
    last = {override.get_key_element().lstrip("+"): override for override in overrides}
    fixed: list[str] = []
    axes: Axes = {}
    for key, override in last.items():
        if override.is_sweep_override():
            rule = "be swept over listed values (a,b,c or range(...))"
            require(override.is_discrete_sweep(), key, rule, override.input_line)
            texts = dict.fromkeys(override.sweep_string_iterator())
            element = override.get_key_element()
            axes[key] = (override, {text: parser.parse_override(f"{element}={text}").value() for text in texts})
        elif key in swept and not override.is_delete():
            axes[key] = (override, {override.get_value_element_as_str(): override.value()})
        else:
            fixed.append(str(override.input_line))
    return fixed, axes


def _cells(
    config: DictConfig, loader: ConfigLoader, fixed: Sequence[str], axes: Axes
) -> Iterator[tuple[Plain, DictConfig]]:
    """Each combination of swept values with its config, in the order in which Hydra runs them."""
    composed: dict[tuple[tuple[str, str], ...], DictConfig] = {}
    plain_keys = [key for key, (override, _) in axes.items() if _is_plain_value(override, loader)]
    for combination in itertools.product(*(values for _, values in axes.values())):
        texts = dict(zip(axes, combination, strict=True))
        values = {key: axes[key][1][text] for key, text in texts.items()}
        groups = tuple((key, text) for key, text in texts.items() if key not in plain_keys)
        if groups not in composed:
            choices = [f"{axes[key][0].get_key_element()}={text}" for key, text in texts.items()]
            composed[groups] = loader.load_sweep_config(config, [*fixed, *choices])
        cell_config = composed[groups]
        with open_dict(cell_config):
            for key in plain_keys:
                OmegaConf.update(cell_config, key, values[key])
        yield values, cell_config


def _is_plain_value(override: Override, loader: ConfigLoader) -> bool:
    key = override.key_or_group
    return not (override.is_add() or override.package or loader.get_group_options(key)) and not key.startswith("hydra")


def _value(config: DictConfig, hydra: Any, key: str) -> Any:
    value = OmegaConf.select(config, key)
    return hydra.runtime.choices.get(key) if OmegaConf.is_config(value) else value


def config_error(error: BaseException) -> ConfigError | None:
    """The :class:`ConfigError` behind an error that Hydra or OmegaConf wrapped, if there is one."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ConfigError):
        seen = seen.__cause__ or seen.__context__
    return seen
