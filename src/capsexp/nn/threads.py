"""Pieces of an operator in parallel on a CPU: a piece per thread, where torch divides each small operation.

An operation that is divided waits for its slowest thread.  Here threads wait for each other once per operator, and each
works on what its own cache holds.  A piece is computed in one thread, so its numbers are the same for any number of
threads.

All pieces are computed in threads of our own, where torch uses one thread.  The caller waits; its number of threads and
that of the process stay as they are, so several callers can be here at once.
"""

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
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

    takers = list[Future[None]]()
    try:
        takers += [_pool().submit(take) for _ in range(threads)]
        wait(takers)
    finally:  # after Ctrl-C no further item begins, and those that have begun are waited for
        waiting.clear()
        errors = [taker.exception() for taker in takers]
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
    return ThreadPoolExecutor(max(2, os.cpu_count() or 1), "capsexp-pieces", _alone)


_setting = threading.Lock()


def _alone() -> None:
    """Set torch's number of threads to 1 for this thread, and for no other.

    The number is a thread's own from its first use of torch on; until then it is what was set last in any thread.  So
    another thread sets that back at once.
    """
    with _setting:
        process = torch.get_num_threads()
        torch.set_num_threads(1)
        last = threading.Thread(target=torch.set_num_threads, args=(process,))
        last.start()
        last.join()


def _forget() -> None:
    """In a forked process: make a pool and a lock of its own."""
    global _setting
    _pool.cache_clear()
    _setting = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # the threads are not in the child
