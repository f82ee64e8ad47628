"""From a planned sweep to an engine that runs it: what ``hydra/launcher=capsexp`` (``stacked``, ``auto``) does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from capsexp import cell as cell_life
from capsexp import plan, records
from capsexp.cell import Cell, Ended
from capsexp.engine.base import Engine, Lot, Tally
from capsexp.engine.local import LocalEngine
from capsexp.engine.options import Layout, Options
from capsexp.engine.progress import Progress, progress
from capsexp.errors import require
from capsexp.stacking.lots import lots
from capsexp.words import count


def run(jobs: Sequence[Sequence[str]]) -> list[float | None]:
    """Run the jobs of the planned sweep that need it.

    Args:
        jobs: the overrides of each job, as Hydra's sweeper makes them.

    Returns:
        The score of each job's cell, None where it has none.

    Raises:
        KeyboardInterrupt: the user stopped it.
    """
    launch = plan.current.launch
    assert launch is not None, "the plan is made before the sweeper starts"
    assert launch.options is not None, "the plan has checked the settings of our launcher"
    ids = [_id(launch, job) for job in jobs]
    layout = plan.layout_of(launch)
    planned = {cell.id: cell for cell in launch.sweep.cells}
    cells = [_cell(launch, planned[identifier], layout) for identifier in dict.fromkeys(ids)]
    ended = {cell.id: done for cell in cells if (done := cell_life.finished(cell)) is not None}
    failed = {cell.id: before for cell in cells if (before := _left_alone(launch, cell)) is not None}
    to_run = [cell for cell in cells if cell.id not in ended | failed]
    shown = progress(len(cells), len(ended))
    with shown.shown():
        shown.said(_what_is_there(launch, ended, failed))
        if to_run:
            tally = _run(launch.options, layout, to_run, shown)
            ended |= tally.ended
            if tally.stopped:
                raise KeyboardInterrupt
    return [ended[identifier].score if identifier in ended else None for identifier in ids]


def _run(options: Options, layout: Layout, cells: Sequence[Cell], shown: Progress) -> Tally:
    """Run cells, in lots if they are stacked."""
    engine = _engine(options, layout)
    parts = lots(cells, engine.at_once, options.members) if layout.stacked else [(cell,) for cell in cells]
    shown.at_once = sum(len(lot) for lot in parts[: engine.at_once])
    if layout.why:
        shown.said(layout.why)
    shown.said(_what_runs(parts, layout, engine.at_once))
    return engine.run(parts, shown)


def _engine(options: Options, layout: Layout) -> Engine:
    if options.engine == "local":
        return LocalEngine(options, layout, settings=options.settings)
    from capsexp.engine.ray import RayEngine  # imports Ray

    return RayEngine(options, layout, settings=options.settings)


def _left_alone(launch: plan.Launch, cell: Cell) -> records.Status | None:
    """The status of a cell that has failed and is not to be tried again."""
    status = records.read_status(cell.directory)
    failed = status is not None and status.state == "failed" and not records.read_result(cell.directory)
    return status if failed and not plan.tries_failed(launch.rerun, cell.id) else None


def _id(launch: plan.Launch, job: Sequence[str]) -> str:
    identifier = launch.grid.ids.get(plan.known_by(job))
    rule = "be one that runs every combination of listed values (capsexp or basic)"
    require(identifier is not None, "hydra/sweeper", rule, list(job))
    assert identifier is not None
    return identifier


def _cell(launch: plan.Launch, planned: records.PlannedCell, layout: Layout) -> Cell:
    config = dict(launch.grid.frozen[planned.id].config)
    if config["threads"] == "auto":
        config["threads"] = layout.threads
    directory = Path(launch.directory, planned.name)
    status = records.read_status(directory)
    failed_at = status.updated if status is not None and status.state == "failed" else 0.0
    return Cell(directory, planned.id, planned.axes, config, in_sweep=True, failed_at=failed_at)


def _what_is_there(launch: plan.Launch, ended: Mapping[str, Ended], failed: Mapping[str, Any]) -> str:
    stale = sum(ended.words.startswith("stale") for ended in ended.values())
    planned = {cell.id for cell in launch.sweep.cells}
    orphans = len(records.cell_directories(launch.directory).keys() - planned)
    facts = [count(len(planned), "cell")]
    facts += [f"{len(ended)} already done, not run again"] if ended else []
    facts += [f"{stale} of them stale (sweep.rerun=stale runs them again)"] if stale else []
    facts += [f"{len(failed)} failed before, not tried again (sweep.rerun=failed does)"] if failed else []
    facts += [f"{orphans} orphaned (no longer in the plan)"] if orphans else []
    return f"{launch.directory}: {', '.join(facts)}"


def _what_runs(parts: Sequence[Lot], layout: Layout, at_once: int) -> str:
    number = sum(len(lot) for lot in parts)
    stacks = [lot for lot in parts if len(lot) > 1]
    stacked = sum(len(lot) for lot in stacks)
    some = "" if stacked == number else f", {stacked} of them"
    together = f"{some} in {count(len(stacks), 'stack')}" if stacks else ""
    gpus = [device for device in layout.devices if device]
    where = f" on GPU {', '.join(gpus)}" if gpus else ""
    measured = gpus and layout.per_device is None
    each = "as many on each as fit" if measured else f"{min(at_once, len(parts))} at once"
    threads = f"{count(layout.threads, 'thread')} a {'stack' if stacks else 'cell'}"
    return f"running {number}{together}{where}, {each}, {threads}"
