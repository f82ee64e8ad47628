"""Autocast on any device; a device without autocast (``meta``) behaves as one on which autocast is off."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def autocast_type(device: str) -> torch.dtype | None:
    """The type in which autocast now runs matrix products on a device of this kind; None if autocast is off.

    Args:
        device: ``device.type``.
    """
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """A context in which a device of this kind computes in the types of its operands.

    Args:
        device: ``device.type``.
    """
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
