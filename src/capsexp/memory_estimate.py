"""The memory of a training step, estimated without allocating it.

A copy of the module runs one step: its own ``step``, backward and its own optimizer.  The copy's parameters have sizes
but no content.  Every storage that is allocated and freed during the step is tracked, so custom autograd functions,
views, in-place operations and autocast are counted correctly.  The copy's tensors are torch's fake tensors: they are on
the ``meta`` device but report the real device, which autocast and fused optimizers need.
"""

import copy
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from capsexp.nn.vote_operators import first_piece_alone
from capsexp.types import Batch

HELD_BYTES = 2**25
"""On a CPU, the process keeps freed blocks up to this size: the largest that glibc's malloc keeps, in bytes."""

HEAP_SLACK = 4 / 3
"""Heap size of such blocks over their own size, due to fragmentation (see benchmarks/memory_estimate.py)."""


class Footprint(NamedTuple):
    """Peaks of the live memory during a training step, in bytes; they may occur at different times.

    Attributes:
        live: all storages.
        large: storages of more than :data:`HELD_BYTES`.
        small: all other storages.
    """

    live: int
    large: int
    small: int


@contextmanager
def _torch_is_quiet() -> Iterator[None]:
    """Without torch's own log of an operation that fails on fake tensors: the exception says it to the caller."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def training_step_bytes(module: nn.Module, batch: Batch, context: AbstractContextManager[Any] | None = None) -> int:
    """Peak bytes of a training step on the module's device.

    They include parameters, buffers, gradients, the optimizer's state, tensors saved for backward, temporary tensors,
    and the batch.  On a CPU small blocks are counted as the C library keeps them.  Some memory is unknown here and not
    counted: the workspaces of kernels (cuDNN's workspaces; oneDNN's copies of a layer's weights), the rounding of
    CUDA's caching allocator, and the CUDA context.

    Args:
        module: one with ``step`` and ``configure_optimizers``; it is not changed.
        batch: only its shapes and types count, so it may be on ``meta``.
        context: the context of the forward pass (autocast); it is entered once.
    """
    found = trace(module, batch, context)
    if next(module.parameters()).device.type != "cpu":
        return found.live
    # A large block goes back to the system when it is freed; small ones never make room for it.
    return found.large + round(HEAP_SLACK * found.small)


def trace(module: nn.Module, batch: Batch, context: AbstractContextManager[Any] | None = None) -> Footprint:
    """The live memory during a training step in its steady state: gradients and optimizer state exist already.

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
    module = copy.deepcopy(module, cast("dict[int, Any]", twins))  # outside, since its other tensors are real
    with fake, ledger, first_piece_alone(), _torch_is_quiet():
        _step(module, batch, context or nullcontext())
    return Footprint(ledger.peaks["live"], ledger.peaks["large"], ledger.peaks["small"])


def _step(module: Any, batch: Batch, context: AbstractContextManager[Any]) -> None:
    """Run a step in Lightning's order: the last step's gradients exist until backward begins."""
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
    """Adds the sizes of the storages that operations return, and subtracts them when they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peaks = dict.fromkeys(("live", "large", "small"), 0)
        self._live = dict(self.peaks)
        self._followed: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.prim.device.default:  # no operation, but called more often than all operations together
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
