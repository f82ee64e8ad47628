"""Which cells a worker gets together, and whether a sweep is trained in stacks at all; known before a worker starts."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from capsexp.text import count

# -- settings ----------------------------------------------------------------------------------------------------------

IMPLS = ("auto", "grouped", "vmap", "unfold", "loop")
"""How the convolution of all members is computed; ``auto`` is what is fastest on the device."""


@dataclass(frozen=True)
class Settings:
    """The settings of stacks.

    Attributes:
        impl: one of :data:`IMPLS`.
        buckets: in how many parts of like widths a stack's members are padded and trained; ``auto`` is what is fastest
            on the device.
    """

    impl: str = "auto"
    buckets: int | Literal["auto"] = "auto"


# -- groups ------------------------------------------------------------------------------------------------------------

OF_A_MEMBER = {
    "optimizer": ("lr", "weight_decay", "betas", "eps"),
    "trainer": (
        *("max_epochs", "max_steps", "min_epochs", "min_steps", "check_val_every_n_epoch"),
        *("gradient_clip_val", "progress", "log_every_n_steps"),
    ),
}
"""Keys in which the members of a stack may differ; in ``model`` it is what the architecture names, here all numbers."""

SHARED = ("data", "augment", "routing", "threads", *OF_A_MEMBER)
"""What a training step computes for all members: in this they agree."""


class Configured(Protocol):
    """Something with a cell's resolved config."""

    @property
    def config(self) -> dict[str, Any]:
        """The config."""


C = TypeVar("C", bound=Configured)


def grouped(cells: Sequence[C], at_once: int, members: int | None) -> list[tuple[C, ...]]:
    """The cells in groups; each cell is in one of them.

    Cells of a group agree in everything that a training step computes for all members.  That is a good guess from their
    configs; whoever trains them looks again.  Larger models come first and like ones lie together, so that little is
    lost where tensors are padded to the widest member's.

    Args:
        cells: in the order of their sweep.
        at_once: how many groups run together: so many parts are made of those that agree, while two are left for each.
        members: cells of a group at most, or None.
    """
    return [part for alike in _alike(cells) for part in _parts(alike, at_once, members)]


def most_alike(configs: Iterable[Mapping[str, Any]]) -> int:
    """How many cells with these configs could share one group; 0 where there are none."""
    return max(Counter(map(_shared, configs)).values(), default=0)


def _alike(cells: Sequence[C]) -> list[list[C]]:
    groups: dict[str, list[C]] = {}
    for cell in cells:
        groups.setdefault(_shared(cell.config), []).append(cell)
    return list(groups.values())


def _shared(config: Mapping[str, Any]) -> str:
    parts = {key: _without(config.get(key), OF_A_MEMBER.get(key, ())) for key in SHARED}
    return json.dumps({**parts, "model": _unnumbered(config.get("model"))}, sort_keys=True)


def _without(part: Any, keys: Sequence[str]) -> Any:
    return {key: value for key, value in part.items() if key not in keys} if isinstance(part, Mapping) else part


def _unnumbered(part: Any) -> Any:
    """The same with each number replaced, but for those in lists: kernel sizes have to agree."""
    if isinstance(part, Mapping):
        return {key: _unnumbered(value) for key, value in part.items()}
    return "number" if _is_number(part) else part


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parts(group: Sequence[C], at_once: int, members: int | None) -> Iterator[tuple[C, ...]]:
    """The group in parts whose sizes differ by one at most."""
    ordered = sorted(group, key=lambda cell: -_size(cell.config.get("model")))
    number = max(-(-len(group) // (members or len(group))), min(at_once, len(group) // 2), 1)
    for part in range(number):
        yield tuple(ordered[part * len(group) // number : (part + 1) * len(group) // number])


def _size(part: Any) -> float:
    """The sum of a model's numbers, which grows with its widths."""
    if isinstance(part, Mapping):
        return sum(_size(value) for value in part.values())
    return float(part) if _is_number(part) else 0.0


# -- stacks or processes -----------------------------------------------------------------------------------------------

FEWEST = 8
"""Cells that have to be alike before ``auto`` makes stacks of them."""

WORDS = ("never", "always", "auto")
"""What ``hydra.launcher.stack`` may be."""


@dataclass(frozen=True)
class Choice:
    """How a sweep's cells are trained.

    Attributes:
        stacked: as stacks, as far as they are alike; else one by one.
        why: one line for people, empty where the user has resolve.
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
