"""The grouping of cells into stacks, and the choice whether a sweep is stacked; both are made before workers start."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from capsexp.text import count

# -- settings ----------------------------------------------------------------------------------------------------------

IMPLS = ("auto", "grouped", "vmap", "unfold", "loop")
"""Implementations of the convolution of all members; ``auto`` is the fastest on the device."""


@dataclass(frozen=True)
class Settings:
    """The settings of stacks.

    Attributes:
        impl: one of :data:`IMPLS`.
        buckets: number of parts of similar widths in which a stack's members are padded and trained; ``auto`` is the
            fastest on the device.
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
"""Keys in which members of a stack may differ; in ``model``, the architecture names them, here all numbers."""

SHARED = ("data", "augment", "routing", "threads", *OF_A_MEMBER)
"""Config groups that determine the training step; the members of a stack agree in them."""


class HasConfig(Protocol):
    """An object with a cell's resolved config."""

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config."""


C = TypeVar("C", bound=HasConfig)


def grouped(cells: Sequence[C], at_once: int, members: int | None) -> list[tuple[C, ...]]:
    """Partition the cells into groups.

    The cells of a group agree in everything that determines the training step.  This is an estimate from their configs;
    the stack scheduler checks it again.  Larger models come first and similar ones are adjacent, so that padding to the
    widest member costs little.

    Args:
        cells: in the order of their sweep.
        at_once: number of concurrent groups; cells that agree are divided into as many groups of at least two cells.
        members: maximum number of cells per group, or None.
    """
    return [part for alike in _alike(cells) for part in _parts(alike, at_once, members)]


def most_alike(configs: Iterable[Mapping[str, Any]]) -> int:
    """The largest number of cells with these configs that could share one group; 0 if there are none."""
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
    """The config with each number replaced, except in lists: kernel sizes have to agree."""
    if isinstance(part, Mapping):
        return {key: _unnumbered(value) for key, value in part.items()}
    return "number" if _is_number(part) else part


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parts(group: Sequence[C], at_once: int, members: int | None) -> Iterator[tuple[C, ...]]:
    """The group in parts whose lengths differ by at most one."""
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
"""Minimum number of similar cells for which ``auto`` makes stacks."""

STACK_CHOICES = ("never", "always", "auto")
"""The values of ``hydra.launcher.stack``."""


@dataclass(frozen=True)
class Choice:
    """The choice how a sweep's cells are trained.

    Attributes:
        stacked: whether similar cells are trained as stacks; else each cell is trained alone.
        why: the reason as one line; empty if the user has chosen.
    """

    stacked: bool
    why: str = ""


def choose(stack: str, engine: str, devices: Sequence[str | None], configs: Iterable[Mapping[str, Any]]) -> Choice:
    """The choice for a sweep.

    ``auto`` stacks if at least :data:`FEWEST` cells can share a stack.  One small network leaves most of a GPU idle.
    On a CPU, operations on many channels cost less per channel, and fixed costs occur once (docs/throughput.md has the
    measurements).  ``auto`` does not stack capsule networks on a CPU, where stacks are slower.  It does not stack in a
    cluster either, since the nodes are not known when the sweep is planned.  The choice depends on the whole plan and
    not on the number of finished cells, so that a resumed sweep is trained as it was begun.

    Args:
        stack: one of :data:`STACK_CHOICES`.
        engine: ``local`` or ``ray``.
        devices: names of the GPUs; None or "" for none.
        configs: the configs of all cells of the plan.
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
