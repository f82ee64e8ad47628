"""From a command to its cells: identity, directory names, and the plan of a sweep, frozen at launch.

The rooms: ``cells`` gives one cell its id and name, ``names`` an unnamed sweep its folder; ``grid`` finds the cells of
a sweep; ``launch`` freezes them in the sweep's folder before the first one runs; ``provenance`` is with what they were
launched; ``estimate`` and ``text`` are what ``python -m capsexp.plan`` tells.
"""

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
    set_back,
    tries_failed,
)

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
    "make_grid",
    "register_resolvers",
    "resolved",
    "set_back",
    "text_of",
    "tries_failed",
]


def text_of(launch: Launch, at_once: int | None) -> str:
    """What ``python -m capsexp.plan`` tells of a launch."""
    cost = estimate.of(launch.directory, launch.sweep.cells, launch.grid.frozen)
    return text.of(launch.directory, launch.sweep, cost, at_once)
