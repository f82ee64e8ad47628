"""The stack scheduler: it runs several cells in one process and trains their epochs in stacks."""

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar, cast

from greenlet import getcurrent

from capsexp import stop_request
from capsexp.errors import ran_out_of_memory
from capsexp.stacking.buckets import Buckets, Size
from capsexp.stacking.capacity import buckets_of, size_of, too_large
from capsexp.stacking.context import CellContext, Task, WaitingCells, pause
from capsexp.stacking.convolutions import Impl
from capsexp.stacking.grouping import Settings
from capsexp.stacking.member import MemberEpochs
from capsexp.stacking.signature import signature
from capsexp.stacking.stack import Stack, train

log = logging.getLogger(__name__)

FEW = 0.75
"""Share of live members of a stack below which they get a new, narrower stack."""


class StackGroup(NamedTuple):
    """Members that are trained in one stack.

    Attributes:
        common: their common signature.
        members: the members, which all wait for an epoch.
    """

    common: Hashable
    members: list[MemberEpochs]


class StackScheduler:
    """Runs cells together: when all of them wait for an epoch, it trains one epoch of those that can be stacked.

    One greenlet runs at a time, and switches only where its fit waits for an epoch.  A failure in a cell's task affects
    only that cell.  The fits that are furthest behind are trained first, so that cells can share later stacks again.

    Args:
        settings: the settings of stacks.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._buckets = Buckets()
        self._waiting = WaitingCells(getcurrent())

    def run(self, tasks: Sequence[Task]) -> None:
        """Run all tasks to their end."""
        try:
            self._run(tasks)
        finally:  # after an error, the remaining cells release their resources
            for context in (*self._waiting.members.values(), *self._waiting.paused):
                context.leave()

    def _run(self, tasks: Sequence[Task]) -> None:
        for number, task in enumerate(tasks):
            CellContext(task, self._waiting, number).go_on()
        while self._waiting.members or self._waiting.paused:
            if stop_request.requested():
                self._stop_members_before_their_first_epoch()
            if self._waiting.members:
                self._train(self._next())
                self._try_paused(again=True)
            else:  # the work that they wait for is done by now, or is done in another process
                self._try_paused(again=True)
                self._try_paused(again=bool(self._waiting.members))

    def _stop_members_before_their_first_epoch(self) -> None:
        """Interrupt members without a finished epoch; the others save after their next epoch."""
        for member in [each for each in self._waiting.members if not each.epochs]:
            self._waiting.members.pop(member).go_on(KeyboardInterrupt())

    def _try_paused(self, *, again: bool) -> None:
        paused, self._waiting.paused = self._waiting.paused, []
        for context in paused:
            context.go_on(again)

    # -- grouping of members ------------------------------------------------------------------------------------------

    def _next(self) -> StackGroup:
        """The group of members whose fits are furthest behind."""
        alike = self._alike()
        common = min(alike, key=lambda each: min(self._waiting.members[member].fits for member in alike[each]))
        return self._same_bucket(common, alike[common], alike[common][0])

    def _alike(self) -> dict[Hashable, list[MemberEpochs]]:
        """All waiting members, by their common signature."""
        alike: dict[Hashable, list[MemberEpochs]] = {}
        for member in self._waiting.members:
            alike.setdefault(signature(member), []).append(member)
        return alike

    def _same_bucket(self, common: Hashable, members: Sequence[MemberEpochs], one: MemberEpochs) -> StackGroup:
        """The members of a group that are in the same bucket as one of them."""
        sizes = self._sizes(members)
        if not self._buckets.knows(common):
            wanted = self._settings.buckets
            self._buckets.cut(common, sizes, buckets_of(members) if wanted == "auto" else wanted)
        buckets = dict(zip(members, self._buckets.of(common, sizes), strict=True))
        return StackGroup(common, [member for member, bucket in buckets.items() if bucket == buckets[one]])

    def _sizes(self, members: Sequence[MemberEpochs]) -> list[Size]:
        return [(size_of(member), self._waiting.members[member].number) for member in members]

    # -- training -----------------------------------------------------------------------------------------------------

    def _train(self, group: StackGroup) -> None:
        """Train a group until too few of its members are left, or until others could join."""
        if too_large(group.members):
            self._buckets.halve(group.common, self._sizes(group.members))
            return
        impl = resolve(self._settings.impl)
        self._note(group, impl)
        stack: Stack | None = None
        try:
            stack = Stack(group.members, impl, partial(self._continue_members, group.common))
            train(stack)
        except Exception as error:
            if stack is not None:
                stack.undo()
            self._failed(group, error)

    def _note(self, group: StackGroup, impl: Impl) -> None:
        """Tell all members, those that wait too, that a group is going to be trained."""
        bucket = self._buckets.number(group.common, self._sizes(group.members[:1])[0])
        for member, context in self._waiting.members.items():
            if member in group.members:
                context.record_stack(len(group.members), impl)
                member.begin_stack(bucket)
            else:
                member.stand_by()

    def _failed(self, group: StackGroup, error: Exception) -> None:
        """Handle a failed stack: after a lack of memory it is halved; otherwise its members continue alone."""
        left = [member for member in group.members if member in self._waiting.members]
        if ran_out_of_memory(error):
            if len(left) > 1:
                log.warning("a stack of %d did not fit into memory; it is trained in two halves", len(left))
                self._buckets.halve(group.common, self._sizes(left))
            else:
                for member in left:
                    self._waiting.members.pop(member).go_on(error)
            return
        log.warning("a stack of %d failed, and its members are trained alone: %r", len(left), error)
        logging.getLogger("capsexp.trace").error("the stack failed", exc_info=error)
        for member in left:
            member.refusal = "its stack failed"
            self._waiting.members.pop(member).go_on(None)

    def _continue_members(self, common: Hashable, stack: Stack) -> bool:
        """Resume the members of a stack; returns whether the same stack is used for another epoch."""
        share_s = stack.epoch_s / len(stack.live)
        for place in stack.live:
            member = stack.members[place]
            context = self._waiting.members.pop(member)
            context.spent_s += share_s
            member.epochs += 1
            began = time.perf_counter()
            context.go_on(stack.outcome(place))
            if member not in self._waiting.members:  # it has ended its fit: test, result, fits of its own
                for other in self._waiting.members.keys() & set(stack.members):
                    other.leave_out(time.perf_counter() - began)
        live = [place for place in stack.live if stack.members[place] in self._waiting.members]
        if not live or len(live) < FEW * len(stack.members):
            return False
        one, alike = stack.members[live[0]], self._alike().get(common, [])
        if one not in alike:  # its next epoch has another signature than the stack
            return False
        if {stack.members[place] for place in live} != set(self._same_bucket(common, alike, one).members):
            return False
        stack.keep(live)
        return True


def resolve(impl: str) -> Impl:
    """The implementation for a setting; ``grouped`` was fastest on a CPU, and is one kernel per layer on a GPU."""
    return "grouped" if impl == "auto" else cast("Impl", impl)


# -- cells -------------------------------------------------------------------------------------------------------------


class Outcome(Protocol):
    """The outcome of one attempt to run a cell."""

    @property
    def busy(self) -> bool:
        """True if the cell waits for the work of another cell or process."""


C = TypeVar("C")
E = TypeVar("E", bound=Outcome)


def run(cells: Sequence[C], ended: Callable[[C, E], None], settings: Settings, work: Callable[[C], E]) -> None:
    """Run cells together, each as if it were alone except for the epochs that a stack trains.

    A cell whose fits cannot be stacked runs alone, between the epochs of the others.  A cell that waits for a stage of
    another cell is retried after the others have continued.

    Args:
        cells: cells whose fits may be stacked.
        ended: called for each cell that ends, or that waits for something that no cell here computes.
        settings: the settings of stacks.
        work: runs a cell; it raises nothing.
    """

    def task(cell: C) -> None:
        how = work(cell)
        while how.busy and pause():
            how = work(cell)
        ended(cell, how)

    StackScheduler(settings).run([partial(task, cell) for cell in cells])
