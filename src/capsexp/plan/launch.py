"""A launch: the plan of a sweep, frozen in its folder before the first cell runs.

Whatever launcher runs a cell, it gets the config that was resolved at launch: what is changed in a YAML file
afterwards changes nothing in a sweep that runs or waits in a cluster's queue.
"""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from capsexp import records
from capsexp.errors import ConfigError, require
from capsexp.plan.cells import Plain, cell_id, data_file
from capsexp.plan.grid import Grid, known_by, make_grid
from capsexp.plan.names import sweep_name
from capsexp.plan.provenance import provenance
from capsexp.tracking import names

RERUN = ("failed", "stale", "all")


@dataclass(frozen=True)
class Launch:
    """One command's sweep.

    Attributes:
        directory: the sweep's folder.
        sweep: its plan as it is on disk.
        grid: its cells with their configs.
    """

    directory: Path
    sweep: records.Sweep
    grid: Grid


@dataclass
class _Current:
    """The command that this process is doing.

    Attributes:
        launch: its sweep; another command may write its own plan into the same folder meanwhile.
        preview: the plan is to be told and nothing to be run.
    """

    launch: Launch | None = None
    preview: bool = False


current = _Current()


class PlanCallback(Callback):
    """Writes the plan of a sweep into its folder before the first cell starts."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Find every cell of the sweep; an impossible one stops the command here."""
        HydraConfig.instance().set_config(config)
        with _carrying_errors():
            launch = launch_of(config)
            if current.preview:
                raise Planned(launch, config)
            _freeze(launch)
            set_back(launch.directory, launch.sweep.cells, config.sweep.rerun)
            current.launch = launch

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """End the command here if a single cell was only to be planned."""
        if current.preview:
            HydraConfig.instance().set_config(config)
            with _carrying_errors():
                raise Planned(launch_of(config), config)


class Planned(BaseException):
    """Ends a command that was only to be planned.

    Attributes:
        launch: what it would do.
        config: the command's composed config.
    """

    def __init__(self, launch: Launch, config: DictConfig) -> None:
        super().__init__()
        self.launch, self.config = launch, config


class PlanError(BaseException):
    """Carries an error out of :class:`PlanCallback`: Hydra makes mere warnings of a callback's ``Exception``."""


@contextlib.contextmanager
def _carrying_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise PlanError from error


def launch_of(config: DictConfig) -> Launch:
    """The sweep that a composed command stands for."""
    said = [str(word) for word in config.hydra.overrides.task]
    name = _hand_down_name(config)
    wandb = (config.get("logger") or {}).get("wandb") or {}
    if wandb.get("mode", "disabled") != "disabled":
        names.check(wandb.get("project"), wandb.get("entity"), name)
    grid = make_grid(config, GlobalHydra.instance().config_loader())
    report = cast("Plain", OmegaConf.to_container(config.report, resolve=True))
    code = provenance(Path(__file__).parent)
    return Launch(Path(config.paths.sweep), records.Sweep(name, grid.axes, grid.cells, said, report, code), grid)


def _hand_down_name(config: DictConfig) -> str:
    """The sweep's name; one made from what is swept goes to the jobs as an override, since they sweep nothing."""
    name = str(config.sweep.name)
    if OmegaConf.is_interpolation(config.sweep, "name"):
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.overrides.task.append(f"sweep.name='{name}'")
    return name


def _freeze(launch: Launch) -> None:
    records.write_configs(launch.directory, launch.grid.frozen)
    records.write_sweep(launch.directory, launch.sweep)


def frozen_cell(hydra: Any, directory: Path) -> tuple[str, records.FrozenCell] | None:
    """The planned cell behind a job of a sweep: its id, and its config as it was at launch.

    Args:
        hydra: Hydra's part of the job's config.
        directory: the sweep's folder.

    Returns:
        None for single cells, and for jobs of sweepers that make up their values as they go.
    """
    if hydra.mode != RunMode.MULTIRUN:
        return None
    key = known_by(hydra.overrides.task)
    if current.launch is not None:
        identifier = current.launch.grid.ids.get(key)
        return (identifier, current.launch.grid.frozen[identifier]) if identifier else None
    for identifier, frozen in records.read_configs(directory).items():
        if known_by(frozen.overrides) == key:
            return identifier, frozen
    return None


def cell_name(*, _root_: DictConfig) -> str:
    """Hydra resolver ``${cell_name:}``: the name of the cell's directory.

    A directory that carries the cell's id already keeps its name, so that the same work stays in the same place even
    when it is now part of another sweep.
    """
    directory = Path(_root_.paths.sweep)
    planned = frozen_cell(_root_.hydra, directory)
    identifier = planned[0] if planned else cell_id(_root_)
    existing = records.cell_directories(directory).get(identifier)
    if existing:
        return existing.name
    return records.cell_name(axes_of(_root_, _root_.hydra, identifier), identifier)


def axes_of(config: DictConfig, hydra: Any, identifier: str) -> Plain:
    """The swept keys of a cell with its values: as planned, or those that its experiment would sweep."""
    sweep = current.launch.sweep if current.launch else records.read_sweep(Path(config.paths.sweep))
    for cell in sweep.cells if sweep else []:
        if cell.id == identifier:
            return cell.axes
    return {str(key): _value(config, hydra, str(key)) for key in hydra.sweeper.get("params") or {}}


def _value(config: DictConfig, hydra: Any, key: str) -> Any:
    value = OmegaConf.select(config, key)
    return hydra.runtime.choices.get(key) if OmegaConf.is_config(value) else value


def register_resolvers() -> None:
    """Make ``${cell_name:}``, ``${sweep_name:}`` and ``${data_file:name}`` known to OmegaConf."""
    OmegaConf.register_new_resolver("cell_name", cell_name, replace=True)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
    OmegaConf.register_new_resolver("data_file", data_file, replace=True)


def set_back(directory: Path, cells: Collection[records.PlannedCell], rerun: Any) -> None:
    """Set the ended cells that ``sweep.rerun`` names back to pending; what runs at this moment is left alone.

    Raises:
        ConfigError: it names neither a group of cells nor a planned cell.
    """
    wanted = _words(rerun)
    known = {*RERUN, *(cell.id for cell in cells)}
    rule = f"be {', '.join(RERUN)}, ids of planned cells, or a list of those"
    for word in wanted:
        require(word in known, "sweep.rerun", rule, word)
    for cell in cells:
        if _is_wanted(directory / cell.name, cell.id, wanted):
            _set_back(directory / cell.name)


def _is_wanted(directory: Path, identifier: str, wanted: Collection[str]) -> bool:
    result = records.read_result(directory)
    if result is None:
        return False  # it is run anyway, or it failed and config.sweep.rerun decides when it comes up
    stale = "stale" in wanted and records.is_stale(result)
    return stale or "all" in wanted or identifier in wanted


def _set_back(directory: Path) -> None:
    lock = FileLock(directory / records.LOCK, blocking=False)
    try:
        with lock:
            records.set_aside(directory)
    except Timeout:
        return  # it is being run


def tries_failed(rerun: Any, identifier: str) -> bool:
    """Whether a cell that has failed is to be tried again."""
    return any(word in ("failed", "all", identifier) for word in _words(rerun))


def _words(rerun: Any) -> list[str]:
    several = isinstance(rerun, list) or OmegaConf.is_list(rerun)
    return [str(word) for word in (rerun if several else [rerun]) if word is not None]


def config_error(error: BaseException) -> ConfigError | None:
    """The :class:`ConfigError` behind an error that Hydra or OmegaConf wrapped, if there is one."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ConfigError):
        seen = seen.__cause__ or seen.__context__
    return seen
