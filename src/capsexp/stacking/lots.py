"""Which cells a worker gets together: those whose fits may be trained as one stack."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

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


def lots(cells: Sequence[C], at_once: int, members: int | None) -> list[tuple[C, ...]]:
    """The cells in lots; each cell is in one of them.

    Cells of a lot agree in everything that a training step computes for all members.  That is a good guess from their
    configs; whoever trains them looks again.  Larger models come first and like ones lie together, so that little is
    lost where tensors are padded to the widest member's.

    Args:
        cells: in the order of their sweep.
        at_once: how many lots run together: so many parts are made of those that agree, while two are left for each.
        members: cells of a lot at most, or None.
    """
    return [part for group in _alike(cells) for part in _parts(group, at_once, members)]


def most_alike(configs: Iterable[Mapping[str, Any]]) -> int:
    """How many cells with these configs could share one lot; 0 where there are none."""
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
