"""Names of the files, and the versions of their layout and of the numbers in them."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf" / "config.yaml").exists() else _PACKAGE.parents[1] / "conf"
"""The YAML files that ship with the code: inside an installed package, beside ``src`` in a checkout."""

SCHEMA = 1
"""Version of the files' layout; raised when a reader of an older one could not read it."""

NUMERICS_VERSION = 1
"""Raised by hand whenever a change alters the numbers that a cell gives: finished cells then read as stale."""

SWEEP, CONFIGS = "sweep.json", "configs.json"
CELL_KEY = "sweep.cell"  # by which a job of a sweep is told which planned cell it is
CONFIG, STATUS, RESULT = "config.yaml", "status.json", "result.json"
STAGE = "stage.json"
METRICS, ARRAYS, LOG, LOCK = "metrics.csv", "arrays.npz", "log.txt", ".lock"
PREVIOUS_RESULT = "result.previous.json"
BEST_CHECKPOINT = "checkpoints/best.ckpt"
RESUME_CHECKPOINT = f"checkpoints/resume-v{NUMERICS_VERSION}.ckpt"  # older code's half-done cells start over
