"""Weights & Biases: one run per cell, a copy of the files on disk, whose failure never affects the cell.

``names`` makes names within its limits, ``options`` checks the settings before any cell runs, ``login`` finds the API
key, ``guard``, ``deadline`` and ``service`` isolate the cell from failures of its run, ``run`` opens and closes a run,
``sync`` uploads offline runs.  Importing any of these loads neither wandb nor Lightning.
"""

from capsexp.tracking.guard import About
from capsexp.tracking.run import log_images, summarise, wandb_run

__all__ = ["About", "log_images", "summarise", "wandb_run"]
