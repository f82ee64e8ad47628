"""A folder for a sweep that nobody has named: from what it sweeps and what it fixes."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig

from capsexp import records

SINGLE = "adhoc"
"""Where single cells lie."""

MOST = 80
"""Characters of a name; a longer one ends in a digest."""


def sweep_name(*, _root_: DictConfig) -> str:
    """Hydra resolver ``${sweep_name:}``: the experiment's name, or what the command sweeps, or ``adhoc`` for one cell.

    ``model.c2=4,8 seed=0,1 data=mnist`` gives ``c2_x_seed_data-mnist``: the same folder however many values there are
    and in whatever order the words stand, another one for other fixed values.
    """
    hydra = _root_.get("hydra")
    if hydra is None:  # composed without Hydra's part, by a program
        return SINGLE
    experiment = hydra.runtime.choices.get("experiment")
    if experiment:
        return str(experiment).replace("/", "-")
    if hydra.mode != RunMode.MULTIRUN:
        return SINGLE
    params = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
    overrides = OverridesParser.create().parse_overrides(params + list(hydra.overrides.task))
    last = {override.key_or_group: override for override in overrides if _matters(override.key_or_group)}
    swept = [key for key, override in last.items() if override.is_sweep_override()]
    fixed = [_fixed(override) for override in last.values() if not override.is_sweep_override()]
    parts = ["_x_".join(sorted(_short(swept))), *sorted(fixed)]
    return _cut("_".join(part for part in parts if part) or SINGLE)


def _matters(key: str) -> bool:
    return not any(key == volatile or key.startswith((f"{volatile}.", f"{volatile}/")) for volatile in records.VOLATILE)


def _short(keys: Iterable[str]) -> list[str]:
    """The last parts of the keys, or whole keys where those are alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)]


def _fixed(override: Override) -> str:
    key = override.key_or_group
    value = "none" if override.is_delete() else override.get_value_element_as_str()
    value = Path(value).stem if key == "data.path" else value
    text = "".join(char if char.isalnum() or char in ".+-" else "." for char in value).strip(".") or "none"
    return f"{key.rpartition('.')[2]}-{text}"


def _cut(name: str) -> str:
    name = name.replace("/", "-")
    return name if len(name) <= MOST else f"{name[: MOST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
