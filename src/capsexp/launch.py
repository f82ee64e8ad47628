"""From a planned sweep to an engine that runs it: what ``hydra/launcher=capsexp`` does."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from capsexp import cell as cell_life
from capsexp import plan, records
from capsexp.cell import Cell, Ended
from capsexp.engine.local import LocalEngine
from capsexp.engine.options import Layout, Options, checked, layout
from capsexp.engine.progress import progress
from capsexp.errors import require

log = logging.getLogger(__name__)


def run(given: Mapping[str, Any], jobs: Sequence[Sequence[str]]) -> list[float | None]:
    """Run the jobs of the planned sweep that need it.

    Args:
        given: the launcher's settings (``hydra.launcher``).
        jobs: the overrides of each job, as Hydra's sweeper makes them.

    Returns:
        The score of each job's cell, None where it has none.

    Raises:
        ConfigError: a setting breaks its rule.
        KeyboardInterrupt: the user stopped it.
    """
    launch = plan.current.launch
    assert launch is not None, "the plan is made before the sweeper starts"
    options = options_of(given)
    ids = [_id(launch, job) for job in jobs]
    arrangement = layout_of(options, launch)
    planned = {cell.id: cell for cell in launch.sweep.cells}
    cells = [_cell(launch, planned[identifier], arrangement) for identifier in dict.fromkeys(ids)]
    ended = {cell.id: done for cell in cells if (done := cell_life.finished(cell)) is not None}
    to_run = [cell for cell in cells if cell.id not in ended]
    shown = progress(len(cells), len(ended), min(arrangement.most, max(1, len(to_run))))
    with shown.shown():
        _say_what_is_there(shown.said, launch, ended)
        if to_run:
            shown.said(_what_runs(len(to_run), arrangement))
            tally = LocalEngine(options, arrangement).run(to_run, shown)
            ended |= tally.ended
            if tally.stopped:
                raise KeyboardInterrupt
    return [ended[identifier].score if identifier in ended else None for identifier in ids]


def options_of(given: Mapping[str, Any]) -> Options:
    """The launcher's settings, checked."""
    plain = {
        key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in given.items()
    }
    return checked(plain)


def layout_of(options: Options, launch: plan.Launch) -> Layout:
    """How the planned sweep lies on this machine."""
    return layout(options, len(launch.grid.cells), [frozen.config for frozen in launch.grid.frozen.values()])


def _id(launch: plan.Launch, job: Sequence[str]) -> str:
    identifier = launch.grid.ids.get(plan.known_by(job))
    rule = "be one that runs every combination of listed values (capsexp or basic)"
    require(identifier is not None, "hydra/sweeper", rule, list(job))
    assert identifier is not None
    return identifier


def _cell(launch: plan.Launch, planned: records.PlannedCell, arrangement: Layout) -> Cell:
    config = dict(launch.grid.frozen[planned.id].config)
    if config["threads"] == "auto":
        config["threads"] = arrangement.threads
    directory = Path(launch.directory, planned.name)
    status = records.read_status(directory)
    failed = status is not None and status.state == "failed" and plan.tries_failed(config["sweep"]["rerun"], planned.id)
    failed_at = status.updated if status is not None and failed else 0.0
    return Cell(directory, planned.id, planned.axes, config, in_sweep=True, failed_at=failed_at)


def _say_what_is_there(say: Any, launch: plan.Launch, ended: Mapping[str, Ended]) -> None:
    stale = sum(ended.words.startswith("stale") for ended in ended.values())
    planned = {cell.id for cell in launch.sweep.cells}
    orphans = len(records.cell_directories(launch.directory).keys() - planned)
    facts = [f"{len(planned)} cells"]
    facts += [f"{len(ended)} already done, not run again"] if ended else []
    facts += [f"{stale} of them stale (sweep.rerun=stale runs them again)"] if stale else []
    facts += [f"{orphans} orphaned (no longer in the plan)"] if orphans else []
    say(f"{launch.directory}: {', '.join(facts)}")


def _what_runs(count: int, arrangement: Layout) -> str:
    gpus = [device for device in arrangement.devices if device]
    where = f" on GPU {', '.join(gpus)}" if gpus else ""
    threads = f"{arrangement.threads} thread" + ("s" if arrangement.threads > 1 else "")
    each = (
        "as many on each as fit"
        if gpus and arrangement.per_device is None
        else f"{min(arrangement.most, count)} at once"
    )
    return f"running {count}{where}, {each}, {threads} a cell"
