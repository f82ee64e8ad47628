"""How a user stops a sweep: Ctrl-C once to save and stop, twice or SIGTERM or SIGHUP to end at once."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Signals:
    """Counts what the user has asked for while a sweep runs.

    Attributes:
        interrupts: how often Ctrl-C was pressed.
        terminated: SIGTERM or SIGHUP has come.
    """

    def __init__(self) -> None:
        self.interrupts, self.terminated = 0, False

    @property
    def stopping(self) -> bool:
        """No more cells are to be started."""
        return self.terminated or self.interrupts > 0

    @property
    def end_now(self) -> bool:
        """Running cells are to be ended."""
        return self.terminated or self.interrupts > 1

    @contextlib.contextmanager
    def handling(self) -> Iterator[None]:
        """Count signals in this block; one that was ignored before (nohup) stays so."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python hands signals to the main thread alone
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
