"""The cells of a sweep, found before any of them runs.

Hydra composes a config in tens of milliseconds, twice for every job.  A grid is composed once for each combination of
group choices (``data=digits,mnist``); plain values (``model.c2=16``) are set directly, which gives the same configs.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from capsexp import records
from capsexp.errors import require
from capsexp.plan.cells import Plain, id_of, resolved

Axes = dict[str, tuple[Override, dict[str, Any]]]
"""Each swept key with its override, and each of its values behind the text that Hydra gives a job for it."""


@dataclass(frozen=True)
class Grid:
    """Every cell of a sweep, in the order in which Hydra runs them, each once.

    Attributes:
        axes: each swept key with its values.
        cells: id, directory name and swept values of each cell.
        frozen: the resolved config and the job overrides of each, by id.
        ids: the id behind each job's overrides, also for overrides that give the same work.
    """

    axes: dict[str, list[Any]]
    cells: list[records.PlannedCell]
    frozen: dict[str, records.FrozenCell]
    ids: dict[frozenset[str], str]


def make_grid(config: DictConfig, loader: ConfigLoader) -> Grid:
    """The cells that Hydra's basic sweeper would run.

    Raises:
        ConfigError: an axis has no listed values, moves the folder, or there is no cell at all.
    """
    fixed, axes = _split(config, loader)
    plain_axes = {key: list(values.values()) for key, (_, values) in axes.items()}
    for key in axes:
        where = key in ("sweep", "paths") or key.startswith(("sweep.", "paths.", "hydra."))
        require(not where, key, "be one value: all cells of a sweep lie in one folder", plain_axes[key])
    names = records.cell_directories(Path(config.paths.sweep))
    grid = Grid(plain_axes, [], {}, {})
    for values, overrides, plain in _cells(config, loader, fixed, axes):
        identifier = id_of(plain)
        grid.ids[known_by(overrides)] = identifier
        if identifier not in grid.frozen:
            name = names[identifier].name if identifier in names else records.cell_name(values, identifier)
            grid.cells.append(records.PlannedCell(identifier, name, values))
            grid.frozen[identifier] = records.FrozenCell(plain, overrides)
    require(bool(grid.cells), "sweep", "have at least one cell", plain_axes)
    return grid


def known_by(overrides: Iterable[str]) -> frozenset[str]:
    """What a job of a sweep is known by: its overrides, but for those that are Hydra's own."""
    return frozenset(text for text in overrides if not text.lstrip("+~").startswith("hydra"))


def _split(config: DictConfig, loader: ConfigLoader) -> tuple[list[Override], Axes]:
    """The overrides that hold for every cell, and the swept ones with their values; a later one wins, as in Hydra.

    An experiment's axis that the command line pins to one value stays an axis, of one value.
    """
    swept = config.hydra.sweeper.get("params") or {}
    params = [f"{key}={value}" for key, value in swept.items()]
    parser = OverridesParser.create(config_loader=loader)
    overrides = parser.parse_overrides(params + list(config.hydra.overrides.task))
    last = {override.get_key_element().lstrip("+"): override for override in overrides}
    fixed: list[Override] = []
    axes: Axes = {}
    for key, override in last.items():
        if override.is_sweep_override():
            rule = "be swept over listed values (a,b,c or range(...))"
            require(override.is_discrete_sweep(), key, rule, override.input_line)
            texts = dict.fromkeys(override.sweep_string_iterator())
            element = override.get_key_element()
            axes[key] = (override, {text: parser.parse_override(f"{element}={text}").value() for text in texts})
        elif key in swept and not override.is_delete():
            axes[key] = (override, {override.get_value_element_as_str(): override.value()})
        else:
            fixed.append(override)
    return fixed, axes


def _cells(
    config: DictConfig, loader: ConfigLoader, fixed: Sequence[Override], axes: Axes
) -> Iterator[tuple[Plain, list[str], Plain]]:
    """Each combination of swept values, with the overrides that Hydra gives its job and with its resolved config."""
    composed: dict[tuple[tuple[str, str], ...], DictConfig] = {}
    plain_keys = [key for key, (override, _) in axes.items() if _is_plain_value(override, loader)]
    common = [f"{override.get_key_element()}={override.get_value_element_as_str()}" for override in fixed]
    for combination in itertools.product(*(values for _, values in axes.values())):
        texts = dict(zip(axes, combination, strict=True))
        values = {key: axes[key][1][text] for key, text in texts.items()}
        choices = [f"{axes[key][0].get_key_element()}={text}" for key, text in texts.items()]
        groups = tuple((key, text) for key, text in texts.items() if key not in plain_keys)
        if groups not in composed:
            said = [str(override.input_line) for override in fixed]
            composed[groups] = loader.load_sweep_config(config, [*said, *choices])
        cell_config = composed[groups]
        with open_dict(cell_config):
            for key in plain_keys:
                OmegaConf.update(cell_config, key, values[key])
        yield values, [*common, *choices], resolved(cell_config)


def _is_plain_value(override: Override, loader: ConfigLoader) -> bool:
    key = override.key_or_group
    return not (override.is_add() or override.package or loader.get_group_options(key)) and not key.startswith("hydra")
