from capsexp.analysis.comparison.joined import load_joined as load_joined
from capsexp.analysis.comparison.paired import paired_differences as paired_differences
from capsexp.analysis.points import average_seeds as average_seeds
from capsexp.analysis.table import load_sweep as load_sweep
from capsexp.api import run_cell as run_cell
from capsexp.api import run_sweep as run_sweep
from capsexp.build import load_run as load_run

__version__: str
__all__ = [
    "average_seeds",
    "load_joined",
    "load_run",
    "load_sweep",
    "paired_differences",
    "run_cell",
    "run_sweep",
]
