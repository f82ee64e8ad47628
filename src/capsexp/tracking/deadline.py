"""Time limits for calls that may never return."""

import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")


class HungError(Exception):
    """A call was abandoned because its time limit was reached."""


class Budget:
    """A time budget that several calls share.

    Each call runs in its own daemon thread, so that a call which never returns can be abandoned: neither the caller nor
    the process's exit waits for it.

    Attributes:
        total: the total seconds.
        left: the remaining seconds.
        kept: the seconds that :meth:`spend` reserves for :meth:`spend_all`.
    """

    def __init__(self, total: float, kept: float = 0.0) -> None:
        self.total, self.left, self.kept = total, total, kept

    def spend(self, action: Callable[[], T], at_most: float = float("inf")) -> T:
        """Run ``action`` and return its result, within the remaining time.

        Args:
            action: the function to call.
            at_most: limit of this call in seconds, if less than the remaining time.

        Raises:
            HungError: it did not end in time, or no time was left.
            Exception: the exception of ``action``; a SystemExit becomes a RuntimeError, so that it cannot end the cell.
        """
        return self._wait(action, min(self.left - self.kept, at_most))

    def spend_all(self, action: Callable[[], T]) -> T:
        """Run ``action`` like :meth:`spend`, but with the reserved seconds too."""
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
