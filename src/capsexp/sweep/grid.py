"""The cells of a sweep, computed before any of them runs.

The invariant of this module: a cell has the same config, and so the same id and numbers, as a single cell with its
overrides.

Hydra composes a config in tens of milliseconds.  A grid is composed once for each combination of values that select
config files (``data=digits,mnist``) or that are merged (mappings).  Numbers, strings and null are set on a composed
config, which gives the same result.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from capsexp import records
from capsexp.errors import require
from capsexp.sweep.cells import Plain, checked, id_of, override_texts, plain_of, resolved, swept_by_experiment
from capsexp.sweep.interpolations import overlap
from capsexp.sweep.messages import REFUSED, in_combination, misfit
from capsexp.sweep.variants import may_vary, varied


@dataclass
class Grid:
    """The distinct cells of a sweep, in the order in which they run.

    Attributes:
        axes: each swept key with its values.
        cells: id, directory name and swept values of each cell.
        frozen: the resolved config and the overrides of each, by id.
    """

    axes: dict[str, list[Any]] = field(default_factory=dict)
    cells: list[records.PlannedCell] = field(default_factory=list)
    frozen: dict[str, records.FrozenCell] = field(default_factory=dict)

    def add(self, names: Mapping[str, Path], values: Mapping[str, Any], overrides: list[str], plain: Plain) -> str:
        """Add a cell unless it exists already.

        Args:
            names: the directories in the sweep's folder, by cell id: a cell keeps its directory's name.
            values: the swept values.
            overrides: the overrides of the cell's job.
            plain: the resolved config.

        Returns:
            The cell's id.
        """
        identifier = id_of(plain)
        if identifier not in self.frozen:
            shown = {key: _as_resolved(key, value, plain) for key, value in values.items()}
            name = names[identifier].name if identifier in names else records.cell_name(shown, identifier)
            self.cells.append(records.PlannedCell(identifier, name, shown))
            self.frozen[identifier] = records.FrozenCell(plain, overrides)
        return identifier


@dataclass(frozen=True)
class CommandOverride:
    """One override of a command.

    Attributes:
        override: Hydra's parsed override.
        values: its values by the override text of a job: one value, unless it is swept.
        is_axis: whether it is swept, or sets an axis of the experiment to one value.
    """

    override: Override
    values: dict[str, Any]
    is_axis: bool

    @property
    def key(self) -> str:
        """The key or group, without Hydra's ``+``."""
        return self.override.get_key_element().lstrip("+")


def make_grid(config: DictConfig, loader: ConfigLoader) -> Grid:
    """The cells of a command: every combination of its listed values.

    Args:
        config: the command's composed config, Hydra's part included.
        loader: the loader that composed it.

    Raises:
        ConfigError: an axis has no listed values, changes the folder, or there is no cell at all.
    """
    given = command_overrides(config, loader)
    axes = {each.key: list(each.values.values()) for each in _by_first_mention(given, config) if each.is_axis}
    _check_axes(axes)
    for key, values in axes.items():
        require(sum(each.key == key and each.is_axis for each in given) == 1, key, "be swept once", values)
    grid, names = Grid(), records.cell_directories(Path(config.paths.sweep))
    for chosen, overrides, plain in _combinations(config, loader, given, list(axes)):
        grid.add(names, chosen, overrides, plain)
    require(bool(grid.cells), "sweep", "have at least one cell", axes)
    grid.axes = {key: _as_planned(key, values, grid) for key, values in axes.items()}
    return grid


def _check_axes(axes: Mapping[str, list[Any]]) -> None:
    for key, values in axes.items():
        elsewhere = key in ("sweep", "paths") or key.startswith(("sweep.", "paths.", "hydra."))
        require(not elsewhere, key, "be one value: all cells of a sweep lie in one folder", values)


def add_jobs(grid: Grid, config: DictConfig, loader: ConfigLoader, jobs: Sequence[Sequence[str]]) -> list[str]:
    """Add the cells of another sweeper's jobs to a grid.

    Args:
        grid: the cells so far.
        config: the command's composed config.
        loader: the loader that composed it.
        jobs: the overrides of each job.

    Returns:
        The id of each job's cell.
    """
    names, parser = records.cell_directories(Path(config.paths.sweep)), OverridesParser.create(config_loader=loader)
    fixed, axes, ids = set(override_texts(config.hydra)), swept_by_experiment(config.hydra), []
    for job in jobs:
        given = parser.parse_overrides(list(job))
        swept = [each for each in given if each.input_line not in fixed or _key(each) in axes]
        values = {_key(override): override.value() for override in swept}
        _check_axes({key: [value] for key, value in values.items()})
        try:
            plain = resolved(_composed(config, loader, job))
        except REFUSED as error:
            options = [str(each.input_line) for each in swept if loader.get_group_options(each.key_or_group)]
            found = in_combination(error, options)
            if found is error:
                raise
            raise found from error
        ids.append(grid.add(names, values, list(job), plain))
    for key in dict.fromkeys(key for cell in grid.cells for key in cell.axes):
        grid.axes[key] = _distinct(cell.axes[key] for cell in grid.cells if key in cell.axes)
    return ids


# -- overrides --------------------------------------------------------------------------------------------------------


def command_overrides(config: DictConfig, loader: ConfigLoader, *, listed: bool = True) -> list[CommandOverride]:
    """The overrides in the order in which Hydra applies them, without those that a later one replaces.

    An experiment's axis that the command line sets to one value stays an axis, with one value.

    Args:
        config: the command's composed config.
        loader: the loader that composed it.
        listed: whether each axis must list its values; else ``values`` is empty.

    Raises:
        ConfigError: an axis has no listed values.
    """
    parser = OverridesParser.create(config_loader=loader)
    params = swept_by_experiment(config.hydra)
    given = parser.parse_overrides([f"{key}={value}" for key, value in params.items()])
    typed = parser.parse_overrides(override_texts(config.hydra))
    overrides = [each for each in given if _key(each) not in {_key(other) for other in typed}] + typed
    kept = [each for place, each in enumerate(overrides) if not _is_replaced(each, overrides[place + 1 :])]
    if not listed:
        return [CommandOverride(each, {}, each.is_sweep_override()) for each in kept]
    return [_command_override(each, parser, pinned=_key(each) in params) for each in kept]


def _key(override: Override) -> str:
    return override.get_key_element().lstrip("+")


def _is_replaced(override: Override, later: Sequence[Override]) -> bool:
    """True if a later override of the key replaces this one: mappings are merged, and an added key must stay."""
    same = [each for each in later if _key(each) == _key(override)]
    return any(not _may_merge(each) and each.is_add() == override.is_add() for each in same)


def _may_merge(override: Override) -> bool:
    if not override.is_sweep_override():
        return isinstance(override.value(), dict)
    return not override.is_discrete_sweep() or any("{" in text for text in override.sweep_string_iterator())


def _command_override(override: Override, parser: OverridesParser, *, pinned: bool) -> CommandOverride:
    key, element = _key(override), override.get_key_element()
    if not override.is_sweep_override():
        line = str(override.input_line)
        return CommandOverride(override, {line: override.value()}, pinned and not override.is_delete())
    rule = "be swept over listed values (a,b,c or range(...))"
    require(override.is_discrete_sweep(), key, rule, override.input_line)
    texts = dict.fromkeys(f"{element}={text}" for text in override.sweep_string_iterator())
    return CommandOverride(override, {text: parser.parse_override(text).value() for text in texts}, True)


def _by_first_mention(given: Sequence[CommandOverride], config: DictConfig) -> list[CommandOverride]:
    """The overrides in the order in which their keys first occur: the experiment's axes, then the command line."""
    names = [*swept_by_experiment(config.hydra), *override_texts(config.hydra)]
    keys = list(dict.fromkeys(name.partition("=")[0].lstrip("+") for name in names))
    return sorted(given, key=lambda each: keys.index(each.key))


# -- the combinations -------------------------------------------------------------------------------------------------


def _combinations(
    config: DictConfig, loader: ConfigLoader, given: Sequence[CommandOverride], axes: Sequence[str]
) -> Iterator[tuple[dict[str, Any], list[str], Plain]]:
    """Each combination of swept values, with its overrides and its resolved config."""
    direct = [_is_set_directly(each, given, loader) for each in given]
    compose = _composer(config, loader)
    in_order = sorted(
        (place for place, each in enumerate(given) if each.is_axis), key=lambda p: axes.index(given[p].key)
    )
    fixed = [next(iter(each.values), "") for each in given]
    bases: dict[int, Plain | None] = {}

    def resolve(texts: Sequence[str]) -> Plain:
        composed = compose([text if not direct[place] else fixed[place] for place, text in enumerate(texts)])
        values = {given[place].key: given[place].values[texts[place]] for place in in_order if direct[place]}
        return _with_values(composed, values, bases)

    for choice in itertools.product(*(given[place].values for place in in_order)):
        texts = _placed(fixed, in_order, choice)
        try:
            plain = resolve(texts)
        except REFUSED as error:
            deciding = [place for place in in_order if not direct[place]]
            lists = [list(given[place].values) for place in deciding]
            again = functools.partial(_resolve_placed, resolve, texts, deciding)
            found = misfit(error, [texts[place] for place in deciding], lists, again)
            if found is error:
                raise
            raise found from error
        yield {given[place].key: given[place].values[texts[place]] for place in in_order}, texts, plain


def _resolve_placed(
    resolve: Callable[[Sequence[str]], Plain], texts: Sequence[str], places: Sequence[int], choice: Sequence[str]
) -> Plain:
    return resolve(_placed(texts, places, choice))


def _placed(texts: Sequence[str], places: Sequence[int], choice: Sequence[str]) -> list[str]:
    """The texts with others at some places."""
    placed = list(texts)
    for place, text in zip(places, choice, strict=True):
        placed[place] = text
    return placed


def _with_values(composed: DictConfig, values: Mapping[str, Any], bases: dict[int, Plain | None]) -> Plain:
    """The resolved config of a cell that sets plain values on a composed config.

    Args:
        composed: the composed config, which gets the values.
        values: the values by key.
        bases: the first cell's config of each composed one, as :func:`plain_of` gives it; None if each must be
            resolved by itself.
    """
    base = bases.get(id(composed))
    plain = varied(base, values) if base else None
    if plain is None:
        with open_dict(composed):
            for key, value in values.items():
                OmegaConf.update(composed, key, value)
        plain = plain_of(composed)
        if id(composed) not in bases:
            bases[id(composed)] = records.copied(plain) if may_vary(composed, values) else None
    return checked(plain, composed)


def _composer(config: DictConfig, loader: ConfigLoader) -> Callable[[Sequence[str]], DictConfig]:
    """A cached function that composes the config of a job; equal overrides give the same object."""
    composed: dict[tuple[str, ...], DictConfig] = {}

    def compose(overrides: Sequence[str]) -> DictConfig:
        key = tuple(overrides)
        if key not in composed:
            composed[key] = _composed(config, loader, overrides)
        return composed[key]

    return compose


def _composed(config: DictConfig, loader: ConfigLoader, overrides: Sequence[str]) -> DictConfig:
    """The config of a job, in the sweep's own folder."""
    composed = loader.load_sweep_config(config, list(overrides))
    if OmegaConf.is_interpolation(composed.sweep, "name"):  # made from what is swept, and a job sweeps nothing
        composed.sweep.name = str(config.sweep.name)
    return composed


def _is_set_directly(one: CommandOverride, given: Sequence[CommandOverride], loader: ConfigLoader) -> bool:
    """True if setting an override's values on a composed config gives the same as composing with them."""
    override, key = one.override, one.key
    if not one.is_axis or override.is_add() or override.is_delete() or override.package or key.startswith("hydra"):
        return False
    if not all(_is_plain(value) for value in one.values.values()):
        return False
    others = [each for each in given if each is not one and overlap(key, each.key.lstrip("~"))]
    return all(_is_choice(each, loader) for each in others) and not _is_choice(one, loader)


def _is_choice(one: CommandOverride, loader: ConfigLoader) -> bool:
    """True if an override chooses an option of a group, which Hydra does before it applies any value."""
    mapping = any(isinstance(value, dict) for value in one.values.values())
    return bool(loader.get_group_options(one.override.key_or_group)) and not mapping


def _is_plain(value: Any) -> bool:
    word = isinstance(value, str) and "$" not in value and value != MISSING
    return value is None or isinstance(value, bool | int | float) or word


# -- values -----------------------------------------------------------------------------------------------------------


def _as_resolved(key: str, value: Any, plain: Plain) -> Any:
    """A swept value; a reference to another key (``${model.c2}``) is resolved for this cell."""
    if not (isinstance(value, str) and "${" in value):
        return value
    node: Any = plain
    for part in key.split("."):
        node = node[part]
    return node


def _as_planned(key: str, values: list[Any], grid: Grid) -> list[Any]:
    """An axis' values; if some refer to other keys, the resolved values of the cells."""
    if not any(isinstance(value, str) and "${" in value for value in values):
        return values
    return _distinct(cell.axes[key] for cell in grid.cells)


def _distinct(values: Iterator[Any]) -> list[Any]:
    """The values without duplicates; values of different types are different (1 and true)."""
    return list({repr(value): value for value in values}.values())
