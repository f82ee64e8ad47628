"""A cell's place among those that run together in one process: each tasks in a greenlet of its own."""

import contextlib
import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import lightning as L
import torch
from greenlet import greenlet

from capsexp import rng
from capsexp.stacking.member import EpochResult, MemberEpochs
from capsexp.stacking.signature import refusal

log = logging.getLogger(__name__)


HEARD = (signal.SIGTERM, signal.SIGINT)
"""Signals for which Lightning puts a handler while a fit goes on, and the one before it back when it ends."""


Task = Callable[[], None]
"""All that a cell does, from start to end; it raises nothing."""


@dataclass
class Waiting:
    """The cells of a process that wait for the scheduler, and the greenlet in which it runs.

    Attributes:
        scheduler: its greenlet.
        members: fits that wait for an epoch, with their cells' contexts.
        paused: cells that can do nothing until others have done something.
    """

    scheduler: greenlet
    members: dict[MemberEpochs, "CellContext"] = field(default_factory=dict)
    paused: list["CellContext"] = field(default_factory=list)


class CellContext:
    """A cell among those that run together: its greenlet, and what of the process is its own while it runs.

    Attributes:
        fits: how many fits of the cell have been stacked, the present one included.
        facts: ``members`` of the largest stack that the cell was in, and their ``form``; empty if it was in none.
        spent_s: seconds that the cell has cost: its own turns, and its share of the epochs that it was trained in.

    Args:
        task: what the cell does.
        waiting: where it waits for the scheduler.
        number: of the cell among those that it runs with.
    """

    def __init__(self, task: Task, waiting: Waiting, number: int) -> None:
        self._greenlet = greenlet(self._run)
        self._task, self._waiting, self.number = task, waiting, number
        self._member: MemberEpochs | None = None
        self._random = rng.states()
        self._filters = list(warnings.filters)
        self._handlers = _handlers()
        self.fits = 0
        self.facts: dict[str, Any] = {}
        self.spent_s, self._since = 0.0, 0.0

    def go_on(self, what: EpochResult | BaseException | bool | None = None) -> None:
        """Let the cell do what comes next, until it waits for an epoch, pauses or ends.

        Args:
            what: the epoch that it waited for, None if it is to train it alone, or what it is to fail with; behind a
                pause, whether to try again; None at the start.
        """
        with self._process():
            if isinstance(what, BaseException):
                self._greenlet.throw(what)
            else:
                self._greenlet.switch(what)

    def leave(self) -> None:
        """End the cell where it stands; what it has open is closed."""
        with self._process():
            self._greenlet.throw()

    def stacks(self, member: MemberEpochs) -> bool:
        """True if the member's fit can be trained with others; where it cannot, its log says why."""
        if not member.asked:
            member.asked, member.refusal = True, refusal(member)
            if member.refusal is not None:
                log.info("this fit is not stacked: %s", member.refusal)
        return member.refusal is None

    def wait(self, member: MemberEpochs) -> EpochResult | None:
        """Inside the cell: hand over until the epoch of its fit is trained; None if the fit is to go on alone."""
        if self._member is not member:
            self._member, self.fits = member, self.fits + 1
        self._waiting.members[member] = self
        return cast("EpochResult | None", self._waiting.scheduler.switch())

    def pause(self) -> bool:
        """Inside the cell: hand over while it can do nothing; whether it is worth trying again."""
        self._waiting.paused.append(self)
        return bool(self._waiting.scheduler.switch())

    def was_in(self, members: int, impl: str) -> None:
        """Remember a stack that the cell is trained in."""
        self.facts = {"members": max(members, self.facts.get("members", 0)), "form": impl}

    def noise(self, device: torch.device) -> torch.Generator:
        """The cell's stream of random numbers on a device, where it stands; dropout draws from it."""
        own = self._random["torch"] if device.type == "cpu" else self._random["cuda"][device.index or 0]
        return rng.stream(device).set_state(own)

    def noise_is(self, generator: torch.Generator) -> None:
        """The stream has moved on."""
        if generator.device.type == "cpu":
            self._random["torch"] = generator.get_state()
        else:
            self._random["cuda"][generator.device.index or 0] = generator.get_state()

    def _run(self, _: None) -> None:
        _present.set(self)
        self._task()

    @contextlib.contextmanager
    def _process(self) -> Iterator[None]:
        """While the cell runs, random states, filters of warnings and handlers of signals are the cell's."""
        random, filters, handlers = rng.states(), list(warnings.filters), _handlers()
        self._since = time.perf_counter()
        rng.put_back(self._random)
        warnings.filters[:] = self._filters  # type: ignore[index]
        _handle(self._handlers)
        try:
            yield
        finally:
            self.spent_s += time.perf_counter() - self._since
            self._random, self._filters, self._handlers = rng.states(), list(warnings.filters), _handlers()
            rng.put_back(random)
            warnings.filters[:] = filters  # type: ignore[index]
            _handle(handlers)


def _handlers() -> dict[int, Any]:
    """Who hears of signals."""
    return {number: signal.getsignal(number) for number in HEARD}


def _handle(handlers: Mapping[int, Any]) -> None:
    """Let these hear of signals; only a process' main thread may say so, and Lightning says so only there."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None and handler is not signal.getsignal(number):  # None: not put there by Python
                signal.signal(number, handler)


_present: ContextVar[CellContext | None] = ContextVar("seat", default=None)
"""The context of the cell that runs now; none for a cell that runs alone."""


def facts() -> dict[str, Any] | None:
    """How the present cell was trained with others, for its result; None for one that was trained alone."""
    context = _present.get()
    return context.facts if context is not None and context.facts else None


def share_s() -> float | None:
    """Seconds that the present cell has cost so far; None for one that runs alone, which cost what it took."""
    context = _present.get()
    return None if context is None else context.spent_s + time.perf_counter() - context._since


def pause() -> bool:
    """Hand over while the present cell can do nothing; whether it is worth trying again, False for a cell alone."""
    context = _present.get()
    return context is not None and context.pause()


def joined(trainer: L.Trainer, config: Mapping[str, Any]) -> L.Trainer:
    """The trainer, whose fits may now be stacked if its cell runs together with others.

    Args:
        trainer: just made.
        config: the cell's resolved config.
    """
    context = _present.get()
    if context is not None:
        trainer.fit_loop.epoch_loop = MemberEpochs(trainer, context, config)
    return trainer
