"""Where cells that run together in one process meet: whenever all wait for an epoch, one is trained for many."""

import logging
from collections.abc import Hashable, Sequence
from functools import partial
from typing import NamedTuple, cast

from greenlet import getcurrent

from capsexp import interruption
from capsexp.errors import ran_out_of_memory
from capsexp.stacking.buckets import Buckets, Size
from capsexp.stacking.capacity import buckets_of, size_of, too_large
from capsexp.stacking.convolutions import Form
from capsexp.stacking.member import MemberEpochs
from capsexp.stacking.seat import Life, Seat
from capsexp.stacking.settings import Settings
from capsexp.stacking.signature import signature
from capsexp.stacking.stack import Stack, train

log = logging.getLogger(__name__)

FEW = 0.75
"""Share of a stack's members below which those that are left get a narrower stack."""


class Group(NamedTuple):
    """Who is trained together.

    Attributes:
        common: what they have in common.
        members: all of them wait for an epoch.
    """

    common: Hashable
    members: list[MemberEpochs]


class Hub:
    """Runs cells together: whenever all of them wait for an epoch, it trains one for those that can be stacked.

    One greenlet runs at a time, and hands over only where its fit waits for an epoch.  A failure in a cell's life is
    that cell's.  Fits that lag behind are trained first, so that cells meet again in their next ones.

    Attributes:
        greenlet: in which stacks are trained.
        waiting: members that wait for an epoch, with their seats.
        paused: cells that can do nothing until others have done something.

    Args:
        settings: how stacks are trained.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._buckets = Buckets()
        self.greenlet = getcurrent()
        self.waiting: dict[MemberEpochs, Seat] = {}
        self.paused: list[Seat] = []

    def run(self, lives: Sequence[Life]) -> None:
        """Let all lives go to their end."""
        try:
            self._run(lives)
        finally:  # whoever is still here, since something broke, lets go of what it holds
            for seat in (*self.waiting.values(), *self.paused):
                seat.leave()

    def _run(self, lives: Sequence[Life]) -> None:
        for number, life in enumerate(lives):
            Seat(life, self, number).go_on()
        while self.waiting or self.paused:
            if interruption.requested():
                self._stop_those_who_have_nothing_to_save()
            if self.waiting:
                self._train(self._next())
                self._try_paused(again=True)
            else:  # what they wait for is done by now, or not done here
                self._try_paused(again=True)
                self._try_paused(again=bool(self.waiting))

    def _stop_those_who_have_nothing_to_save(self) -> None:
        """The others save themselves behind their next epoch."""
        for member in [each for each in self.waiting if not each.epochs]:
            self.waiting.pop(member).go_on(KeyboardInterrupt())

    def _try_paused(self, *, again: bool) -> None:
        paused, self.paused = self.paused, []
        for seat in paused:
            seat.go_on(again)

    # -- who is trained together --------------------------------------------------------------------------------------

    def _next(self) -> Group:
        """Those who lag behind most."""
        alike = self._alike()
        common = min(alike, key=lambda each: min(self.waiting[member].fits for member in alike[each]))
        return self._beside(common, alike[common], alike[common][0])

    def _alike(self) -> dict[Hashable, list[MemberEpochs]]:
        """All that wait, by what they have in common."""
        alike: dict[Hashable, list[MemberEpochs]] = {}
        for member in self.waiting:
            alike.setdefault(signature(member), []).append(member)
        return alike

    def _beside(self, common: Hashable, members: Sequence[MemberEpochs], one: MemberEpochs) -> Group:
        """Those of a group's members that are in one bucket with one of them."""
        sizes = self._sizes(members)
        if not self._buckets.knows(common):
            wanted = self._settings.buckets
            self._buckets.cut(common, sizes, buckets_of(members) if wanted == "auto" else wanted)
        buckets = dict(zip(members, self._buckets.of(common, sizes), strict=True))
        return Group(common, [member for member, bucket in buckets.items() if bucket == buckets[one]])

    def _sizes(self, members: Sequence[MemberEpochs]) -> list[Size]:
        return [(size_of(member), self.waiting[member].number) for member in members]

    # -- their training -----------------------------------------------------------------------------------------------

    def _train(self, group: Group) -> None:
        """Train a group until too few of it are left, or others have come who could be with them."""
        if too_large(group.members):
            self._buckets.halve(group.common, self._sizes(group.members))
            return
        form = chosen(self._settings.form)
        for member in group.members:
            self.waiting[member].was_in(len(group.members), form)
        stack: Stack | None = None
        try:
            stack = Stack(group.members, form, partial(self._turns, group.common))
            train(stack)
        except Exception as error:
            if stack is not None:
                stack.undo()
            self._failed(group, error)

    def _failed(self, group: Group, error: Exception) -> None:
        """A stack that ran out of memory is tried in two halves; otherwise its members go on alone."""
        left = [member for member in group.members if member in self.waiting]
        if ran_out_of_memory(error):
            if len(left) > 1:
                log.warning("a stack of %d did not fit into memory; it is trained in two halves", len(left))
                self._buckets.halve(group.common, self._sizes(left))
            else:
                for member in left:
                    self.waiting.pop(member).go_on(error)
            return
        log.warning("a stack of %d failed, and its members are trained alone: %r", len(left), error)
        logging.getLogger("capsexp.trace").error("the stack failed", exc_info=error)
        for member in left:
            member.refusal = "its stack failed"
            self.waiting.pop(member).go_on(None)

    def _turns(self, common: Hashable, stack: Stack) -> bool:
        """Let the members of a stack go on; whether the same stack is wanted for another epoch."""
        share_s = stack.epoch_s / len(stack.live)
        for place in stack.live:
            member = stack.members[place]
            seat = self.waiting.pop(member)
            seat.spent_s += share_s
            member.epochs += 1
            seat.go_on(stack.outcome(place))
        live = [place for place in stack.live if stack.members[place] in self.waiting]
        if not live or len(live) < FEW * len(stack.members):
            return False
        one, alike = stack.members[live[0]], self._alike().get(common, [])
        if one not in alike:  # its coming epoch is another one than those that the stack was made for
            return False
        if {stack.members[place] for place in live} != set(self._beside(common, alike, one).members):
            return False
        stack.keep(live)
        return True


def chosen(form: str) -> Form:
    """The form of the convolutions; ``grouped`` was fastest on a CPU, and is one kernel a layer on a GPU."""
    return "grouped" if form == "auto" else cast("Form", form)
