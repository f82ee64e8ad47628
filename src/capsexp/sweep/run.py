"""The execution of a plan by capsexp's engine or by another launcher."""

import contextlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from capsexp import cell as cell_life
from capsexp import records
from capsexp.cell import Cell, CellOutcome
from capsexp.engine.base import Engine, Group, Summary
from capsexp.engine.local import LocalEngine
from capsexp.engine.options import Layout, Options, learned
from capsexp.engine.progress import Progress, progress
from capsexp.engine.worker import CellWork
from capsexp.errors import LaunchError
from capsexp.stacking.grouping import grouped
from capsexp.sweep import closing, report_block
from capsexp.sweep.estimate import seconds_of
from capsexp.sweep.plan import Plan, plan_batch, plan_sweep
from capsexp.sweep.rerun import set_back, tries_failed
from capsexp.text import count, plural, roughly

MULTIRUN = "multirun.yaml"
"""Name of Hydra's own record of a command in the sweep's folder."""


def run_sweep(config: DictConfig, loader: ConfigLoader, launcher: Launcher, batch_size: int | None) -> int:
    """Plan every cell of a command, freeze the plan, and run the cells that need it.

    Args:
        config: the composed config of the command, Hydra's own part included.
        loader: the loader that composed it.
        launcher: the launcher that runs the jobs, unless it is capsexp's.
        batch_size: cells per batch for another launcher; None for all.

    Returns:
        The exit code, from the cells' files.

    Raises:
        ConfigError: a value that concerns the sweep as a whole breaks its rule; nothing is written then.
        LaunchError: the launcher lost a job.
        KeyboardInterrupt: the user stopped it.
    """
    learned.clear()
    plan = plan_sweep(config, loader)
    records.clear_folders()  # of an earlier command that was killed
    plan.freeze()
    OmegaConf.save(config, plan.directory / MULTIRUN)
    set_back(plan.directory, plan.sweep.cells, plan.rerun)
    closing.print_lines(report_block.unswept_axes(plan.sweep))
    with _closing_lines(plan):
        if plan.options is not None:
            run_cells(plan, plan.options, [cell.id for cell in plan.sweep.cells])
        else:
            _launch(plan.jobs(), launcher, batch_size)
    return exit_code_of(plan)


def exit_code_of(plan: Plan) -> int:
    """The exit code of a command, from the files of the plan's cells."""
    return closing.exit_code(list(closing.statuses_of(plan.directory, plan.sweep).values()))


@contextlib.contextmanager
def _closing_lines(plan: Plan) -> Iterator[None]:
    """Print how the sweep stands when the block ends well, is interrupted, or its launcher loses a job."""
    try:
        yield
    except (KeyboardInterrupt, LaunchError):
        closing.print_closing(plan.directory, plan.sweep)
        raise
    statuses = closing.statuses_of(plan.directory, plan.sweep)
    done = all(status.state == "done" for status in statuses.values())
    lacking = report_block.lacking_metrics(plan.sweep, plan.directory) if done else ()
    closing.print_closing(plan.directory, plan.sweep, lacking)


def run_batch(
    config: DictConfig, loader: ConfigLoader, jobs: Sequence[Sequence[str]], before: Plan | None
) -> tuple[Plan, list[CellOutcome]]:
    """Run the next jobs of another sweeper with capsexp's engine; their cells are added to the plan.

    Args:
        config: the composed config of the command.
        loader: the loader that composed it.
        jobs: the overrides of each job.
        before: the plan so far; None for the first batch.

    Returns:
        The plan, and the outcome of each job's cell.
    """
    if before is None:
        learned.clear()
    plan, ids = plan_batch(config, loader, jobs, before)
    assert plan.options is not None, "only our launcher calls this"
    plan.freeze()
    known = {cell.id for cell in before.sweep.cells} if before else set()
    set_back(plan.directory, [cell for cell in plan.sweep.cells if cell.id not in known], plan.rerun)
    with _closing_lines(plan):
        outcomes = run_cells(plan, plan.options, list(dict.fromkeys(ids)))
    return plan, [outcomes.get(identifier) or _not_run(plan, identifier) for identifier in ids]


def _not_run(plan: Plan, identifier: str) -> CellOutcome:
    """The outcome of a cell that was not started: it had failed before, or the sweep was aborted."""
    name = next(cell.name for cell in plan.sweep.cells if cell.id == identifier)
    status = records.read_status(plan.directory / name) or records.Status("pending", identifier)
    return CellOutcome(status, f"{status.state}, not run: {status.cause or 'the sweep was given up'}", ran=False)


def _launch(jobs: Sequence[Sequence[str]], launcher: Launcher, batch_size: int | None) -> None:
    size = batch_size or len(jobs)
    for first in range(0, len(jobs), size):
        try:
            for job in launcher.launch(jobs[first : first + size], initial_job_idx=first):
                _ = job.return_value  # raises the job's exception
        except RuntimeError as error:
            raise LaunchError(f"{type(error).__name__}: {error}") from error


def run_cells(plan: Plan, options: Options, ids: Sequence[str]) -> dict[str, CellOutcome]:
    """Run those of the given cells of a plan that need it, with capsexp's engine.

    Returns:
        The outcomes by id; cells that were not started are left out.

    Raises:
        KeyboardInterrupt: the user stopped it.
    """
    layout = plan.layout
    planned = {cell.id: cell for cell in plan.sweep.cells}
    cells = [_cell(plan, planned[identifier], layout) for identifier in ids]
    outcomes = {cell.id: done for cell in cells if (done := cell_life.finished(cell)) is not None}
    failed = {cell.id: before for cell in cells if (before := _left_alone(plan, cell)) is not None}
    to_run = [cell for cell in cells if cell.id not in outcomes | failed]
    shown = progress(len(cells), len(outcomes))
    with shown.shown():
        shown.message(_state_line(plan, len(cells), outcomes, failed, to_run))
        if to_run:
            ended = [plan.directory / planned[identifier].name for identifier in outcomes]
            summary = _run(options, layout, to_run, shown, ended)
            outcomes |= summary.outcomes
            if summary.stopped:
                raise KeyboardInterrupt
    return outcomes


def _run(options: Options, layout: Layout, cells: Sequence[Cell], shown: Progress, ended: Sequence[Path]) -> Summary:
    """Run cells, in groups if they are stacked; ``ended`` are the folders of those that are done already."""
    engine = _engine(options, layout)
    parts = grouped(cells, engine.at_once, options.members) if layout.stacked else [(cell,) for cell in cells]
    shown.at_once = sum(len(group) for group in parts[: engine.at_once])
    if layout.why:
        shown.message(layout.why)
    shown.message(_launch_line(parts, layout, engine.at_once))
    if ended and not layout.stacked and options.engine == "local":
        shown.message(_time_line(seconds_of(ended), len(parts), engine.at_once))
    return engine.run(parts, shown)


def _engine(options: Options, layout: Layout) -> Engine:
    if options.engine == "local":
        return LocalEngine(options, layout, CellWork(options.settings))
    from capsexp.engine.ray import RayEngine  # imports Ray

    return RayEngine(options, layout, CellWork(options.settings))


def _left_alone(plan: Plan, cell: Cell) -> records.Status | None:
    """The status of a failed cell that must not be retried, else None."""
    status = records.read_status(cell.directory)
    failed = status is not None and status.state == "failed" and not records.read_result(cell.directory)
    return status if failed and not tries_failed(plan.rerun, cell.id) else None


def _cell(plan: Plan, planned: records.PlannedCell, layout: Layout) -> Cell:
    config = dict(plan.frozen[planned.id].config)
    if config["threads"] == "auto":
        config["threads"] = layout.threads
    directory = Path(plan.directory, planned.name)
    status = records.read_status(directory)
    failed_at = status.updated if status is not None and status.state == "failed" else 0.0
    return Cell(directory, planned.id, planned.axes, config, in_sweep=True, failed_at=failed_at)


def _time_line(seconds: Sequence[float], left: int, at_once: int) -> str:
    mean = statistics.fmean(seconds)
    total = roughly(left * mean / min(at_once, left))
    return f"about {total} to go (mean of {count(len(seconds), 'finished cell')}: {mean:.1f} s)"


def _state_line(
    plan: Plan,
    cells: int,
    outcomes: Mapping[str, CellOutcome],
    failed: Mapping[str, Any],
    to_run: Sequence[Cell],
) -> str:
    stale = sum(each.words.startswith("stale") for each in outcomes.values())
    planned = {cell.id for cell in plan.sweep.cells}
    orphans = len(records.cell_directories(plan.directory).keys() - planned)
    facts = [count(cells, "cell")]
    facts += [f"{len(outcomes)} already done, not run again"] if outcomes else []
    facts += [f"{stale} of them stale (sweep.rerun=stale runs them again)"] if stale else []
    facts += [f"{len(failed)} failed before, not tried again (sweep.rerun=failed does)"] if failed else []
    resumed = sum(cell_life.resumes(cell.directory) for cell in to_run)
    facts += [f"{resumed} {plural(resumed, 'goes', 'go')} on from a checkpoint"] if resumed else []
    facts += [f"{orphans} orphaned (no longer in the plan)"] if orphans else []
    return f"{plan.directory}: {', '.join(facts)}"


def _launch_line(parts: Sequence[Group], layout: Layout, at_once: int) -> str:
    number = sum(len(group) for group in parts)
    stacks = [group for group in parts if len(group) > 1]
    stacked = sum(len(group) for group in stacks)
    some = "" if stacked == number else f", {stacked} of them"
    together = f"{some} in {count(len(stacks), 'stack')}" if stacks else ""
    gpus = [device for device in layout.devices if device]
    where = f" on GPU {', '.join(gpus)}" if gpus else ""
    measured = gpus and layout.per_device is None
    each = "as many on each as fit" if measured else f"{min(at_once, len(parts))} at once"
    threads = f"{count(layout.threads, 'thread')} per {'stack' if stacks else 'cell'}"
    return f"running {number}{together}{where}, {each}, {threads}"
