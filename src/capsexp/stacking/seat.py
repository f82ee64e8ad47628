"""A cell's place among those that run together in one process: each lives in a greenlet of its own."""

import contextlib
import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Protocol, cast

import lightning as L
import torch
from greenlet import greenlet

from capsexp import randomness
from capsexp.stacking.member import MemberEpochs, Trained
from capsexp.stacking.signature import refusal

log = logging.getLogger(__name__)


HEARD = (signal.SIGTERM, signal.SIGINT)
"""Signals for which Lightning puts a handler while a fit goes on, and the one before it back when it ends."""


class Host(Protocol):
    """Whoever lets cells run together.

    Attributes:
        greenlet: in which it runs itself.
        waiting: members that wait for an epoch, with their seats.
        paused: cells that can do nothing until others have done something.
    """

    greenlet: greenlet
    waiting: dict[MemberEpochs, "Seat"]
    paused: list["Seat"]


Life = Callable[[], None]
"""All that a cell does, from start to end; it raises nothing."""


class Seat:
    """A cell's place in a hub: its greenlet, and what of the process is its own while it runs.

    Attributes:
        fits: how many fits of the cell have been stacked, the present one included.
        facts: ``members`` of the largest stack that the cell was in, and their ``form``; empty if it was in none.
        spent_s: seconds that the cell has cost: its own turns, and its share of the epochs that it was trained in.

    Args:
        life: what the cell does.
        hub: where it sits.
        number: of the cell among those that it runs with.
    """

    def __init__(self, life: Life, hub: Host, number: int) -> None:
        self._greenlet = greenlet(self._live)
        self._life, self._hub, self.number = life, hub, number
        self._member: MemberEpochs | None = None
        self._random = randomness.states()
        self._filters = list(warnings.filters)
        self._handlers = _handlers()
        self.fits = 0
        self.facts: dict[str, Any] = {}
        self.spent_s, self._since = 0.0, 0.0

    def go_on(self, what: Trained | BaseException | bool | None = None) -> None:
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
        """Whether the member's fit can be trained with others; where it cannot, its log says why."""
        if not member.asked:
            member.asked, member.refusal = True, refusal(member)
            if member.refusal is not None:
                log.info("this fit is not stacked: %s", member.refusal)
        return member.refusal is None

    def wait(self, member: MemberEpochs) -> Trained | None:
        """Inside the cell: hand over until the epoch of its fit is trained; None if the fit is to go on alone."""
        if self._member is not member:
            self._member, self.fits = member, self.fits + 1
        self._hub.waiting[member] = self
        return cast("Trained | None", self._hub.greenlet.switch())

    def pause(self) -> bool:
        """Inside the cell: hand over while it can do nothing; whether it is worth trying again."""
        self._hub.paused.append(self)
        return bool(self._hub.greenlet.switch())

    def was_in(self, members: int, form: str) -> None:
        """Remember a stack that the cell is trained in."""
        self.facts = {"members": max(members, self.facts.get("members", 0)), "form": form}

    def noise(self, device: torch.device) -> torch.Generator:
        """The cell's stream of random numbers on a device, where it stands; dropout draws from it."""
        own = self._random["torch"] if device.type == "cpu" else self._random["cuda"][device.index or 0]
        return randomness.stream(device).set_state(own)

    def noise_is(self, generator: torch.Generator) -> None:
        """The stream has moved on."""
        if generator.device.type == "cpu":
            self._random["torch"] = generator.get_state()
        else:
            self._random["cuda"][generator.device.index or 0] = generator.get_state()

    def _live(self, _: None) -> None:
        _present.set(self)
        self._life()

    @contextlib.contextmanager
    def _process(self) -> Iterator[None]:
        """While the cell runs, random states, filters of warnings and handlers of signals are the cell's."""
        random, filters, handlers = randomness.states(), list(warnings.filters), _handlers()
        self._since = time.perf_counter()
        randomness.put_back(self._random)
        warnings.filters[:] = self._filters  # type: ignore[index]
        _handle(self._handlers)
        try:
            yield
        finally:
            self.spent_s += time.perf_counter() - self._since
            self._random, self._filters, self._handlers = randomness.states(), list(warnings.filters), _handlers()
            randomness.put_back(random)
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


_present: ContextVar[Seat | None] = ContextVar("seat", default=None)
"""The seat of the cell that runs now; none for a cell that runs alone."""


def facts() -> dict[str, Any] | None:
    """How the present cell was trained with others, for its result; None for one that was trained alone."""
    seat = _present.get()
    return seat.facts if seat is not None and seat.facts else None


def share_s() -> float | None:
    """Seconds that the present cell has cost so far; None for one that runs alone, which cost what it took."""
    seat = _present.get()
    return None if seat is None else seat.spent_s + time.perf_counter() - seat._since


def pause() -> bool:
    """Hand over while the present cell can do nothing; whether it is worth trying again, False for a cell alone."""
    seat = _present.get()
    return seat is not None and seat.pause()


def joined(trainer: L.Trainer, config: Mapping[str, Any]) -> L.Trainer:
    """The trainer, whose fits may now be stacked if its cell runs together with others.

    Args:
        trainer: just made.
        config: the cell's resolved config.
    """
    seat = _present.get()
    if seat is not None:
        trainer.fit_loop.epoch_loop = MemberEpochs(trainer, seat, config)
    return trainer
