"""Objects made from the groups of a config; the only module that calls Hydra's ``instantiate``."""

import difflib
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Collection, Iterator, Mapping
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

KINDS = {"routing": "capsexp.routing.base.Routing"}
"""The base class of what a part of another object must be, by the part's key."""


def make(config: Config, group: str, without: tuple[str, ...] = (), **extra: Any) -> Any:
    """The object that a group of the config describes.

    Args:
        config: the resolved config.
        group: name of the group.
        without: keys of the group that are not arguments of the object.
        **extra: further arguments.

    Raises:
        ConfigError: the object cannot be made; its key is that of the group, or of the part in it that is wrong.
    """
    require(isinstance(config[group], dict), group, "be a group of keys (choose one with group=option)", config[group])
    node = {key: value for key, value in config[group].items() if key not in without}
    own = {key for key, value in node.items() if isinstance(value, dict) and config.get(key) == value}
    return make_node(node, group, own, **extra)


def make_node(node: Config, group: str, own: Collection[str] = (), **extra: Any) -> Any:
    """The object that ``node`` describes; errors of its constructor name the key with the group's name before it.

    Args:
        node: the target and its arguments; what another object will construct from it (``_partial_``) is a part.
        group: the key of the node.
        own: keys of the parts that are groups of their own, and are named so.
        **extra: further arguments.

    Raises:
        ConfigError: see :func:`make`.
    """
    _check_class(node, group)
    parts = {key: value for key, value in node.items() if isinstance(value, dict) and value.get("_partial_")}
    made = {key: _make_part_of(value, key if key in own else f"{group}.{key}") for key, value in parts.items()}
    whole = {key: value for key, value in node.items() if key not in parts}
    try:
        # As a keyword `_convert_` would be merged into a further copy of the node.
        return instantiate({**whole, "_convert_": "all"}, **made, **extra)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ConfigError):
            raise cause.within(group) from error
        if "Error locating target" in str(error):
            raise _unlocated(node, group, error) from error
        ours = str(node["_target_"]).startswith("capsexp.")
        if isinstance(cause, REFUSALS if ours else TypeError):
            raise _refused(node, group, cause) from error
        raise


def _make_part_of(node: Config, key: str) -> Any:
    """The constructor that a node with ``_partial_`` describes; what it refuses names the node's key."""
    kind, base = class_of(node), KINDS.get(key.rpartition(".")[2])
    fits = kind is None or issubclass(kind, _base_of(base))
    require(fits, f"{key}._target_", f"name a subclass of {base}", node["_target_"])
    return functools.partial(_construct, make_node(node, key), node, key)


def _base_of(name: str | None) -> type:
    return class_of({"_target_": name}) or object


def _construct(constructor: Any, node: Config, key: str, /, *args: Any, **sizes: Any) -> Any:
    base = KINDS.get(key.rpartition(".")[2])
    try:
        made = constructor(*args, **sizes)
    except ConfigError as error:
        raise error.within(key, outermost=True) from error
    except REFUSALS as error:
        raise _refused(node, key, error).as_it_is() from error
    if isinstance(made, _base_of(base)):
        return made
    raise ConfigError(f"{key}._target_", f"give a {base}", node["_target_"]).as_it_is()


def _check_class(node: Config, key: str) -> None:
    """Refuse a class without all that its base class asks for."""
    kind = class_of(node)
    lacking = ", ".join(sorted(getattr(kind, "__abstractmethods__", ())))
    rule = f"name a class that has all methods of its base ({kind.__name__ if kind else ''} lacks {lacking})"
    require(not lacking, f"{key}._target_", rule, node.get("_target_"))


def _unlocated(node: Config, group: str, error: Exception) -> ConfigError:
    """The error for a target that cannot be imported, of the node or of something in it."""
    found = re.search(r"full_key: (\S+)", str(error))
    inner = found[1] if found else ""
    for part in filter(None, re.split(r"[.\[\]]+", inner)):
        node = node[int(part) if isinstance(node, list) else part]
    rule = f"name something that can be imported ({_missing(str(node['_target_'])) or error.__cause__})"
    return ConfigError(f"{group}.{inner}._target_" if inner else f"{group}._target_", rule, node["_target_"])


def _missing(target: str) -> str:
    """The part of a dotted name that is not there, with the most similar name in its place; empty if all are."""
    parts, found = target.split("."), None
    for end, part in enumerate(parts):
        name, owner = ".".join(parts[: end + 1]), ".".join(parts[:end])
        try:
            found = getattr(found, part) if hasattr(found, part) else importlib.import_module(name)
        except Exception as error:
            if not isinstance(error, ModuleNotFoundError) or error.name != name:  # a fault of the module's own code
                return f"{name} raises {type(error).__name__}: {error}"
            return f"{owner} has no {part}{_instead(found, part)}" if owner else f"there is no module {part}"
    return ""


def _instead(owner: Any, name: str) -> str:
    """The name in a module that is the most like one that it lacks, or else the classes that it defines."""
    there = vars(owner)
    inside = [each.name for each in pkgutil.iter_modules(getattr(owner, "__path__", []))]
    public = [each for each in (*there, *inside) if not each.startswith("_")]
    near = difflib.get_close_matches(name, public, 1)
    own = [each for each, value in there.items() if isinstance(value, type) and value.__module__ == owner.__name__]
    return f"; {near[0]} is the most like it" if near else f"; it has {', '.join(own)}" if own else ""


def _refused(node: Config, key: str, cause: BaseException) -> ConfigError:
    """The error for arguments that a class does not take."""
    said = with_nearest(class_of(node), str(cause) if isinstance(cause, TypeError | ValueError) else repr(cause))
    rule = f"be arguments that {node['_target_']} takes ({said})"
    return ConfigError(key, rule, {name: value for name, value in without_target(node).items() if name != "_partial_"})


def with_nearest(made: type | None, message: str) -> str:
    """A class's refusal of its arguments in one line, with the argument that is the most like one that it lacks."""
    line = re.sub(r"\. Did you mean '\w+'\?", "", " ".join(message.split()))  # Python's own advice since 3.13
    found = re.search(r"unexpected keyword argument '(\w+)'", line)
    near = difflib.get_close_matches(found[1], _arguments(made), 1) if found and made is not None else []
    return f"{line}; {near[0]} is the most like it" if near else line


def _arguments(made: type) -> list[str]:
    """The arguments of a class, and of its bases where it hands on what it does not know."""
    names: list[str] = []
    for kind in made.__mro__[:-1]:  # all but object
        parameters = list(inspect.signature(kind).parameters.values())
        names += [each.name for each in parameters if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)]
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return names


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
