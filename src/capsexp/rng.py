"""The random states of torch, CUDA, numpy and Python, saved and restored together."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

States = dict[str, Any]
"""Random states as tensors, numbers and strings only, so that torch's safe loader can load a file with them.

``cuda`` holds the state of every device, or the seed of all devices.
"""


def states() -> States:
    """All present random states of this process; those of CUDA only if it is initialised."""
    return _of_the_cpu() | {"cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []}  # type: ignore[no-untyped-call]


def put_back(kept: States) -> None:
    """Restore saved states; those of CUDA are skipped if there is no GPU."""
    if isinstance(kept["cuda"], int):
        torch.manual_seed(kept["cuda"])  # for all devices, including those that are initialised later
    elif kept["cuda"] and torch.cuda.is_available():  # a cell may be resumed on a machine without a GPU
        torch.cuda.set_rng_state_all([state.cpu() for state in kept["cuda"]])
    _put_back_on_the_cpu(kept)


def stream(device: torch.device) -> torch.Generator:
    """A random generator on a device; all generators of the package on devices other than the CPU are made here."""
    return torch.Generator(device)


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[States]:
    """Draw random numbers on the CPU from a seed inside the block; after it the process has its former states again.

    Yields:
        A dictionary that is filled at the end of the block: the states of a process that was seeded at its start.
    """
    before, ended = _of_the_cpu(), States()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield ended
        ended |= _of_the_cpu() | {"cuda": seed}
    finally:
        _put_back_on_the_cpu(before)


def _of_the_cpu() -> States:
    algorithm, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "numpy": (algorithm, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached),
        "python": random.getstate(),
    }


def _put_back_on_the_cpu(kept: States) -> None:
    torch.set_rng_state(kept["torch"].cpu())
    algorithm, keys, position, has_gauss, cached = kept["numpy"]
    np.random.set_state((algorithm, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    random.setstate(kept["python"])
