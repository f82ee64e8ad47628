"""Pieces of an operator in parallel on a CPU: a piece per thread, where torch divides each small operation.

An operation that is divided waits for its slowest thread.  Here threads wait for each other once per operator, and each
works on what its own cache holds.  A piece is computed in one thread, so its numbers are the same for any number of
threads.
"""

import functools
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

Item = TypeVar("Item")
Room = TypeVar("Room")


def each_in_a_thread(
    work: Callable[[Item, Room], None], items: Sequence[Item], make_room: Callable[[], Room], like: Tensor
) -> None:
    """``work(item, room)`` for every item, without gradients, and under autocast where the caller is.

    For one caller at a time: torch's number of threads, which is that of the process, is 1 until all items are done.

    Args:
        work: the function; two calls must not write to the same numbers.
        items: what to work on; each thread takes the next one when it is ready.
        make_room: makes the memory of a thread, which its calls share.
        like: a tensor of the operator; its kind decides whether there can be several threads.
    """
    threads = min(torch.get_num_threads(), len(items)) if _can_be_shared(like) else 1
    if threads < 2:
        room = make_room()
        for item in items:
            work(item, room)
        return
    waiting, is_inference = deque(items), torch.is_inference_mode_enabled()
    is_autocast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def take() -> None:  # a thread has modes of its own
        with torch.inference_mode(is_inference), torch.no_grad(), torch.autocast("cpu", dtype, is_autocast):
            room = make_room()
            while waiting:
                try:
                    item = waiting.popleft()
                except IndexError:  # another thread took the last one
                    return
                work(item, room)

    before, others = torch.get_num_threads(), list[Future[None]]()
    try:  # the number of threads is put back after Ctrl-C, too
        torch.set_num_threads(1)
        others += [_pool().submit(take) for _ in range(threads - 1)]
        take()
    finally:
        waiting.clear()  # after an error
        errors = [other.exception() for other in others]
        torch.set_num_threads(before)
    for error in filter(None, errors):
        raise error


def _can_be_shared(like: Tensor) -> bool:
    """False where a compiler, an exporter or a counter follows the operations of this thread."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    is_plain = type(like) in (Tensor, torch.nn.Parameter) and _get_current_dispatch_mode() is None
    return is_plain and like.device.type == "cpu"


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), "capsexp-pieces", _alone)


def _alone() -> None:
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # its threads are not in the child
