"""What is on disk: the files of a cell and of a sweep, how they are written, and how they are read.

A cell's directory holds ``config.yaml``, ``status.json``, ``result.json``, ``metrics.csv``, ``arrays.npz``,
``checkpoints/`` and ``log.txt``; a sweep's directory holds its cells, its plan ``sweep.json`` and the cells' configs as
they were at launch, ``configs.json``.  Every file here is written to a temporary name, flushed to the disk and renamed,
so a reader sees the old file or the new one and never a half.
Only the standard library is used: ``status`` and ``report`` read a thousand cells without importing torch.

The rooms: ``layout`` names files and versions, ``files`` writes and reads them, ``identity`` makes ids; ``status``,
``result`` and ``sweep`` are what the files mean.
"""

from capsexp.records.files import read_json, replacing, write_json, write_text
from capsexp.records.identity import FILES, ID_LENGTH, VOLATILE, cell_id, digested, file_sha256, identity, named_files
from capsexp.records.layout import (
    ARRAYS,
    BEST_CHECKPOINT,
    CONFIG,
    CONFIGS,
    LOCK,
    LOG,
    METRICS,
    NUMERICS_VERSION,
    PREVIOUS_RESULT,
    RESULT,
    RESUME_CHECKPOINT,
    SCHEMA,
    STAGE,
    STATUS,
    SWEEP,
)
from capsexp.records.result import is_stale, read_result, set_aside, write_result
from capsexp.records.status import (
    HEARTBEAT_S,
    LOST_AFTER_S,
    Kind,
    State,
    Status,
    is_gone,
    is_user_error,
    read_status,
    write_status,
)
from capsexp.records.sweep import (
    FrozenCell,
    PlannedCell,
    Sweep,
    cell_directories,
    cell_name,
    read_configs,
    read_sweep,
    write_configs,
    write_sweep,
)

__all__ = [
    "ARRAYS",
    "BEST_CHECKPOINT",
    "CONFIG",
    "CONFIGS",
    "FILES",
    "HEARTBEAT_S",
    "ID_LENGTH",
    "LOCK",
    "LOG",
    "LOST_AFTER_S",
    "METRICS",
    "NUMERICS_VERSION",
    "PREVIOUS_RESULT",
    "RESULT",
    "RESUME_CHECKPOINT",
    "SCHEMA",
    "STAGE",
    "STATUS",
    "SWEEP",
    "VOLATILE",
    "FrozenCell",
    "Kind",
    "PlannedCell",
    "State",
    "Status",
    "Sweep",
    "cell_directories",
    "cell_id",
    "cell_name",
    "digested",
    "file_sha256",
    "identity",
    "is_gone",
    "is_stale",
    "is_user_error",
    "named_files",
    "read_configs",
    "read_json",
    "read_result",
    "read_status",
    "read_sweep",
    "replacing",
    "set_aside",
    "write_configs",
    "write_json",
    "write_result",
    "write_status",
    "write_sweep",
    "write_text",
]
