"""What lies in the folder of a cell or a stage, read for tests."""

from pathlib import Path

import numpy as np
import torch

from capsexp import records


def arrays_of(cell: Path) -> dict[str, np.ndarray]:
    """The arrays of a cell."""
    with np.load(cell / records.ARRAYS) as arrays:
        return {name: arrays[name] for name in arrays.files}


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    """The best weights in the folder of a cell or a stage."""
    saved: dict[str, torch.Tensor] = torch.load(directory / records.BEST_CHECKPOINT, weights_only=True)["state_dict"]
    return saved
