"""File names, and the versions of the files' layout and of the numbers in them."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf" / "config.yaml").exists() else _PACKAGE.parents[1] / "conf"
"""The YAML files that ship with the code: inside an installed package, beside ``src`` in a checkout."""

SCHEMA = 1
"""Version of the files' layout; raised when a reader of the previous version could not read the files."""

NUMERICS_VERSION = 2
"""Version of the numbers; raised by hand when a change alters a cell's numbers, so that finished cells are stale."""

SWEEP, CONFIGS = "sweep.json", "configs.json"
CELL_KEY = "sweep.cell"  # key by which a job of a sweep identifies its planned cell
CONFIG, STATUS, RESULT = "config.yaml", "status.json", "result.json"
STAGE = "stage.json"
METRICS, ARRAYS, LOG, LOCK = "metrics.csv", "arrays.npz", "log.txt", ".lock"
PROGRESS = "progress.json"
PREVIOUS_RESULT = "result.previous.json"
BEST_CHECKPOINT = "checkpoints/best.ckpt"
CODE = "checkpoints/code.json"  # digests of one's own code, with which the checkpoints were made
RESUME_CHECKPOINT = f"checkpoints/resume-v{NUMERICS_VERSION}.ckpt"  # interrupted cells of older code start over
