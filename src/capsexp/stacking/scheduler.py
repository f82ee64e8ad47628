"""Runs several cells in one process: whenever all of them wait for an epoch, one is trained for many."""

import logging
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar, cast

from greenlet import getcurrent

from capsexp import stop_request
from capsexp.errors import ran_out_of_memory
from capsexp.stacking.buckets import Buckets, Size
from capsexp.stacking.capacity import buckets_of, size_of, too_large
from capsexp.stacking.context import CellContext, Task, Waiting, pause
from capsexp.stacking.convolutions import Impl
from capsexp.stacking.grouping import Settings
from capsexp.stacking.member import MemberEpochs
from capsexp.stacking.signature import signature
from capsexp.stacking.stack import Stack, train

log = logging.getLogger(__name__)

FEW = 0.75
"""Share of a stack's members below which those that are left get a narrower stack."""


class Together(NamedTuple):
    """Members that are trained in one stack.

    Attributes:
        common: their signature.
        members: all of them wait for an epoch.
    """

    common: Hashable
    members: list[MemberEpochs]


class StackScheduler:
    """Runs cells together: whenever all of them wait for an epoch, it trains one for those that can be stacked.

    One greenlet runs at a time, and hands over only where its fit waits for an epoch.  A failure in a cell's task is
    that cell's.  Fits that lag behind are trained first, so that cells meet again in their next ones.

    Args:
        settings: how stacks are trained.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._buckets = Buckets()
        self._waiting = Waiting(getcurrent())

    def run(self, tasks: Sequence[Task]) -> None:
        """Let all tasks go to their end."""
        try:
            self._run(tasks)
        finally:  # whoever is still here, since something broke, lets go of what it holds
            for context in (*self._waiting.members.values(), *self._waiting.paused):
                context.leave()

    def _run(self, tasks: Sequence[Task]) -> None:
        for number, task in enumerate(tasks):
            CellContext(task, self._waiting, number).go_on()
        while self._waiting.members or self._waiting.paused:
            if stop_request.requested():
                self._stop_those_who_have_nothing_to_save()
            if self._waiting.members:
                self._train(self._next())
                self._try_paused(again=True)
            else:  # what they wait for is done by now, or not done here
                self._try_paused(again=True)
                self._try_paused(again=bool(self._waiting.members))

    def _stop_those_who_have_nothing_to_save(self) -> None:
        """The others save themselves behind their next epoch."""
        for member in [each for each in self._waiting.members if not each.epochs]:
            self._waiting.members.pop(member).go_on(KeyboardInterrupt())

    def _try_paused(self, *, again: bool) -> None:
        paused, self._waiting.paused = self._waiting.paused, []
        for context in paused:
            context.go_on(again)

    # -- who is trained together --------------------------------------------------------------------------------------

    def _next(self) -> Together:
        """Those who lag behind most."""
        alike = self._alike()
        common = min(alike, key=lambda each: min(self._waiting.members[member].fits for member in alike[each]))
        return self._beside(common, alike[common], alike[common][0])

    def _alike(self) -> dict[Hashable, list[MemberEpochs]]:
        """All that wait, by what they have in common."""
        alike: dict[Hashable, list[MemberEpochs]] = {}
        for member in self._waiting.members:
            alike.setdefault(signature(member), []).append(member)
        return alike

    def _beside(self, common: Hashable, members: Sequence[MemberEpochs], one: MemberEpochs) -> Together:
        """Those of a group's members that are in one bucket with one of them."""
        sizes = self._sizes(members)
        if not self._buckets.knows(common):
            wanted = self._settings.buckets
            self._buckets.cut(common, sizes, buckets_of(members) if wanted == "auto" else wanted)
        buckets = dict(zip(members, self._buckets.of(common, sizes), strict=True))
        return Together(common, [member for member, bucket in buckets.items() if bucket == buckets[one]])

    def _sizes(self, members: Sequence[MemberEpochs]) -> list[Size]:
        return [(size_of(member), self._waiting.members[member].number) for member in members]

    # -- their training -----------------------------------------------------------------------------------------------

    def _train(self, group: Together) -> None:
        """Train a group until too few of it are left, or others have come who could be with them."""
        if too_large(group.members):
            self._buckets.halve(group.common, self._sizes(group.members))
            return
        impl = resolve(self._settings.impl)
        for member in group.members:
            self._waiting.members[member].was_in(len(group.members), impl)
        stack: Stack | None = None
        try:
            stack = Stack(group.members, impl, partial(self._turns, group.common))
            train(stack)
        except Exception as error:
            if stack is not None:
                stack.undo()
            self._failed(group, error)

    def _failed(self, group: Together, error: Exception) -> None:
        """A stack that ran out of memory is tried in two halves; otherwise its members go on alone."""
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

    def _turns(self, common: Hashable, stack: Stack) -> bool:
        """Let the members of a stack go on; whether the same stack is wanted for another epoch."""
        share_s = stack.epoch_s / len(stack.live)
        for place in stack.live:
            member = stack.members[place]
            context = self._waiting.members.pop(member)
            context.spent_s += share_s
            member.epochs += 1
            context.go_on(stack.outcome(place))
        live = [place for place in stack.live if stack.members[place] in self._waiting.members]
        if not live or len(live) < FEW * len(stack.members):
            return False
        one, alike = stack.members[live[0]], self._alike().get(common, [])
        if one not in alike:  # its coming epoch is another one than those that the stack was made for
            return False
        if {stack.members[place] for place in live} != set(self._beside(common, alike, one).members):
            return False
        stack.keep(live)
        return True


def resolve(impl: str) -> Impl:
    """The implementation of the convolutions; ``grouped`` was fastest on a CPU, and is one kernel a layer on a GPU."""
    return "grouped" if impl == "auto" else cast("Impl", impl)


# -- cells -------------------------------------------------------------------------------------------------------------


class Outcome(Protocol):
    """How a try at a cell ended."""

    @property
    def busy(self) -> bool:
        """It waits for what another cell or another process computes."""


C = TypeVar("C")
E = TypeVar("E", bound=Outcome)


def run(cells: Sequence[C], ended: Callable[[C, E], None], settings: Settings, work: Callable[[C], E]) -> None:
    """Run cells together, each as if it were alone but for the epochs that a stack trains.

    One whose fits cannot be stacked is run alone, between the others' epochs.  One that waits for a stage which another
    computes is tried again once the others have gone on.

    Args:
        cells: whose fits may be stacked.
        ended: is told of each cell as it comes to its end, or when nothing here will end its waiting.
        settings: how stacks are trained.
        work: what is done with a cell; it raises nothing.
    """

    def task(cell: C) -> None:
        how = work(cell)
        while how.busy and pause():
            how = work(cell)
        ended(cell, how)

    StackScheduler(settings).run([partial(task, cell) for cell in cells])
