"""The request that running cells save and stop, checked between epochs.

A worker process registers the source of the request with :func:`listen`.  Callbacks call :func:`requested` at points
where stopping loses nothing.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_sources: list[Callable[[], bool]] = []


def listen(source: Callable[[], bool]) -> None:
    """Register ``source`` as the function that returns whether to save and stop; it replaces the last one."""
    _sources[:] = [source]


def requested() -> bool:
    """True if the running cell should save and stop."""
    return any(source() for source in _sources)


@contextlib.contextmanager
def saved_by_ctrl_c(notify: Callable[[str], None]) -> Iterator[None]:
    """In this block the first Ctrl-C asks the cell to save and stop; a second one is a KeyboardInterrupt."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before != signal.default_int_handler:
        yield  # the signal is ignored, or other code handles it
        return
    pressed = threading.Event()

    def on_ctrl_c(_number: int, _frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        notify("stopping: the cell saves itself at the end of its epoch; Ctrl-C again ends it at once")

    signal.signal(signal.SIGINT, on_ctrl_c)
    listen(pressed.is_set)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _sources.clear()
