"""Weights & Biases: one run a cell, a copy of what is on disk anyway, and never able to hurt the cell.

``names`` makes names within its limits (the planner checks them before anything runs), ``login`` says whether there is
a key, ``guard``, ``deadline`` and ``service`` keep a run from hurting its cell, ``run`` opens and closes one, ``sync``
uploads what was kept offline.  Importing any of these loads neither wandb nor Lightning.
"""

from capsexp.tracking.guard import About
from capsexp.tracking.run import log_images, summarise, wandb_run

__all__ = ["About", "log_images", "summarise", "wandb_run"]
