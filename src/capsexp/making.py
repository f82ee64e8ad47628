"""Objects made from the groups of a config; the only module that calls Hydra's ``instantiate``."""

import difflib
import functools
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from capsexp import records
from capsexp.errors import ConfigError, require
from capsexp.recipes.base import Part, Recipe

Config = dict[str, Any]


REFUSALS = (ArithmeticError, AttributeError, TypeError, ValueError)
"""Errors of our constructors that say that an argument is of another kind, such as a word in place of a criterion."""


def make(config: Config, group: str, without: tuple[str, ...] = (), **extra: Any) -> Any:
    """The object that a group of the config describes.

    Args:
        config: the resolved config.
        group: name of the group.
        without: keys of the group that are not arguments of the object.
        **extra: further arguments.
    """
    require(isinstance(config[group], dict), group, "be a group of keys (choose one with group=option)", config[group])
    node = {key: value for key, value in config[group].items() if key not in without}
    return make_node(node, group, **extra)


def make_node(node: Config, group: str, **extra: Any) -> Any:
    """The object that ``node`` describes; errors of its constructor name the key with the group's name before it."""
    try:
        # As a keyword `_convert_` would be merged into a further copy of the node.
        return instantiate({**node, "_convert_": "all"}, **extra)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ConfigError):
            raise cause.within(group) from error
        if "Error locating target" in str(error):
            rule = f"name something that can be imported ({cause})"
            raise ConfigError(f"{group}._target_", rule, node["_target_"]) from error
        ours = str(node["_target_"]).startswith("capsexp.")
        if isinstance(cause, REFUSALS if ours else TypeError):
            rule = f"be arguments that {node['_target_']} takes ({with_nearest(class_of(node), str(cause))})"
            raise ConfigError(group, rule, without_target(node)) from error
        raise


def with_nearest(made: Any, message: str) -> str:
    """A class's refusal of its arguments in one line, with the argument that is the most like one that it lacks."""
    line = re.sub(r"\. Did you mean '\w+'\?", "", " ".join(message.split()))  # Python's own advice since 3.13
    found = re.search(r"unexpected keyword argument '(\w+)'", line)
    names = inspect.signature(made).parameters if found and made is not None else ()
    near = difflib.get_close_matches(found[1], names, 1) if found else []
    return f"{line}; {near[0]} is the most like it" if near else line


def without_target(node: Config) -> Config:
    """The arguments of a node, without its ``_target_``."""
    return {key: value for key, value in node.items() if key != "_target_"}


def class_of(node: Any) -> type | None:
    """The class that a node names; None if it names none."""
    try:
        module, _, name = str(node["_target_"]).rpartition(".")
        found = getattr(importlib.import_module(module), name)
    except Exception:  # the error is reported when the object is made; Hydra's get_class would log it
        return None
    return found if isinstance(found, type) else None


# -- recipes and their parts ------------------------------------------------------------------------------------------


def make_recipe(config: Config) -> Recipe:
    """The recipe with its declared parts, which are made separately, so that an error names the part's group.

    Raises:
        ConfigError: a value breaks a rule, or the config requests a part that only other recipes have.
    """
    kind = class_of(config["recipe"])
    rule = "name a subclass of capsexp.recipes.base.Recipe"
    if kind is not None:
        require(issubclass(kind, Recipe), "recipe._target_", rule, config["recipe"]["_target_"])
    own: Mapping[str, Part] | None = getattr(kind, "parts", None)
    if own is None:  # a function, which may give a recipe
        recipe = make(config, "recipe")
        require(isinstance(recipe, Recipe), "recipe._target_", rule, config["recipe"]["_target_"])
        return cast("Recipe", recipe)
    made = {name: _make_part(config, part) for name, part in own.items() if part.everywhere or _asks(config, part)}
    for part, recipes in parts_in_conf().items():
        if _asks(config, part) and part not in own.values():
            _make_part(config, part)  # an error in the part itself is reported first
            raise ConfigError(_key(part), f"come with recipe={recipes}", config["recipe"]["_target_"])
    return cast("Recipe", make(config, "recipe", **made))


def _asks(config: Config, part: Part) -> bool:
    group = config.get(part.group)
    if part.keys:
        return isinstance(group, dict) and any(key in group for key in part.keys)
    return part.group in config and not part.everywhere


def _make_part(config: Config, part: Part) -> Any:
    if not part.keys:
        return make(config, part.group, part.but)
    given = {key: config[part.group][key] for key in part.keys if key in config[part.group]}
    if part.asked_by is not None and part.asked_by not in given:
        key, value = next(iter(given.items()))
        hint = f" ({part.hint})" if part.hint else ""
        raise ConfigError(f"{part.group}.{key}", f"come with recipe={parts_in_conf().get(part)}{hint}", value)
    node = given if part.target is None else {"_target_": part.target, **given}
    return make_node(node, part.group)


def _key(part: Part) -> str:
    return part.group if part.asked_by is None else f"{part.group}.{part.asked_by}"


@functools.cache
def parts_in_conf() -> dict[Part, str]:
    """The parts of all recipes in ``conf/recipe``, and the names of the recipes that have each, joined with "or"."""
    takers: dict[Part, list[str]] = {}
    for name, kind in sorted(_recipes(), key=lambda each: (len(each[1].__mro__), each[0])):  # base classes first
        for part in kind.parts.values():
            takers.setdefault(part, []).append(name)
    return {part: " or ".join(filter(None, (", ".join(names[:-1]), names[-1]))) for part, names in takers.items()}


def _recipes() -> Iterator[tuple[str, type[Recipe]]]:
    for file in sorted((records.CONF / "recipe").glob("*.yaml")):
        kind = class_of({"_target_": _target(file)})
        if kind is not None and issubclass(kind, Recipe):
            yield file.stem, kind


def _target(file: Path) -> str | None:
    """The class that a recipe's file names, directly or through the file that it is based on."""
    content = cast("DictConfig", OmegaConf.load(file))
    target = content.get("recipe", content).get("_target_")
    bases = (each for each in content.get("defaults", []) if isinstance(each, str) and each != "_self_")
    return next((_target(file.with_stem(base)) for base in bases), None) if target is None else str(target)
