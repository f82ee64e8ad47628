"""The plan of a sweep: its cells and their configs, frozen in its folder before the first cell runs.

Under any launcher, a cell gets the config that was resolved when the sweep was planned.  A later change of a YAML file
does not affect a sweep that runs or waits in a cluster's queue.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from capsexp import records
from capsexp.engine.options import Layout, Options, check_gpus, checked, layout
from capsexp.errors import require
from capsexp.sweep import report_block
from capsexp.sweep.cells import Plain, id_of, override_texts, resolved
from capsexp.sweep.grid import Grid, add_jobs, make_grid
from capsexp.sweep.names import axes_of, cell_name, check_places
from capsexp.sweep.provenance import provenance
from capsexp.sweep.rerun import checked_rerun, given_rerun

OURS = "hydra_plugins.capsexp_launcher."
"""The package of capsexp's own launcher and sweeper."""


FOLDERS = {"dir": "${paths.sweep}", "subdir": "${cell_name:}"}
"""The required values of ``hydra.sweep``."""


@dataclass(frozen=True)
class Plan:
    """The plan of one command.

    Attributes:
        directory: the sweep's folder.
        sweep: its plan on disk.
        frozen: the config and the overrides of each of its cells, by id.
        options: the settings of capsexp's launcher; None under another one.
        rerun: the ended cells that are run again.
        size: the number of cells by which the layout is chosen; None = those of the plan.  A plan that grows keeps it,
            so that all its cells get the same number of threads.
    """

    directory: Path
    sweep: records.Sweep
    frozen: dict[str, records.FrozenCell]
    options: Options | None
    rerun: tuple[str, ...]
    size: int | None = None

    @property
    def layout(self) -> Layout:
        """The layout of the sweep on this machine under capsexp's launcher."""
        assert self.options is not None, "only our launcher asks"
        configs = [frozen.config for frozen in self.frozen.values()]
        return layout(self.options, self.size or len(self.sweep.cells), configs)

    def jobs(self) -> list[list[str]]:
        """The overrides of each cell's job, for a launcher that is not ours; the last one names sweep and cell."""
        name = self.sweep.name.replace("'", r"\'")
        keys = [f"{records.CELL_KEY}='{name}/{cell.id}'" for cell in self.sweep.cells]
        return [[*self.frozen[cell.id].overrides, key] for cell, key in zip(self.sweep.cells, keys, strict=True)]

    def freeze(self) -> None:
        """Write the plan into the sweep's folder.

        Jobs of an earlier command may still wait in a cluster's queue, so the configs of its cells are kept.
        """
        earlier = records.read_configs(self.directory)
        kept = {key: cell for key, cell in earlier.items() if key not in self.frozen}
        records.write_configs(self.directory, {**self.frozen, **kept})
        records.write_sweep(self.directory, self.sweep)


def plan_sweep(config: DictConfig, loader: ConfigLoader) -> Plan:
    """The plan of a command with ``-m``; nothing is written yet.

    Args:
        config: the composed config of the command, Hydra's own part included.
        loader: the loader that composed it.

    Raises:
        ConfigError: a value that concerns the sweep as a whole breaks its rule.
    """
    _check_folders(config)
    grid = make_grid(config, loader)
    return _plan(config, grid, _launcher_options(config, grid), grows=False)


def plan_batch(
    config: DictConfig, loader: ConfigLoader, jobs: Sequence[Sequence[str]], before: Plan | None
) -> tuple[Plan, list[str]]:
    """Extend a plan by the next jobs of another sweeper, such as a search, which creates its cells as it proceeds.

    Args:
        config: the composed config of the command.
        loader: the loader that composed it.
        jobs: the overrides of each job.
        before: the plan so far; None for the first batch, which continues the plan of an earlier run of the command.

    Returns:
        The plan, and the id of each job's cell.
    """
    _check_folders(config)
    grid = Grid()
    if before is not None:
        grid = Grid(before.sweep.axes, list(before.sweep.cells), dict(before.frozen))
    else:
        earlier = records.read_sweep(Path(config.paths.sweep))
        if earlier is not None and earlier.overrides == _command_line(config):
            frozen = records.read_configs(Path(config.paths.sweep))
            there = [cell for cell in earlier.cells if cell.id in frozen]
            grid = Grid(earlier.axes, there, {cell.id: frozen[cell.id] for cell in there})
    ids = add_jobs(grid, config, loader, jobs)
    plan = _plan(config, grid, before.options if before else _launcher_options(config, grid), grows=True)
    size = before.size if before else config.hydra.sweeper.get("n_jobs") or len(jobs)
    return replace(plan, size=size), ids


def plan_cell(config: DictConfig) -> Plan:
    """The plan of a single cell, for display only."""
    plain = resolved(config)
    identifier, name = id_of(plain), cell_name(_root_=config)
    cell = records.PlannedCell(identifier, name, axes_of(config, config.hydra, identifier))
    sweep = records.Sweep(str(config.sweep.name), {}, [cell], [], {})
    frozen = {identifier: records.FrozenCell(plain, [])}
    return Plan(
        Path(config.paths.sweep),
        sweep,
        frozen,
        None,
        checked_rerun(given_rerun(config.sweep.rerun, config.hydra), [cell]),
    )


def frozen_cell(directory: Path, identifier: str) -> records.FrozenCell:
    """A planned cell's frozen config from a sweep's folder.

    Raises:
        ConfigError: the cell is not in the folder's plan.
    """
    frozen = records.read_configs(directory).get(identifier)
    rule = f"name a cell that is planned in {directory}; the plan sets it"
    require(frozen is not None, records.CELL_KEY, rule, identifier)
    return cast("records.FrozenCell", frozen)


def _plan(config: DictConfig, grid: Grid, options: Options | None, *, grows: bool) -> Plan:
    """The plan of a grid; ``grows`` says that later batches may add cells with other keys."""
    report = cast("Plain", OmegaConf.to_container(config.report, resolve=True))
    configs = [frozen.config for frozen in grid.frozen.values()]
    report_block.check(report, grid.axes, [] if grows else configs)
    launch = {**provenance(Path(__file__), configs), **_options(config)}
    sweep = records.Sweep(str(config.sweep.name), grid.axes, grid.cells, _command_line(config), report, launch)
    rerun = checked_rerun(given_rerun(config.sweep.rerun, config.hydra), grid.cells)
    return Plan(Path(config.paths.sweep), sweep, grid.frozen, options, rerun)


def _options(config: DictConfig) -> dict[str, list[str]]:
    """The options of the command line that say where configs are, without which the command cannot be given again."""
    runtime = config.hydra.runtime
    folders = [source.path for source in runtime.config_sources if source.provider == "command-line"]
    options = [word for folder in folders for word in ("--config-dir", folder)]
    return {"options": options} if options else {}


def _command_line(config: DictConfig) -> list[str]:
    """The arguments of the command line, verbatim."""
    return [
        word
        for word in [*override_texts(config.hydra), *override_texts(config.hydra, "hydra")]
        if not word.startswith("hydra.mode=")
    ]


def _check_folders(config: DictConfig) -> None:
    """Refuse Hydra's folder settings, which would not move the cells: the plan determines their folders."""
    check_places(config)
    folders = cast("Plain", OmegaConf.to_container(config.hydra.sweep, resolve=False))
    for key, expected in FOLDERS.items():
        rule = "be left as it is (say where with paths.output)"
        require(folders[key] == expected, f"hydra.sweep.{key}", rule, folders[key])


def _launcher_options(config: DictConfig, grid: Grid) -> Options | None:
    launcher = cast("Plain", OmegaConf.to_container(config.hydra.launcher, resolve=True))
    if not str(launcher.pop("_target_", "")).startswith(OURS):
        return None
    rule = "be null: hydra.launcher.max_cells says how many cells run at once"
    batch = config.hydra.sweeper.get("max_batch_size")
    require(batch is None, "hydra.sweeper.max_batch_size", rule, batch)
    options = checked(launcher)
    check_gpus(options, [frozen.config for frozen in grid.frozen.values()])
    return options
