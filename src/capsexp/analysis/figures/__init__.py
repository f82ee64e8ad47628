"""Figures of a report: each module has one kind, its keys in the ``report:`` block and the drawing of it.

A kind is a module with a subclass of :class:`~.base.Figure`, whose ``kind`` is the module's name, and a function
``draw(panel)``, which gives a picture, or None and a line that says why there is none.  A kind that shows arrays of a
single cell also has ``picture(figure, read, caption)``, which takes any function that reads an array by its name.

A kind of one's own is such a module anywhere, and its name the module's dotted name.  It is imported for one's own
command, and for the report of a folder only if that is trusted.
"""

import importlib
import pkgutil
from functools import cache
from typing import Any

from capsexp.analysis.figures.base import Figure
from capsexp.analysis.validation import own_module
from capsexp.errors import ConfigError


@cache
def kinds() -> dict[str, type[Figure]]:
    """The model of each kind of figure, by its name."""
    names = sorted(each.name for each in pkgutil.iter_modules(__path__))
    found = {name: _model(drawer(name), name) for name in names}
    return {name: model for name, model in found.items() if model}


def of_module(name: str) -> type[Figure]:
    """The model of a kind of one's own, whose name is the dotted name of its module.  The module is imported.

    Raises:
        ConfigError: there is no such module, or it defines no kind of its name.
    """
    module = own_module(name)
    model = _model(module, name)
    if model is None or not callable(getattr(module, "draw", None)):
        rule = "name a module with a function draw and a subclass of Figure whose kind is the module's name"
        raise ConfigError("kind", rule, name)
    return model


def drawer(kind: str) -> Any:
    """The module of a kind."""
    return importlib.import_module(kind if "." in kind else f"{__name__}.{kind}")


def _model(module: Any, name: str) -> type[Figure] | None:
    """The subclass of Figure that a module defines, unless it is one that kinds share."""
    own = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Figure)]
    return next((each for each in own if each.model_fields["kind"].default == name), None)
