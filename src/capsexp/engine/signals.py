"""Stop requests of the user: one Ctrl-C saves and stops; a second one, SIGTERM or SIGHUP kills all workers."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Signals:
    """Counts the stop requests of the user while a sweep runs.

    Attributes:
        interrupts: number of times that Ctrl-C was pressed.
        terminated: whether SIGTERM or SIGHUP was received.
    """

    def __init__(self) -> None:
        self.interrupts, self.terminated = 0, False

    @property
    def stopping(self) -> bool:
        """True if no more cells may start."""
        return self.terminated or self.interrupts > 0

    @property
    def end_now(self) -> bool:
        """True if running cells must be killed."""
        return self.terminated or self.interrupts > 1

    @contextlib.contextmanager
    def handling(self) -> Iterator[None]:
        """Count signals in this block; a signal that was ignored before (nohup) stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread receives signals in Python
            return
        numbers = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            if before[number] != signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self.interrupts += 1
        else:
            self.terminated = True
