"""How many members a stack should have, and how many it may have as far as memory goes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from capsexp.callbacks.memory_check import MemoryCheck, free_memory
from capsexp.stacking.member import MemberEpochs

ROOM = 0.9
"""Share of the free memory that a stack may take."""

CACHED_BYTES = 16e6
"""On a CPU, what the largest maps of a stack should take together, so that a step stays near the processor's caches.

Measured in benchmarks/stacked_forms.py: that is 26 CNNs with batches of 32 images, or six with batches of 128.
"""

ON_A_GPU = 4
"""Buckets of :data:`MANY` members of different widths: what is padded costs time there, but so does each launch."""

MANY = 32


def size_of(member: MemberEpochs) -> int:
    """Parameters of a member's network."""
    return sum(parameter.numel() for parameter in member.module.model.parameters())


def buckets_of(members: Sequence[MemberEpochs]) -> int:
    """In how many parts of like widths the members of a group are trained fastest."""
    if members[0].module.device.type == "cpu":
        batch = members[0].data.batch_size
        each = _largest_map(max(members, key=size_of)) * batch * 4
        return -(-len(members) * each // int(CACHED_BYTES))
    widths = {tuple(parameter.shape for parameter in member.module.model.parameters()) for member in members}
    return ON_A_GPU if len(members) >= MANY and len(widths) > 1 else 1


@torch.no_grad()
def _largest_map(member: MemberEpochs) -> int:
    """Values in the largest map of an image."""
    model, found = member.module.model, [0]

    def look(_: nn.Module, given: object, made: object) -> None:
        found.append(made.numel() if isinstance(made, Tensor) else 0)

    hooks = [part.register_forward_hook(look) for part in model.modules() if not any(part.children())]
    some = next(model.parameters())
    modes = [(part, part.training) for part in model.modules()]
    try:
        model.eval()(some.new_zeros(1, *member.data.image_shape))
    finally:
        for part, mode in modes:  # some are frozen
            part.training = mode
        for hook in hooks:
            hook.remove()
    return max(found)


def too_large(members: Sequence[MemberEpochs]) -> bool:
    """True if a step of a stack of these would not fit into memory, as far as their own steps tell."""
    needed, free = bytes_of(members), free_memory(members[0].module.device)
    return len(members) > 1 and needed is not None and free is not None and needed > ROOM * free


def bytes_of(members: Sequence[MemberEpochs]) -> int | None:
    """What a training step of a stack takes at its peak, in bytes: for each member what the largest takes alone.

    A member's own step is told by ``callbacks/memory_check``; None where no member has one.
    """
    found = [
        callback.step_bytes
        for member in members
        for callback in member.trainer.callbacks
        if isinstance(callback, MemoryCheck) and callback.step_bytes is not None
    ]
    return len(members) * max(found) if found else None
