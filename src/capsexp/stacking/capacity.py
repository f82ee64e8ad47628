"""The number of members of a stack: the fastest one, and the largest one that fits into memory."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from capsexp.callbacks.memory_check import MemoryCheck, free_memory
from capsexp.stacking.member import MemberEpochs

ROOM = 0.9
"""Share of the free memory that a stack may take."""

CACHED_BYTES = 16e6
"""On a CPU, the target size of a stack's largest maps in bytes, so that a step uses the processor's caches.

It is measured in benchmarks/stacked_forms.py: 26 CNNs with batches of 32 images, or six with batches of 128.
"""

ON_A_GPU = 4
"""Number of buckets on a GPU for at least :data:`MANY` members of different widths.

Padding costs time there, but so does each kernel launch.
"""

MANY = 32


def size_of(member: MemberEpochs) -> int:
    """Number of parameters of a member's network."""
    return sum(parameter.numel() for parameter in member.module.model.parameters())


def buckets_of(members: Sequence[MemberEpochs]) -> int:
    """The number of buckets with which a group is trained fastest."""
    if members[0].module.device.type == "cpu":
        batch = members[0].data.batch_size
        each = _largest_map(max(members, key=size_of)) * batch * 4
        return -(-len(members) * each // int(CACHED_BYTES))
    widths = {tuple(parameter.shape for parameter in member.module.model.parameters()) for member in members}
    return ON_A_GPU if len(members) >= MANY and len(widths) > 1 else 1


@torch.no_grad()
def _largest_map(member: MemberEpochs) -> int:
    """Number of values in the largest map of one image."""
    model, found = member.module.model, [0]

    def record_size(_: nn.Module, given: object, made: object) -> None:
        found.append(made.numel() if isinstance(made, Tensor) else 0)

    hooks = [part.register_forward_hook(record_size) for part in model.modules() if not any(part.children())]
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
    """True if a training step of a stack of these members would not fit into memory, by their estimates."""
    needed, free = bytes_of(members), free_memory(members[0].module.device)
    return len(members) > 1 and needed is not None and free is not None and needed > ROOM * free


def bytes_of(members: Sequence[MemberEpochs]) -> int | None:
    """Peak bytes of a training step of a stack: for each member, the bytes of the largest member alone.

    ``callbacks/memory_check`` estimates the step of a member; None if no member has this callback.
    """
    found = [
        callback.step_bytes
        for member in members
        for callback in member.trainer.callbacks
        if isinstance(callback, MemoryCheck) and callback.step_bytes is not None
    ]
    return len(members) * max(found) if found else None
