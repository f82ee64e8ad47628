"""Former names of modules; they can still be imported for one release, with a warning."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any

MODULES = {
    "capsexp.callbacks.broken": "capsexp.callbacks.collapse",
    "capsexp.callbacks.routed": "capsexp.nn.routing_hooks",
    "capsexp.callbacks.routing_hooks": "capsexp.nn.routing_hooks",
    "capsexp.footprint": "capsexp.memory_estimate",
    "capsexp.interruption": "capsexp.stop_request",
    "capsexp.machine": "capsexp.hardware",
    "capsexp.randomness": "capsexp.rng",
    "capsexp.recipes.examine": "capsexp.recipes.diagnose",
    "capsexp.report.cells": "capsexp.analysis.cells",
    "capsexp.report.results": "capsexp.analysis.results",
    "capsexp.report.write": "capsexp.analysis.write",
    "capsexp.words": "capsexp.text",
}
"""The present name of each module, by its former name."""

NAMES = {
    "capsexp.callbacks.broken.BrokenGuard": "CollapseGuard",
    "capsexp.callbacks.broken.is_broken": "has_collapsed",
    "capsexp.recipes.examine.examine": "diagnose",
}
"""The present name of each renamed object in these modules, by its former dotted name."""


class FormerNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and loads a module under its former name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec with this loader for a module of :data:`MODULES`; None for any other."""
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MODULES else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """A module whose attributes are those of the renamed module."""
        former, present = spec.name, importlib.import_module(MODULES[spec.name])
        warnings.warn(
            f"{former} is now {present.__name__}; the former name goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        module = types.ModuleType(former, present.__doc__)

        def find(name: str) -> Any:
            return getattr(present, NAMES.get(f"{former}.{name}", name))

        module.__getattr__ = find  # type: ignore[method-assign]
        former_names = {now: old.rpartition(".")[2] for old, now in NAMES.items() if old.startswith(f"{former}.")}
        public = [name for name in vars(present) if not name.startswith("_")]
        module.__dict__["__all__"] = [former_names.get(name, name) for name in public]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing, since the module has no code of its own."""


def install() -> None:
    """Register the former names with the import system."""
    if not any(isinstance(finder, FormerNames) for finder in sys.meta_path):
        sys.meta_path.append(FormerNames())
