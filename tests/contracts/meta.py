"""Steps on torch's ``meta`` device, where tensors have sizes but no content: what would make a step wait fails."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.contracts.parts import META

LITERALS = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor)
"""What makes a tensor of numbers that the host has."""

COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten._foreach_copy_.default)
"""What brings tensors from one device to another."""


class HostTensorError(AssertionError):
    """A step used the host's memory."""


class _NoTensorOfTheHost(TorchDispatchMode):
    """Refuses tensors on the CPU: with its kernels a device takes numbers, such as an optimizer's step, and no more."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = list(_tensors((args, result, *(kwargs or {}).values())))
        copied = func in COPIES and any(each.is_meta for each in tensors)
        if any(each.is_cpu and (copied or each.dim()) for each in tensors):
            raise HostTensorError(f"{func} in a step has a tensor on the CPU")
        return result


def _tensors(parts: Any) -> Iterator[Tensor]:
    for part in parts:
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, tuple | list):
            yield from _tensors(part)


class _NoLiteral(TorchFunctionMode):
    """Refuses numbers that the host sends to the device."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in LITERALS:
            raise HostTensorError(f"{func.__name__} in a step sends numbers to the device")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def nothing_of_the_host() -> Iterator[None]:
    """Inside, all tensors are made and stay on the device."""
    with _NoTensorOfTheHost(), _NoLiteral():
        yield


def reads(error: BaseException) -> bool:
    """Whether it says that a number was to be read from the device, or that a tensor was not on it."""
    return isinstance(error, HostTensorError) or (
        isinstance(error, RuntimeError | TypeError) and "meta" in str(error).lower()
    )


class Watch:
    """Calls the parts of one object, and compares what reads from the device with what may.

    Args:
        name: of the object, as the table has it.
        table: by name, the methods that may read, and why.
    """

    def __init__(self, name: str, table: Mapping[str, Mapping[str, str]]) -> None:
        self._name, self._allowed = name, table.get(name, {})
        self._read: set[str] = set()

    def step(self, method: str, work: Callable[[], Any]) -> Any:
        """A part of a step: nothing of it is on the host."""
        with nothing_of_the_host():
            return self.once(method, work)

    def once(self, method: str, work: Callable[[], Any]) -> Any:
        """A part that comes more seldom: it may send something to the device."""
        try:
            return work()
        except Exception as error:
            if not reads(error):
                raise
            if method not in self._allowed:
                line = " ".join(str(error).split())
                pytest.fail(
                    f"{self._name}.{method} waits for the device ({line}): leave the numbers there, or, "
                    f"if it comes no more than once an epoch, add a line to READS that says why"
                )
            self._read.add(method)

    def done(self) -> None:
        """Behind all calls: what may read has read."""
        idle = sorted(set(self._allowed) - self._read)
        assert not idle, f"{self._name}: {', '.join(idle)} reads nothing here; take it out of READS"


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of this shape on ``meta``."""
    return torch.empty(shape, dtype=dtype, device=META)


def labels(*shape: int) -> Tensor:
    """Classes of images, on ``meta``."""
    return empty(*shape, dtype=torch.int64)


def flags(*shape: int) -> Tensor:
    """True or false, on ``meta``."""
    return empty(*shape, dtype=torch.bool)


class Draw:
    """Makes tensors on ``meta``."""

    numbers, labels, flags = staticmethod(empty), staticmethod(labels), staticmethod(flags)
