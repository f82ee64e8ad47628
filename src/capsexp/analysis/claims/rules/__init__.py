"""The rules that decide claims: each checks its keys and judges one protocol, and its docstring says when it holds.

A rule of one's own is a module anywhere, with a subclass of :class:`~.base.Rule` whose ``kind`` is the module's dotted
name.  It is imported only if the file of claims is trusted.
"""

import inspect
from typing import Annotated, get_args

from capsexp.analysis.claims.rules.base import Rule
from capsexp.analysis.claims.rules.flat import Flat
from capsexp.analysis.claims.rules.gap import Gap
from capsexp.analysis.claims.rules.paired import Paired
from capsexp.analysis.claims.rules.rank import Rank
from capsexp.analysis.claims.rules.robust_area import RobustArea
from capsexp.analysis.claims.rules.trend import Trend
from capsexp.analysis.validation import ByKind, own_module
from capsexp.errors import ConfigError

KINDS = {"flat": Flat, "trend": Trend, "gap": Gap, "paired": Paired, "rank": Rank, "robust_area": RobustArea}


def of_module(name: str) -> type[Rule]:
    """The rule of one's own whose kind is the dotted name of its module.  The module is imported.

    Raises:
        ConfigError: there is no such module, or it defines no rule of its name.
    """
    there = vars(own_module(name)).values()
    rules: list[type[Rule]] = [each for each in there if isinstance(each, type) and issubclass(each, Rule)]
    for each in rules:
        kind = each.model_fields.get("kind")
        if kind is not None and get_args(kind.annotation) == (name,) and not inspect.isabstract(each):
            return each
    rule = "name a module with a subclass of Rule that has all methods and whose kind is the module's name"
    raise ConfigError("kind", rule, name)


Claim = Annotated[Rule, ByKind(lambda: KINDS, of_module)]
"""A claim with any rule, as its ``kind`` says."""
