"""The output of ``python -m capsexp.plan``: the cells, their states, and the estimated cost of the remaining ones."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from capsexp import records
from capsexp.errors import require
from capsexp.stacking.grouping import grouped
from capsexp.sweep import report_block
from capsexp.sweep.estimate import Estimate, Measured
from capsexp.sweep.plan import Plan, plan_cell, plan_sweep
from capsexp.text import count, duration, roughly

SHOWN = 8
"""Maximum number of values of an axis that are listed."""


SHORT_S = 10
"""Shorter times are told to a tenth of a second."""

GRIDS = ("hydra_plugins.capsexp_launcher.sweeper.", "hydra._internal.core_plugins.basic_sweeper.")
"""The modules of sweepers whose cells are every combination of the listed values."""


def plan_command(words: Sequence[str], *, multirun: bool, folder: str | None = None) -> Plan:
    """The plan of a command; nothing is written or run.

    Args:
        words: its overrides.
        multirun: whether it has ``-m``.
        folder: a further folder of configs (``--config-dir``).

    Raises:
        ConfigError: a value that concerns the sweep as a whole breaks its rule, or the sweeper creates its cells
            during the search.
    """
    search = [f"hydra.searchpath=[file://{Path(folder).absolute()}]"] if folder else []
    mode = ["hydra.mode=MULTIRUN"] if multirun else []
    with initialize_config_dir(version_base="1.3", config_dir=str(records.CONF), job_name="capsexp"):
        loader = GlobalHydra.instance().config_loader()
        run_mode = RunMode.MULTIRUN if multirun else RunMode.RUN
        config = loader.load_configuration("config", [*words, *search, *mode], run_mode=run_mode)
        HydraConfig.instance().set_config(config)
        if config.hydra.mode != RunMode.MULTIRUN:
            return plan_cell(config)
        sweeper = str(config.hydra.sweeper.get("_target_"))
        rule = "be capsexp or basic: others create their cells during the search, so they cannot be planned"
        require(sweeper.startswith(GRIDS), "hydra/sweeper", rule, sweeper)
        return plan_sweep(config, loader)


def text_of(plan: Plan, estimate: Estimate, measured: Sequence[Measured] = ()) -> str:
    """A plan as text, with the remaining cells and their estimated cost.

    Args:
        plan: the plan.
        estimate: the estimate of its remaining work.
        measured: cells of which a few steps were measured.
    """
    if plan.options is None:
        return _text(plan, estimate, None, measured=measured)
    layout = plan.layout
    at_once = layout.most if plan.options.engine == "local" else None
    configs = list(plan.frozen.values())
    parts = grouped(configs, at_once or 1, plan.options.members) if layout.stacked else []
    return _text(plan, estimate, at_once, [len(part) for part in parts], layout.why, measured)


def _text(
    plan: Plan,
    estimate: Estimate,
    at_once: int | None,
    groups: Sequence[int] = (),
    why: str = "",
    measured: Sequence[Measured] = (),
) -> str:
    """The plan as text.

    Args:
        plan: the plan.
        estimate: the estimate of its remaining work.
        at_once: number of concurrent cells; None if the launcher does not define it.
        groups: the sizes of the stacks if no cell were done yet; empty if cells are not stacked.
        why: the choice of ``hydra/launcher=auto``, in one line.
        measured: cells of which a few steps were measured.
    """
    sweep = plan.sweep
    first, last = sweep.cells[0], sweep.cells[-1]
    lines = [
        f"{sweep.name}: {count(len(sweep.cells), 'cell')} in {plan.directory}",
        *(f"  {key}: {_values(values)}" for key, values in sweep.axes.items()),
        f"  first: {first.name}",
        f"  last:  {last.name}",
        *(f"  {line}" for line in report_block.unswept_axes(sweep)),
        _states(estimate),
        *([why] if why else []),
        *([_stacks(groups, at_once)] if groups else []),
        *([_measured(measured)] if measured else []),
        _time(estimate, at_once, measured, stacked=max(groups, default=1) > 1),
        _disk(estimate),
    ]
    return "\n".join(lines) + "\n"


def _values(values: list[object]) -> str:
    texts = [str(value) for value in values]
    if len(texts) > SHOWN:
        texts = [*texts[: SHOWN - 3], "...", *texts[-2:]]
    return f"{', '.join(texts)}  ({count(len(values), 'value')})"


def _states(estimate: Estimate) -> str:
    there = [f"{number} {state}" for state, number in sorted(estimate.states.items())]
    orphans = f"; {estimate.orphans} orphaned" if estimate.orphans else ""
    causes = "; ".join(f"{number} stale: {cause}" for cause, number in estimate.stale.items())
    because = f" ({causes}; sweep.rerun=stale runs them again)" if causes else ""
    return f"now: {', '.join(there)}{orphans}; to run: {len(estimate.left)}{because}"


def _stacks(groups: Sequence[int], at_once: int | None) -> str:
    stacks = [cells for cells in groups if cells > 1]
    each = f" of up to {max(stacks)} cells" if stacks else ""
    alone = f" and {count(len(groups) - len(stacks), 'cell')} alone" if len(stacks) < len(groups) else ""
    together = f", {min(at_once, len(groups))} at once" if at_once else ""
    return f"stacks: {len(stacks)}{each}{alone}{together}"


def _measured(measured: Sequence[Measured]) -> str:
    steps = [1000 * each.step_s for each in measured]
    step = f"{min(steps):.3g} ms" if len(steps) == 1 else f"{min(steps):.3g} to {max(steps):.3g} ms"
    fits = sorted(each.fit_s for each in measured)
    fit = " to ".join(dict.fromkeys((_seconds(fits[0]), _seconds(fits[-1]))))
    counts = sorted({each.steps for each in measured})
    epochs = max(each.epochs for each in measured)
    return (
        f"measured: {count(len(measured), 'cell')}, each alone; a training step of {step}, {counts[0]} "
        f"{f'to {counts[-1]} ' if len(counts) > 1 else ''}per epoch; {fit} for {count(epochs, 'epoch')}"
    )


def _time(estimate: Estimate, at_once: int | None, measured: Sequence[Measured], *, stacked: bool) -> str:
    if not estimate.left:
        return "time: none, nothing is left to run"
    if stacked:
        return "time: not known beforehand for stacks"
    left = len(estimate.left)
    together = min(at_once or 1, left)
    if estimate.known:
        total = roughly(left * estimate.cell_s / together)
        where = " of the same work" if estimate.elsewhere else ""
        return (
            f"time: about {total}, {count(together, 'cell')} at a time "
            f"(mean of {count(estimate.known, 'finished cell')}{where}: {estimate.cell_s:.1f} s)"
        )
    if not measured:
        return "time: not known, no such cell has been measured yet (--measure runs a few steps)"
    total = _seconds(left * statistics.fmean([each.fit_s for each in measured]) / together)
    further = "" if all(each.alone for each in measured) else ", for the first fit alone: this recipe has others"
    return f"time: up to {total}, {count(together, 'cell')} at a time (if none stops early{further})"


def _seconds(seconds: float) -> str:
    return duration(seconds) if seconds < SHORT_S else roughly(seconds)


def _disk(estimate: Estimate) -> str:
    free = f"{_bytes(estimate.free_bytes)} are free"
    if not estimate.known:
        return f"disk: not known; {free}"
    return (
        f"disk: about {_bytes(len(estimate.left) * estimate.cell_bytes)} more "
        f"({_bytes(estimate.cell_bytes)} per cell); {free}"
    )


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
