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

    ``auto`` stacks where at least :data:`FEWEST` cells can share a stack.  One small network leaves most of a GPU idle;
    on a CPU, operations on many channels cost less a channel, and those around them are done once for all
    (docs/throughput.md has the measurements).  It does not stack capsule networks on a CPU, where they are slower that
    way, nor in a cluster, since what its nodes are is not known when the sweep is planned.  The choice looks at the
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
    alike = most_alike(config for config in configs if any(devices) or not config.get("routing"))
    if alike < FEWEST:
        return Choice(False, f"auto: processes ({count(alike, 'cell')} at most could share a stack, {FEWEST} should)")
    where = " on a GPU" if any(devices) else ""
    return Choice(True, f"auto: stacked ({count(alike, 'cell')} can share a stack{where})")
