"""Whether a sweep's cells are trained as stacks, or one by one in processes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from capsexp.stacking.lots import most_alike
from capsexp.words import count

FEWEST = 8
"""Cells that have to be alike before ``auto`` makes stacks of them."""

WORDS = ("never", "always", "auto")
"""What ``hydra.launcher.stack`` may be."""


@dataclass(frozen=True)
class Choice:
    """How a sweep's cells are trained.

    Attributes:
        stacked: as stacks, as far as they are alike; else one by one.
        why: one line for people, empty where the user has chosen.
    """

    stacked: bool
    why: str = ""


def choose(stack: str, engine: str, devices: Sequence[str | None], configs: Iterable[Mapping[str, Any]]) -> Choice:
    """The choice for a sweep.

    ``auto`` stacks where cells run on a GPU and at least :data:`FEWEST` of them can share a stack: one small network
    leaves most of a GPU idle.  On a CPU it does not, since a member of a stack takes longer there than a cell on its
    own; nor in a cluster, since what its nodes are is not known when the sweep is planned.  The choice looks at the
    whole plan and not at how much of it is done, so that a sweep that goes on is trained as it was begun.

    Args:
        stack: one of :data:`WORDS`.
        engine: ``local`` or ``ray``.
        devices: where cells run: names of GPUs; None or "" for none.
        configs: those of all cells of the plan.
    """
    if stack != "auto":
        return Choice(stack == "always")
    if engine != "local":
        return Choice(False, "auto: processes (a cluster's devices are not known beforehand)")
    if not any(devices):
        return Choice(False, "auto: processes (no GPU: members of a stack take longer than one by one)")
    alike = most_alike(configs)
    if alike < FEWEST:
        return Choice(False, f"auto: processes ({count(alike, 'cell')} at most could share a stack, {FEWEST} should)")
    return Choice(True, f"auto: stacked ({count(alike, 'cell')} can share a stack on a GPU)")
