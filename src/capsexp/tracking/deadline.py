"""Calls that may never return, and the seconds that they may cost."""

import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")


class HungError(Exception):
    """A call was abandoned because its time was up."""


class Budget:
    """Seconds that are spent call by call.

    A call runs in a thread of its own, a daemon, so that one that never returns can be left behind: neither the caller
    nor the process's exit waits for it.

    Attributes:
        total: the seconds there were.
        left: the seconds that no call has used yet.
        kept: the part of them that :meth:`spend` leaves for :meth:`spend_all`.
    """

    def __init__(self, total: float, kept: float = 0.0) -> None:
        self.total, self.left, self.kept = total, total, kept

    def spend(self, action: Callable[[], T], at_most: float = float("inf")) -> T:
        """The result of ``action``, waited for as long as there is time.

        Args:
            action: what to do.
            at_most: seconds to wait, where fewer than what is left.

        Raises:
            HungError: it did not end in time, or there was no time left to begin.
            Exception: whatever ``action`` raised; a SystemExit comes as a RuntimeError, since it was not meant for us.
        """
        return self._wait(action, min(self.left - self.kept, at_most))

    def spend_all(self, action: Callable[[], T]) -> T:
        """As :meth:`spend`, with the kept part too."""
        return self._wait(action, self.left)

    def _wait(self, action: Callable[[], T], seconds: float) -> T:
        if seconds <= 0:
            raise HungError("no time left")
        answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        began = time.monotonic()
        threading.Thread(target=_answer, args=(action, answers), name="capsexp-wandb", daemon=True).start()
        try:
            result, error = answers.get(timeout=seconds)
        except queue.Empty:
            raise HungError(f"no answer within {seconds:.3g} s") from None
        finally:
            self.left -= time.monotonic() - began
        if error is not None:
            raise error
        return cast("T", result)


def _answer(action: Callable[[], T], answers: "queue.SimpleQueue[tuple[T | None, BaseException | None]]") -> None:
    try:
        answers.put((action(), None))
    except SystemExit as error:
        answers.put((None, RuntimeError(f"ended with {error.code!r}")))
    except BaseException as error:  # the waiting thread raises it again
        answers.put((None, error))
