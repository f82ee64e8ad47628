"""From a command to its cells: identity, directory names, and the plan of a sweep, frozen at launch.

The rooms: ``cells`` gives one cell its id and name, ``names`` an unnamed sweep its folder; ``grid`` finds the cells of
a sweep; ``launch`` freezes them in the sweep's folder before the first one runs; ``rerun`` says which ended ones run
again, ``provenance`` with what they were launched; ``estimate`` and ``text`` are what ``python -m capsexp.plan`` tells.
"""

from capsexp.engine.options import Layout, layout
from capsexp.plan import estimate, text
from capsexp.plan.cells import cell_id, data_file, data_sha256, resolved
from capsexp.plan.grid import Grid, known_by, make_grid
from capsexp.plan.launch import (
    Launch,
    PlanCallback,
    PlanError,
    Planned,
    axes_of,
    config_error,
    current,
    frozen_cell,
    launch_of,
    register_resolvers,
)
from capsexp.plan.rerun import set_back, tries_failed
from capsexp.stacking.lots import lots

__all__ = [
    "Grid",
    "Launch",
    "PlanCallback",
    "PlanError",
    "Planned",
    "axes_of",
    "cell_id",
    "config_error",
    "current",
    "data_file",
    "data_sha256",
    "frozen_cell",
    "known_by",
    "launch_of",
    "layout_of",
    "make_grid",
    "register_resolvers",
    "resolved",
    "set_back",
    "text_of",
    "tries_failed",
]


def text_of(launch: Launch) -> str:
    """What ``python -m capsexp.plan`` tells of a launch."""
    cost = estimate.of(launch.directory, launch.sweep.cells, launch.grid.frozen, launch.rerun)
    if launch.options is None:
        return text.of(launch.directory, launch.sweep, cost, None)
    layout = layout_of(launch)
    at_once = layout.most if launch.options.engine == "local" else None
    frozen = list(launch.grid.frozen.values())
    parts = lots(frozen, at_once or 1, launch.options.members) if layout.stacked else []
    return text.of(launch.directory, launch.sweep, cost, at_once, [len(part) for part in parts], layout.why)


def layout_of(launch: Launch) -> Layout:
    """How a sweep under our launcher lies on this machine."""
    assert launch.options is not None, "only our launcher asks"
    configs = [frozen.config for frozen in launch.grid.frozen.values()]
    return layout(launch.options, len(launch.grid.cells), configs)
