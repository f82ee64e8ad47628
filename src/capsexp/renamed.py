"""Modules that had other names: they can be imported by those for one release, with a warning."""

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
    "capsexp.callbacks.routed": "capsexp.callbacks.routing_hooks",
    "capsexp.footprint": "capsexp.memory_estimate",
    "capsexp.interruption": "capsexp.stop_request",
    "capsexp.machine": "capsexp.hardware",
    "capsexp.randomness": "capsexp.rng",
    "capsexp.words": "capsexp.text",
}
"""The present name of each, by the former one."""

NAMES = {"capsexp.callbacks.broken.BrokenGuard": "CollapseGuard", "capsexp.callbacks.broken.is_broken": "has_collapsed"}
"""What in them has another name too."""


class FormerNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its former name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for a module of :data:`MODULES`, which this object loads."""
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MODULES else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """A module that answers with what the renamed one has."""
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
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is left to be run."""


def install() -> None:
    """Let the import system know the former names."""
    if not any(isinstance(finder, FormerNames) for finder in sys.meta_path):
        sys.meta_path.append(FormerNames())
