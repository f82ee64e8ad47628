"""The random states of torch, CUDA, numpy and Python, kept and put back together."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

States = dict[str, Any]
"""Tensors, numbers and strings only, so that a file with them loads with torch's safe loader.

``cuda`` holds the state of every device, or the seed that all of them begin with.
"""


def states() -> States:
    """All random states of this process at this moment; none of CUDA where it has not begun."""
    return _of_the_cpu() | {"cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []}  # type: ignore[no-untyped-call]


def put_back(kept: States) -> None:
    """Go on from kept states; those of CUDA are left out where there is no GPU."""
    if isinstance(kept["cuda"], int):
        torch.manual_seed(kept["cuda"])  # for all devices, also for those that begin later
    elif kept["cuda"] and torch.cuda.is_available():  # a cell may go on where there is no GPU
        torch.cuda.set_rng_state_all([state.cpu() for state in kept["cuda"]])
    _put_back_on_the_cpu(kept)


def stream(device: torch.device) -> torch.Generator:
    """A stream of random numbers on a device; all of ours on other devices than the CPU begin here."""
    return torch.Generator(device)


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[States]:
    """Inside, random numbers on the CPU are drawn from a seed; behind it, the process' states are what they were.

    Yields:
        The states that a process is in which was seeded before the block; they are there when the block has ended.
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
