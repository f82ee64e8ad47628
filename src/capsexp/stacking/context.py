"""The context of a cell that runs with others in one process; each cell runs in its own greenlet."""

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


HANDLED_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Signals whose handlers Lightning replaces during a fit and restores at its end."""


Task = Callable[[], None]
"""The whole work of a cell; it raises nothing."""


@dataclass
class WaitingCells:
    """The cells of a process that wait for the scheduler, and the scheduler's greenlet.

    Attributes:
        scheduler: the greenlet of the scheduler.
        members: fits that wait for an epoch, with their cells' contexts.
        paused: cells that must wait for the work of other cells.
    """

    scheduler: greenlet
    members: dict[MemberEpochs, "CellContext"] = field(default_factory=dict)
    paused: list["CellContext"] = field(default_factory=list)


class CellContext:
    """The context of a cell: its greenlet, and the state of the process that belongs to it while it runs.

    Attributes:
        fits: number of stacked fits of the cell, the present one included.
        facts: ``members`` of the largest stack of the cell, and their ``form``; empty if it was never stacked.
        spent_s: cost of the cell in seconds: its own running time, and its share of the epochs of its stacks.

    Args:
        task: the work of the cell.
        waiting: the waiting cells of the process.
        number: the number of the cell in the process.
    """

    def __init__(self, task: Task, waiting: WaitingCells, number: int) -> None:
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
        """Resume the cell, until it waits for an epoch, pauses or ends.

        Args:
            what: the epoch that it waited for, None to train it alone, or the exception to raise; after a pause,
                whether to retry; None at the start.
        """
        with self._process():
            if isinstance(what, BaseException):
                self._greenlet.throw(what)
            else:
                self._greenlet.switch(what)

    def leave(self) -> None:
        """Stop the cell at its present point; its open files are closed."""
        with self._process():
            self._greenlet.throw()

    def stacks(self, member: MemberEpochs) -> bool:
        """True if the member's fit can be trained with others; otherwise the cell's log has the reason."""
        if not member.asked:
            member.asked, member.refusal = True, refusal(member)
            if member.refusal is not None:
                log.info("this fit is not stacked: %s", member.refusal)
        return member.refusal is None

    def wait(self, member: MemberEpochs) -> EpochResult | None:
        """Wait inside the cell until the epoch of its fit is trained; None if the fit must continue alone."""
        if self._member is not member:
            self._member, self.fits = member, self.fits + 1
        self._waiting.members[member] = self
        return cast("EpochResult | None", self._waiting.scheduler.switch())

    def pause(self) -> bool:
        """Pause inside the cell while it waits for others; returns whether to retry."""
        self._waiting.paused.append(self)
        return bool(self._waiting.scheduler.switch())

    def record_stack(self, members: int, impl: str) -> None:
        """Record a stack in which the cell is trained."""
        self.facts = {"members": max(members, self.facts.get("members", 0)), "form": impl}

    def noise(self, device: torch.device) -> torch.Generator:
        """The cell's random generator on a device, in its present state; dropout draws from it."""
        own = self._random["torch"] if device.type == "cpu" else self._random["cuda"][device.index or 0]
        return rng.stream(device).set_state(own)

    def set_noise(self, generator: torch.Generator) -> None:
        """Store the present state of the cell's random generator."""
        if generator.device.type == "cpu":
            self._random["torch"] = generator.get_state()
        else:
            self._random["cuda"][generator.device.index or 0] = generator.get_state()

    def _run(self, _: None) -> None:
        _present.set(self)
        self._task()

    @contextlib.contextmanager
    def _process(self) -> Iterator[None]:
        """In this block, install the cell's random states, warning filters and signal handlers."""
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
    """The present signal handlers."""
    return {number: signal.getsignal(number) for number in HANDLED_SIGNALS}


def _handle(handlers: Mapping[int, Any]) -> None:
    """Install signal handlers, which only a process' main thread can do; Lightning does so there only."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None and handler is not signal.getsignal(number):  # None: not installed by Python
                signal.signal(number, handler)


_present: ContextVar[CellContext | None] = ContextVar("cell_context", default=None)
"""The context of the running cell; None for a cell that runs alone."""


def facts() -> dict[str, Any] | None:
    """The stack facts of the running cell for its result; None if it was trained alone."""
    context = _present.get()
    return context.facts if context is not None and context.facts else None


def share_s() -> float | None:
    """Cost of the running cell so far in seconds; None if it runs alone, where cost and duration are equal."""
    context = _present.get()
    return None if context is None else context.spent_s + time.perf_counter() - context._since


def pause() -> bool:
    """Pause the running cell while it waits for others; returns whether to retry, False for a cell that runs alone."""
    context = _present.get()
    return context is not None and context.pause()


def joined(trainer: L.Trainer, config: Mapping[str, Any]) -> L.Trainer:
    """Prepare a trainer, so that its fits can be stacked if its cell runs together with others.

    Args:
        trainer: a new trainer.
        config: the cell's resolved config.
    """
    context = _present.get()
    if context is not None:
        trainer.fit_loop.epoch_loop = MemberEpochs(trainer, context, config)
    return trainer
