"""Experiments on pruning and capsule networks, configured by Hydra and trained by Lightning.

>>> import capsexp
>>> folder = capsexp.run_sweep(["model.c2=4,8", "seed=0,1"])
>>> cells = capsexp.load_sweep(folder)
>>> capsexp.average_seeds(cells, "test/acc")
"""

import importlib
from typing import Any

from capsexp import renamed

__version__ = "0.1.0"

PUBLIC = {
    "average_seeds": "capsexp.analysis.points",
    "load_joined": "capsexp.analysis.comparison.joined",
    "load_run": "capsexp.build",
    "load_sweep": "capsexp.analysis.table",
    "paired_differences": "capsexp.analysis.comparison.paired",
    "run_cell": "capsexp.api",
    "run_sweep": "capsexp.api",
}
"""The module of each function of the library; it is imported when the function is first used (PEP 562)."""

__all__ = [
    *("average_seeds", "load_joined", "load_run", "load_sweep", "paired_differences"),
    *("run_cell", "run_sweep"),
]

renamed.install()


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC])
