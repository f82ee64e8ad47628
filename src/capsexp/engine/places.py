"""Which cell may start on which device: never more than fit, and alone where that was asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

DEVICE_MARGIN = 0.9
"""Share of a GPU's memory that cells may fill together."""

CONTEXT_BYTES = 600_000_000
"""What a process needs on a GPU besides its tensors: the driver's context and the libraries' kernels."""


@dataclass
class Place:
    """A device and what it holds.

    Attributes:
        device: its name for CUDA_VISIBLE_DEVICES, or None.
        capacity: cells at once.
        held: cells that run there now.
        alone: the cell that runs there has it for itself.
    """

    device: str | None
    capacity: int
    held: int = 0
    alone: bool = False

    @property
    def where(self) -> str:
        """The place, for people; empty where it needs no word."""
        return f"GPU {self.device}" if self.device else ""


class Places:
    """The devices of a sweep.

    Args:
        devices: their names.
        per_device: cells at once on each; None = one, until :meth:`measured` says how much a cell needs.
        most: cells at once altogether.
    """

    def __init__(self, devices: Sequence[str | None], per_device: int | None, most: int) -> None:
        self.places = [Place(device, per_device or 1) for device in devices]
        self.most = most
        self.to_measure = per_device is None

    @property
    def held(self) -> int:
        """Cells that run now."""
        return sum(place.held for place in self.places)

    def take(self, *, alone: bool = False) -> Place | None:
        """The emptiest device that can take one more cell, now counted there; None where there is none."""
        if self.held >= self.most:
            return None
        free = [place for place in self.places if _fits(place, alone)]
        if not free:
            return None
        place = min(free, key=lambda each: each.held / each.capacity)
        place.held += 1
        place.alone = alone
        return place

    def give_back(self, place: Place) -> None:
        """A cell has left a device."""
        place.held -= 1
        place.alone = False

    def measured(self, peak_bytes: int, total_bytes: int) -> int | None:
        """Set the capacity from the first cell's peak of memory; None if it was set already."""
        if not self.to_measure:
            return None
        self.to_measure = False
        capacity = int(DEVICE_MARGIN * total_bytes // (peak_bytes + CONTEXT_BYTES))
        capacity = max(1, min(capacity, -(-self.most // len(self.places))))
        for place in self.places:
            place.capacity = capacity
        return capacity


def _fits(place: Place, alone: bool) -> bool:
    return place.held == 0 if alone else not place.alone and place.held < place.capacity
