"""How much memory a training step takes, told without taking it.

A copy of the module whose parameters have sizes but no content goes through one step: its own ``step``, backward and
its own optimizer.  Every storage that is made and freed on the way is followed, so custom autograd functions, views,
operations in place and autocast count as what they are.  The copy's tensors are torch's fake ones, on the ``meta``
device but with the real device's name, since autocast and fused optimizers ask for that.
"""

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from capsexp.nn.vote_operators import first_piece_alone
from capsexp.types import Batch

HELD_BYTES = 2**25
"""Freed memory of blocks up to this size stays with the process on a CPU: the largest that glibc's malloc keeps."""

HEAP_SLACK = 4 / 3
"""What such blocks take over their own bytes, by the gaps between them (benchmarks/memory_estimate.py measures it)."""


class Footprint(NamedTuple):
    """Peaks of what is alive during a training step, in bytes; each has its own moment.

    Attributes:
        live: everything.
        large: in storages of more than :data:`HELD_BYTES`.
        small: in all others.
    """

    live: int
    large: int
    small: int


def training_step_bytes(module: nn.Module, batch: Batch, context: AbstractContextManager[Any] | None = None) -> int:
    """Bytes that a training step holds at its peak on the device where the module lies.

    They are those of parameters, buffers, gradients, the optimizer's state, what is saved for backward, what lives for
    a moment, and the batch.  On a CPU small blocks are counted as the C library keeps them.  Not known here, and not
    counted: what a kernel takes for itself (cuDNN's workspaces; oneDNN's copies of a layer's weights), the rounding of
    CUDA's caching allocator, and the CUDA context.

    Args:
        module: one with ``step`` and ``configure_optimizers``; it is left as it is.
        batch: only its shapes and types count, so it may lie on ``meta``.
        context: what the forward pass runs in (autocast), to be entered once.
    """
    found = trace(module, batch, context)
    if next(module.parameters()).device.type != "cpu":
        return found.live
    # A large block goes back to the system when it is freed; small ones never make room for it.
    return found.large + round(HEAP_SLACK * found.small)


def trace(module: nn.Module, batch: Batch, context: AbstractContextManager[Any] | None = None) -> Footprint:
    """What is alive during a training step in its steady state, where gradients and optimizer state exist already.

    Args:
        module: as for :func:`training_step_bytes`.
        batch: as there.
        context: as there.
    """
    ledger, fake = _Ledger(), FakeTensorMode(allow_non_fake_inputs=True)
    device = next(module.parameters()).device
    with fake, ledger:
        twins = {id(tensor): _twin(tensor) for tensor in (*module.parameters(), *module.buffers())}
        batch = Batch(*(_empty(tensor, device) for tensor in batch))
    module = copy.deepcopy(module, cast("dict[int, Any]", twins))  # outside: what else it holds is real
    with fake, ledger, first_piece_alone():
        _step(module, batch, context or nullcontext())
    return Footprint(ledger.peaks["live"], ledger.peaks["large"], ledger.peaks["small"])


def _step(module: Any, batch: Batch, context: AbstractContextManager[Any]) -> None:
    """A step in Lightning's order: the last step's gradients are there until backward begins."""
    optimizer = module.configure_optimizers()
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    with context:
        loss = module.step(batch).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _twin(tensor: Tensor) -> Tensor:
    twin = _empty(tensor, tensor.device)
    return nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def _empty(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations return, and takes them off when they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peaks = dict.fromkeys(("live", "large", "small"), 0)
        self._live = dict(self.peaks)
        self._followed: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.prim.device.default:  # no operation, but asked more often than all of them together
            return args[0].fake_device
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._followed:  # a view, or the result of an operation in place
            self._followed[key] = weakref.ref(storage, partial(self._forget, key, size))
            self._add(size, size)

    def _forget(self, key: int, size: int, _: object) -> None:
        del self._followed[key]
        self._add(-size, size)

    def _add(self, change: int, size: int) -> None:
        for name in ("live", "large" if size > HELD_BYTES else "small"):
            self._live[name] += change
            self.peaks[name] = max(self.peaks[name], self._live[name])


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, tuple | list):
        for item in result:
            yield from _tensors(item)
