"""Names of folders: the default name of a sweep, from its swept and fixed keys, and the name of a cell."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from capsexp import records
from capsexp.errors import ConfigError, require
from capsexp.sweep.cells import Plain, cell_id, is_word, override_texts, swept_by_experiment

SINGLE = "adhoc"
"""The name of the sweep of single cells."""

MOST = 80
"""Maximum length of a name; a longer one is cut and ends in a digest."""


def sweep_name(*, _root_: DictConfig) -> str:
    """Hydra resolver ``${sweep_name:}``: the experiment's name, or the command's swept keys, or ``adhoc`` for one cell.

    ``model.c2=4,8 seed=0,1 data=mnist`` gives ``c2_x_seed_data-mnist``.  The folder does not depend on the number of
    values or on the order of the arguments, but on the fixed values.
    """
    if _root_.sweep.cell is not None:  # a job of a plan
        return str(_root_.sweep.cell).rpartition("/")[0]
    hydra = _root_.get("hydra")
    if hydra is None:  # composed without Hydra's part, by a program
        return SINGLE
    experiment = hydra.runtime.choices.get("experiment")
    if experiment:
        return str(experiment).replace("/", "-")
    if hydra.mode != RunMode.MULTIRUN:
        return SINGLE
    if not OmegaConf.is_missing(hydra.job, "num"):  # a job of launchers and sweepers without a plan
        raise ConfigError("sweep.name", "be given unless hydra/sweeper or hydra/launcher is capsexp", None)
    params = [f"{key}={value}" for key, value in swept_by_experiment(hydra).items()]
    overrides = OverridesParser.create().parse_overrides(params + override_texts(hydra))
    last = {override.key_or_group: override for override in overrides if not records.is_volatile(override.key_or_group)}
    name, short = _name(last, _last_parts(_root_)), _name(last, {})
    earlier = records.read_sweep(Path(_root_.paths.output, short)) if short != name else None
    return short if earlier is not None and _sweeps(earlier, last) else name


def _name(overrides: Mapping[str, Override], used: Mapping[str, int]) -> str:
    """A name from the last parts of the keys, or from whole keys if the config uses a last part more than once."""
    swept = [key for key, override in overrides.items() if override.is_sweep_override()]
    fixed = [_fixed(key, override, used) for key, override in overrides.items() if not override.is_sweep_override()]
    parts = ["_x_".join(sorted(_short(swept, used))), *sorted(fixed)]
    return _cut("_".join(part for part in parts if part) or SINGLE)


def _last_parts(config: DictConfig) -> dict[str, int]:
    """The number of keys of a config with each last part."""
    counts: dict[str, int] = {}
    plain = cast("Plain", OmegaConf.to_container(config, resolve=False))
    for key in _keys({key: value for key, value in plain.items() if key not in records.VOLATILE}):
        counts[key] = counts.get(key, 0) + 1
    return counts


def _keys(tree: Mapping[Any, Any]) -> Iterator[str]:
    for key, value in tree.items():
        yield str(key)
        if isinstance(value, Mapping):
            yield from _keys(value)


def _short(keys: Sequence[str], used: Mapping[str, int]) -> list[str]:
    """The last parts of the keys, or whole keys if a last part is not unique here or in the config."""
    last = [key.rpartition(".")[2] for key in keys]
    alone = [last.count(name) == 1 and used.get(name, 0) < 2 for name in last]
    return [name if is_alone else key for key, name, is_alone in zip(keys, last, alone, strict=True)]


def _fixed(key: str, override: Override, used: Mapping[str, int]) -> str:
    value = "none" if override.is_delete() else override.get_value_element_as_str()
    value = Path(value).stem if key == "data.path" else value
    text = "".join(char if char.isalnum() or char in ".+-" else "." for char in value).strip(".") or "none"
    return f"{_short([key], used)[0]}-{text}"


def _cut(name: str) -> str:
    name = name.replace("/", "-")
    return name if len(name) <= MOST else f"{name[: MOST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _sweeps(earlier: records.Sweep, overrides: Mapping[str, Override]) -> bool:
    """True if a folder with the short name of older versions holds a sweep of these keys."""
    words = OverridesParser.create().parse_overrides([str(word) for word in earlier.overrides])
    return {word.key_or_group for word in words if not records.is_volatile(word.key_or_group)} == set(overrides)


# -- cells ------------------------------------------------------------------------------------------------------------


def check_places(config: DictConfig) -> None:
    """Refuse names and folders that would put a sweep somewhere else than below the folder that was meant.

    Raises:
        ConfigError: for ``sweep.name`` or ``paths.output``.
    """
    name, output = config.sweep.name, config.paths.output
    named = is_word(name)
    parts = str(name).split("/")
    rule = "be a text whose parts between slashes begin with a letter, a digit or one of _ + -"
    plain = all(part[:1].isalnum() or part[:1] in ("_", "+", "-") for part in parts) if named else False
    require(named and plain and str(name).isprintable(), "sweep.name", rule, name)
    require(is_word(output) and bool(str(output).strip()), "paths.output", "be the path of a folder", output)
    rule = "be written without ~, which only a shell replaces (${oc.env:HOME} is your home folder)"
    require(not str(output).startswith("~"), "paths.output", rule, output)


def cell_name(*, _root_: DictConfig) -> str:
    """Hydra resolver ``${cell_name:}``: the name of the cell's directory.

    An existing directory with the cell's id keeps its name, so that a cell stays in the same place even if it is now
    part of another sweep.
    """
    check_places(_root_)  # here, before Hydra makes the folder
    directory = Path(_root_.paths.sweep)
    identifier = str(_root_.sweep.cell or cell_id(_root_)).rpartition("/")[2]
    existing = records.cell_directories(directory).get(identifier)
    if existing:
        return existing.name
    planned = planned_cell(directory, identifier)
    return planned.name if planned else records.cell_name(axes_of(_root_, _root_.hydra, identifier), identifier)


def planned_cell(directory: Path, identifier: str) -> records.PlannedCell | None:
    """A cell of the plan in a sweep's folder."""
    sweep = records.read_sweep(directory)
    return next((cell for cell in sweep.cells if cell.id == identifier), None) if sweep else None


def axes_of(config: DictConfig, hydra: Any, identifier: str) -> Plain:
    """The swept keys of a cell with its values: those of the plan, or those that its experiment would sweep."""
    planned = planned_cell(Path(config.paths.sweep), identifier)
    if planned is not None:
        return planned.axes
    return {str(key): _value(config, hydra, str(key)) for key in swept_by_experiment(hydra)}


def _value(config: DictConfig, hydra: Any, key: str) -> Any:
    value = OmegaConf.select(config, key)
    return hydra.runtime.choices.get(key) if OmegaConf.is_config(value) else value
