"""The wish that running cells save and stop, asked for between epochs.

Whoever runs cells in another process says there how the wish arrives (:func:`listen`); callbacks ask
:func:`requested` where stopping loses nothing.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_sources: list[Callable[[], bool]] = []


def listen(source: Callable[[], bool]) -> None:
    """Let ``source`` answer from now on whether this process is to save and stop; it takes the last one's place."""
    _sources[:] = [source]


def requested() -> bool:
    """Whether the cell that runs here should save itself and stop."""
    return any(source() for source in _sources)


@contextlib.contextmanager
def saved_by_ctrl_c(say: Callable[[str], None]) -> Iterator[None]:
    """In this block the first Ctrl-C asks the cell to save and stop; a second one is a KeyboardInterrupt."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before != signal.default_int_handler:
        yield  # it is ignored, or somebody else's
        return
    pressed = threading.Event()

    def on_ctrl_c(_number: int, _frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        say("stopping: the cell saves itself at the end of its epoch; Ctrl-C again ends it at once")

    signal.signal(signal.SIGINT, on_ctrl_c)
    listen(pressed.is_set)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _sources.clear()
