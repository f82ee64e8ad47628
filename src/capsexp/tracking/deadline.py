"""Time limits for calls that may never return."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class HungError(Exception):
    """A call was abandoned because its time limit was reached."""


class Call(Generic[T]):
    """A call in a daemon thread of its own, which can be abandoned: neither the caller nor the process's exit waits.

    Args:
        action: the function to call.
    """

    def __init__(self, action: Callable[[], T]) -> None:
        self._action = action
        self._answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="capsexp-wandb", daemon=True).start()

    def answer(self, seconds: float) -> T:
        """Wait for the result, once.

        Raises:
            HungError: there is none within ``seconds``.
            Exception: the exception of the call; a SystemExit becomes a RuntimeError, so that it cannot end the cell.
        """
        try:
            result, error = self._answers.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise HungError(f"no answer within {seconds:.3g} s") from None
        if error is not None:
            raise error
        return cast("T", result)

    def _run(self) -> None:
        try:
            self._answers.put((self._action(), None))
        except SystemExit as error:
            self._answers.put((None, RuntimeError(f"ended with {error.code!r}")))
        except BaseException as error:  # the waiting thread raises it again
            self._answers.put((None, error))


class Budget:
    """A time budget that several calls share.

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
            Exception: the exception of ``action``, as :meth:`Call.answer` raises it.
        """
        return self._wait(action, min(self.left - self.kept, at_most))

    def spend_all(self, action: Callable[[], T]) -> T:
        """Run ``action`` like :meth:`spend`, but with the reserved seconds too."""
        return self._wait(action, self.left)

    def spend_on(self, call: Call[T], at_most: float) -> T:
        """The result of a call that has begun, within the remaining time; see :meth:`spend`."""
        began = time.monotonic()
        try:
            return call.answer(min(self.left - self.kept, at_most))
        finally:
            self.left -= time.monotonic() - began

    def _wait(self, action: Callable[[], T], seconds: float) -> T:
        if seconds <= 0:
            raise HungError("no time left")
        began = time.monotonic()
        try:
            return Call(action).answer(seconds)
        finally:
            self.left -= time.monotonic() - began
