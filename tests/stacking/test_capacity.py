"""How many members go together: as their maps fit into a processor's caches, and their steps into memory."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from capsexp.callbacks.memory_check import MemoryCheck
from capsexp.errors import ran_out_of_memory
from capsexp.models.cnn import CNN
from capsexp.stacking import capacity
from capsexp.stacking.capacity import buckets_of, bytes_of, too_large
from capsexp.stacking.member import MemberEpochs

SIDE, BATCH = 16, 100
IMAGE = (1, SIDE, SIDE)


def cnn(c1: int, c2: int = 2) -> CNN:
    return CNN(image_shape=IMAGE, classes=3, c1=c1, c2=c2, c3=2, kernels=(3, 3, 1))


def member(model: nn.Module | None = None, step_bytes: int | None = None, device: str = "cpu") -> MemberEpochs:
    """What of a member is looked at here."""
    check = MemoryCheck()
    check.step_bytes = step_bytes
    parts: dict[str, Any] = {
        "module": SimpleNamespace(model=model, device=torch.device(device)),
        "data": SimpleNamespace(batch_size=BATCH, image_shape=IMAGE),
        "trainer": SimpleNamespace(callbacks=[object(), check]),
    }
    return cast("MemberEpochs", SimpleNamespace(**parts))


def largest_bytes(c1: int) -> int:
    """Of the maps behind the first convolution, which keeps the images' size, in single precision."""
    return c1 * SIDE * SIDE * BATCH * 4


@pytest.mark.parametrize(("room", "buckets"), [(1.0, 10), (2.0, 5), (3.5, 3), (9.9, 2), (10.0, 1), (99.0, 1)])
def test_as_many_as_have_their_largest_maps_in_the_caches(
    room: float, buckets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All count as much as the widest, and ``room`` is for so many."""
    monkeypatch.setattr(capacity, "CACHED_BYTES", room * largest_bytes(5))
    members = [member(cnn(c1)) for c1 in (5, *(1,) * 9)]
    assert buckets_of(members) == buckets_of(members[::-1]) == buckets


def test_looking_at_maps_leaves_a_network_as_it_was() -> None:
    model = cnn(3).train()
    model.layers.dropout1.eval()
    modes = [part.training for part in model.modules()]
    state = torch.get_rng_state()
    buckets_of([member(model)])
    assert [part.training for part in model.modules()] == modes
    assert not any(part._forward_hooks for part in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("count", "widths", "buckets"), [(32, (2, 3), 4), (31, (2, 3), 1), (32, (2,), 1), (200, (2, 3, 4), 4)]
)
def test_on_a_gpu_many_members_of_different_widths_are_parted(
    count: int, widths: tuple[int, ...], buckets: int
) -> None:
    models = [cnn(2, c2) for c2 in widths]
    assert buckets_of([member(models[place % len(models)], device="cuda") for place in range(count)]) == buckets


def test_a_stack_takes_what_its_largest_member_takes_for_each() -> None:
    assert bytes_of([member(step_bytes=each) for each in (30, 100, None)]) == 300
    assert bytes_of([member(), member()]) is None


@pytest.mark.parametrize(
    ("steps", "free", "found"),
    [
        ((100, 50), 1000, False),
        ((100, 50), 223, False),
        ((100, 50), 222, True),
        ((100, None), 222, True),
        ((100,), 1, False),
        ((100, 50), None, False),
        ((None, None), 1, False),
    ],
)
def test_a_stack_is_too_large_where_its_step_takes_more_than_nine_tenths_of_what_is_free(
    steps: tuple[int | None, ...], free: int | None, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One alone is never: it is as large as it is, and was looked at before."""
    monkeypatch.setattr(capacity, "free_memory", lambda device: free)
    assert too_large([member(step_bytes=each) for each in steps]) is found


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), True),
        (RuntimeError("CUDNN_STATUS_ALLOC_FAILED"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_mean_that_memory_ran_out(error: Exception, found: bool) -> None:
    assert ran_out_of_memory(error) is found
