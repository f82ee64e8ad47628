"""The random states of torch, CUDA, numpy and Python, kept and put back together."""

import random
from typing import Any

import numpy as np
import torch

States = dict[str, Any]
"""Tensors, numbers and strings only, so that a file with them loads with torch's safe loader."""


def states() -> States:
    """All random states of this process at this moment."""
    algorithm, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (algorithm, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached),
        "python": random.getstate(),
    }


def stream(device: torch.device) -> torch.Generator:
    """A stream of random numbers on a device: all of ours on other devices than the CPU begin here."""
    return torch.Generator(device)


def put_back(kept: States) -> None:
    """Go on from kept states; those of CUDA are left out where there is no GPU."""
    torch.set_rng_state(kept["torch"].cpu())
    if kept["cuda"] and torch.cuda.is_available():  # a cell may go on where there is no GPU
        torch.cuda.set_rng_state_all([state.cpu() for state in kept["cuda"]])
    algorithm, keys, position, has_gauss, cached = kept["numpy"]
    np.random.set_state((algorithm, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    random.setstate(kept["python"])
