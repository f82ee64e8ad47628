"""Experiments on pruning and capsule networks, configured by Hydra and trained by Lightning.

>>> import capsexp
>>> folder = capsexp.run_sweep(["model.c2=4,8", "seed=0,1"])
>>> cells = capsexp.load_sweep(folder)
>>> capsexp.average_seeds(cells, "test/acc")

The parts are a library for plain PyTorch, too: :mod:`capsexp.nn`, :mod:`capsexp.routing`, :mod:`capsexp.losses`,
:mod:`capsexp.metrics`, :mod:`capsexp.pruning`, :mod:`capsexp.filters`, :mod:`capsexp.models` and :func:`accumulate`
import neither Hydra nor Lightning nor wandb.
"""

import importlib
from typing import Any

from capsexp import renamed

__version__ = "0.1.0"

PUBLIC = {
    "accumulate": "capsexp.master_coefficients",
    "average_seeds": "capsexp.analysis.points",
    "load_joined": "capsexp.analysis.comparison.joined",
    "load_run": "capsexp.build",
    "load_sweep": "capsexp.analysis.table",
    "paired_differences": "capsexp.analysis.comparison.paired",
    "run_cell": "capsexp.api",
    "run_sweep": "capsexp.api",
}
"""The module of each function of the library; it is imported when the function is first used (PEP 562)."""

PACKAGES = ("filters", "losses", "metrics", "models", "nn", "pruning", "routing")
"""The packages that plain PyTorch can use; each is imported when it is first used."""

__all__ = [
    *("accumulate", "filters", "losses", "metrics", "models", "nn", "pruning", "routing"),
    *("average_seeds", "load_joined", "load_run", "load_sweep", "paired_differences"),
    *("run_cell", "run_sweep"),
]

renamed.install()


def __getattr__(name: str) -> Any:
    if name in PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC, *PACKAGES})
