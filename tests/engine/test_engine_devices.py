"""Which cell may start where, against a plain account of who is where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from capsexp.engine.devices import CONTEXT_BYTES, DEVICE_MARGIN, Devices, Slot

GB = 1_000_000_000


class Account(RuleBasedStateMachine):
    """Takes and gives back at random; ``cells`` is the list of (slot, alone) that run."""

    @initialize(devices=st.integers(1, 4), per_device=st.one_of(st.none(), st.integers(1, 4)), most=st.integers(1, 12))
    def begin(self, devices: int, per_device: int | None, most: int) -> None:
        self.devices = Devices([str(number) for number in range(devices)], per_device, most)
        self.allowed, self.most, self.known = per_device or 1, most, per_device is not None
        self.cells: list[tuple[Slot, bool]] = []

    def on(self, device: str | None) -> list[bool]:
        return [alone for slot, alone in self.cells if slot.device == device]

    def could(self, device: str | None, alone: bool) -> bool:
        there = self.on(device)
        return len(self.cells) < self.most and (not there if alone else len(there) < self.allowed and True not in there)

    @rule(alone=st.booleans())
    def take(self, alone: bool) -> None:
        possible = {slot.device for slot in self.devices.slots if self.could(slot.device, alone)}
        load = {device: len(self.on(device)) for device in possible}
        slot = self.devices.take(alone=alone)
        if slot is None:
            assert not possible
        else:
            assert slot.device in possible
            assert load[slot.device] == min(load.values())
            self.cells.append((slot, alone))

    @precondition(lambda self: self.cells)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        slot, _ = self.cells.pop(data.draw(st.integers(0, len(self.cells) - 1)))
        self.devices.give_back(slot)

    @rule(peak=st.integers(0, 20 * GB), total=st.integers(GB, 80 * GB))
    def measured(self, peak: int, total: int) -> None:
        capacity = self.devices.measured(peak, total)
        assert (capacity is None) == self.known
        if capacity is not None:
            assert capacity >= 1
            assert capacity == 1 or capacity * (peak + CONTEXT_BYTES) <= DEVICE_MARGIN * total
            assert (capacity - 1) * len(self.devices.slots) < self.most
            self.allowed, self.known = capacity, True

    @invariant()
    def nothing_is_crowded_and_nobody_is_lost(self) -> None:
        assert self.devices.held == len(self.cells) <= self.most
        for slot in self.devices.slots:
            there = self.on(slot.device)
            assert slot.held == len(there) <= slot.capacity == self.allowed
            assert True not in there or len(there) == 1


def test_slots_keep_account() -> None:
    run_state_machine_as_test(Account)


@given(st.integers(0, 20 * GB), st.integers(GB, 80 * GB), st.integers(1, 8), st.integers(1, 30))
def test_as_many_as_fit(peak: int, total: int, number: int, most: int) -> None:
    """One more would not fit, or would be more than the sweep may run."""
    devices = Devices([str(each) for each in range(number)], None, most)
    capacity = devices.measured(peak, total)
    assert capacity is not None
    too_full = (capacity + 1) * (peak + CONTEXT_BYTES) > DEVICE_MARGIN * total * 0.999999
    assert too_full or capacity * number >= most


@pytest.mark.parametrize(
    ("peak", "total", "most", "capacity"),
    [(1.4, 7, 8, 3), (6, 7, 8, 1), (90, 7, 8, 1), (0, 80, 16, 8), (0, 80, 15, 8), (0.4, 9.9, 99, 8)],
)
def test_capacity_by_hand(peak: float, total: float, most: int, capacity: int) -> None:
    devices = Devices(["0", "1"], None, most)
    assert devices.measured(int(peak * GB), int(total * GB)) == capacity
    assert [slot.capacity for slot in devices.slots] == [capacity] * 2
    assert devices.measured(GB, 80 * GB) is None, "only the first cell says it"


def test_devices_fill_evenly() -> None:
    devices = Devices(["a", "b", "c"], 2, 6)
    taken = [devices.take() for _ in range(7)]
    assert [slot and slot.device for slot in taken] == ["a", "b", "c", "a", "b", "c", None]


def test_nobody_joins_a_cell_that_is_alone() -> None:
    devices = Devices(["a"], 3, 3)
    alone = devices.take(alone=True)
    assert alone is not None
    assert devices.take() is None
    devices.give_back(alone)
    assert devices.take() is not None
    assert devices.take(alone=True) is None
