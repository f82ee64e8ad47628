"""One job as Hydra runs it: a single cell, or a cell of a sweep under another launcher than capsexp's."""

import contextlib
import logging
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from capsexp import cell, records, stop_request
from capsexp.cell import Cell, CellOutcome
from capsexp.errors import require
from capsexp.sweep.cells import resolved
from capsexp.sweep.names import axes_of
from capsexp.sweep.plan import frozen_cell
from capsexp.sweep.rerun import given_rerun, set_back, tries_failed

STAGE_POLL_S = 2.0
"""Seconds between two checks of a stage that another cell computes; there is no queue here to put the cell back."""

log = logging.getLogger(__name__)


def run(config: DictConfig) -> CellOutcome:
    """Run the cell of a job in this process, and log its outcome.

    Raises:
        ConfigError: the cell's directory was changed, or ``sweep.rerun`` has a value that names no cells.
    """
    job = _cell_of(config)
    saves = bool(job.config["callbacks"].get("resume"))
    with stop_request.saved_by_ctrl_c(log.info) if saves else contextlib.nullcontext():
        outcome = _run_until_not_pending(job)
    if job.in_sweep or not records.is_user_error(outcome.status):  # the command prints a single cell's error
        log.info("%s  %s", job.name, outcome.words)
    return outcome


def _cell_of(config: DictConfig) -> Cell:
    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    home = Path(hydra.runtime.cwd, config.paths.sweep).resolve()
    rule = "be left as it is (say where with paths.output)"
    require(directory.parent.resolve() == home, "hydra.run.dir", rule, str(directory))
    identifier = directory.name.rpartition("-")[2]
    planned = config.sweep.cell is not None
    plain = frozen_cell(home, identifier).config if planned else resolved(config, Path(hydra.runtime.cwd))
    axes = axes_of(config, hydra, identifier)
    rerun = given_rerun(plain["sweep"]["rerun"], hydra)
    in_sweep = hydra.mode == RunMode.MULTIRUN
    if in_sweep and not planned:
        log.warning("%s  runs without a plan: neither hydra/sweeper nor hydra/launcher is capsexp", directory.name)
    if not in_sweep:
        set_back(home, [records.PlannedCell(identifier, directory.name, axes)], rerun)
    failed_at = None if tries_failed(rerun, identifier) else 0.0
    return Cell(directory, identifier, axes, plain, in_sweep=in_sweep, failed_at=failed_at)


def _run_until_not_pending(job: Cell) -> CellOutcome:
    """Run a cell; retry it while it waits for a stage that another cell computes."""
    outcome = cell.run(job)
    while outcome.status.state == "pending":
        time.sleep(STAGE_POLL_S)
        outcome = cell.run(job)
    return outcome
