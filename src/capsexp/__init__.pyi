from capsexp import filters as filters
from capsexp import losses as losses
from capsexp import metrics as metrics
from capsexp import models as models
from capsexp import nn as nn
from capsexp import pruning as pruning
from capsexp import routing as routing
from capsexp.analysis.comparison.joined import load_joined as load_joined
from capsexp.analysis.comparison.paired import paired_differences as paired_differences
from capsexp.analysis.points import average_seeds as average_seeds
from capsexp.analysis.table import load_sweep as load_sweep
from capsexp.api import run_cell as run_cell
from capsexp.api import run_sweep as run_sweep
from capsexp.build import load_run as load_run
from capsexp.master_coefficients import accumulate as accumulate

__version__: str
__all__ = [
    "accumulate",
    "average_seeds",
    "filters",
    "load_joined",
    "load_run",
    "load_sweep",
    "losses",
    "metrics",
    "models",
    "nn",
    "paired_differences",
    "pruning",
    "routing",
    "run_cell",
    "run_sweep",
]
