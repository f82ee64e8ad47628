"""The devices of a sweep and their assignment to groups, within each device's capacity."""

from collections.abc import Sequence
from dataclasses import dataclass

DEVICE_MARGIN = 0.9
"""Share of a GPU's memory that cells may fill together."""

CONTEXT_BYTES = 600_000_000
"""Bytes that a process needs on a GPU besides its tensors: the driver's context and the libraries' kernels."""


@dataclass
class Slot:
    """A device and its current load.

    Attributes:
        device: its name for CUDA_VISIBLE_DEVICES, or None.
        capacity: maximum number of concurrent workers.
        held: number of workers that have a group now.
        alone: whether the running group has exclusive use of the device.
    """

    device: str | None
    capacity: int
    held: int = 0
    alone: bool = False

    @property
    def where(self) -> str:
        """The device, for display; empty where there is only one."""
        return f"GPU {self.device}" if self.device else ""


class Devices:
    """The devices of a sweep.

    Args:
        devices: their names.
        per_device: concurrent cells per device; None = one, until :meth:`measured` sets it from the memory of a cell.
        most: concurrent cells on all devices.
    """

    def __init__(self, devices: Sequence[str | None], per_device: int | None, most: int) -> None:
        self.slots = [Slot(device, per_device or 1) for device in devices]
        self.most = most
        self.to_measure = per_device is None

    @property
    def held(self) -> int:
        """Number of running cells."""
        return sum(slot.held for slot in self.slots)

    def take(self, *, alone: bool = False) -> Slot | None:
        """Reserve a place for a cell on the least loaded device; None if no device has room."""
        if self.held >= self.most:
            return None
        free = [slot for slot in self.slots if _fits(slot, alone)]
        if not free:
            return None
        slot = min(free, key=lambda each: each.held / each.capacity)
        slot.held += 1
        slot.alone = alone
        return slot

    def give_back(self, slot: Slot) -> None:
        """Release the place of a cell that has ended."""
        slot.held -= 1
        slot.alone = False

    def measured(self, peak_bytes: int, total_bytes: int) -> int | None:
        """Set and return the capacity from the first cell's peak memory in bytes; None if it is already set."""
        if not self.to_measure:
            return None
        self.to_measure = False
        capacity = int(DEVICE_MARGIN * total_bytes // (peak_bytes + CONTEXT_BYTES))
        capacity = max(1, min(capacity, -(-self.most // len(self.slots))))
        for slot in self.slots:
            slot.capacity = capacity
        return capacity


def _fits(slot: Slot, alone: bool) -> bool:
    return slot.held == 0 if alone else not slot.alone and slot.held < slot.capacity
