"""A launch: the plan of a sweep, frozen in its folder before the first cell runs.

Whatever launcher runs a cell, it gets the config that was resolved at launch: what is changed in a YAML file
afterwards changes nothing in a sweep that runs or waits in a cluster's queue.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from capsexp import records
from capsexp.engine.options import Options, check_gpus, checked
from capsexp.errors import ConfigError, require
from capsexp.plan.cells import Plain, cell_id, data_file, id_of, resolved
from capsexp.plan.grid import Grid, known_by, make_grid
from capsexp.plan.names import sweep_name
from capsexp.plan.networks import network_size
from capsexp.plan.provenance import provenance
from capsexp.plan.rerun import checked_rerun, set_back
from capsexp.tracking import names


@dataclass(frozen=True)
class Launch:
    """One command's sweep.

    Attributes:
        directory: the sweep's folder.
        sweep: its plan as it is on disk.
        grid: its cells with their configs.
        options: the settings of our launcher, None under another one.
        rerun: which cells that came to an end are run again.
    """

    directory: Path
    sweep: records.Sweep
    grid: Grid
    options: Options | None
    rerun: tuple[str, ...]


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
                raise Planned(launch)
            _freeze(launch)
            set_back(launch.directory, launch.sweep.cells, launch.rerun)
            current.launch = launch

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """End the command here if a single cell was only to be planned."""
        if current.preview:
            HydraConfig.instance().set_config(config)
            with _carrying_errors():
                raise Planned(single_of(config))


class Planned(BaseException):
    """Ends a command that was only to be planned.

    Attributes:
        launch: what it would do.
    """

    def __init__(self, launch: Launch) -> None:
        super().__init__()
        self.launch = launch


class PlanError(BaseException):
    """Carries an error out of :class:`PlanCallback`: Hydra makes mere warnings of a callback's ``Exception``."""


@contextlib.contextmanager
def _carrying_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise PlanError from error


def launch_of(config: DictConfig) -> Launch:
    """The sweep that a composed command stands for; nothing is written yet.

    Raises:
        ConfigError: a value that concerns the sweep as a whole breaks its rule.
    """
    hydra = config.hydra.overrides
    said = [str(word) for word in [*hydra.task, *hydra.hydra] if not str(word).startswith("hydra.mode=")]
    name = _hand_down_name(config)
    wandb = (config.get("logger") or {}).get("wandb") or {}
    if wandb.get("mode", "disabled") != "disabled":
        names.check(wandb.get("project"), wandb.get("entity"), name)
    grid = make_grid(config, GlobalHydra.instance().config_loader())
    report = cast("Plain", OmegaConf.to_container(config.report, resolve=True))
    sweep = records.Sweep(name, grid.axes, grid.cells, said, report, provenance(Path(__file__)))
    options = _launcher_options(config, grid)
    return Launch(Path(config.paths.sweep), sweep, grid, options, checked_rerun(config.sweep.rerun, grid.cells))


def single_of(config: DictConfig) -> Launch:
    """A single cell as a launch of one, to be told of and not to be run."""
    plain = resolved(config)
    identifier, name = id_of(plain), cell_name(_root_=config)
    axes = axes_of(config, config.hydra, identifier)
    cell = records.PlannedCell(identifier, name, axes)
    grid = Grid({}, [cell], {identifier: records.FrozenCell(plain, [])}, {})
    sweep = records.Sweep(str(config.sweep.name), {}, [cell], [], {})
    return Launch(Path(config.paths.sweep), sweep, grid, None, checked_rerun(config.sweep.rerun, [cell]))


def _launcher_options(config: DictConfig, grid: Grid) -> Options | None:
    launcher = cast("Plain", OmegaConf.to_container(config.hydra.launcher, resolve=True))
    if not str(launcher.pop("_target_", "")).startswith("hydra_plugins.capsexp_launcher."):
        return None
    rule = "be null: hydra.launcher.max_cells says how many cells run at once"
    batch = config.hydra.sweeper.get("max_batch_size")
    require(batch is None, "hydra.sweeper.max_batch_size", rule, batch)
    options = checked(launcher)
    check_gpus(options, [frozen.config for frozen in grid.frozen.values()])
    return options


def _hand_down_name(config: DictConfig) -> str:
    """The sweep's name; one made from what is swept goes to the jobs as an override, since they sweep nothing."""
    name = str(config.sweep.name)
    if OmegaConf.is_interpolation(config.sweep, "name"):
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.overrides.task.append(f"sweep.name='{name}'")
    return name


def _freeze(launch: Launch) -> None:
    # An earlier launch's jobs may still wait in a cluster's queue: its cells keep their configs.
    earlier = records.read_configs(launch.directory)
    kept = {key: cell for key, cell in earlier.items() if key not in launch.grid.frozen}
    records.write_configs(launch.directory, {**launch.grid.frozen, **kept})
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
    """Make the resolvers known to OmegaConf: ``cell_name``, ``sweep_name``, ``data_file`` and ``network_size``."""
    OmegaConf.register_new_resolver("cell_name", cell_name, replace=True)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
    OmegaConf.register_new_resolver("data_file", data_file, replace=True)
    OmegaConf.register_new_resolver("network_size", network_size, replace=True)


def config_error(error: BaseException) -> ConfigError | None:
    """The :class:`ConfigError` behind an error that Hydra or OmegaConf wrapped, if there is one."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ConfigError):
        seen = seen.__cause__ or seen.__context__
    return seen
