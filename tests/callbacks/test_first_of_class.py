"""The first image of every class, against a loop over the images."""

import pytest
import torch
from torch import Tensor

from capsexp.callbacks.first_of_class import FirstOfClass


def by_hand(labels_N: list[int], preferred_N: list[bool]) -> dict[int, tuple[int, bool]]:
    found: dict[int, tuple[int, bool]] = {}
    for place, (label, preferred) in enumerate(zip(labels_N, preferred_N, strict=True)):
        if label not in found or (preferred and not found[label][1]):
            found[label] = place, preferred
    return dict(sorted(found.items()))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("batch", [1, 3, 40])
def test_equals_a_loop(seed: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(9, (40,), generator=generator) % 7
    preferred_N = torch.rand(40, generator=generator) < 0.2
    for wish_N in (preferred_N, None):
        first = FirstOfClass(10)
        values: tuple[Tensor, ...] = (torch.arange(40), torch.randn(40, 2, 3, generator=generator))
        for at in range(0, 40, batch):
            here = slice(at, at + batch)
            wish_B = None if wish_N is None else wish_N[here]
            first.add(labels_N[here], *(each[here] for each in values), preferred_B=wish_B)
        expected = by_hand(labels_N.tolist(), [True] * 40 if wish_N is None else wish_N.tolist())
        found = first.found()
        assert {label: (int(each.values[0]), each.preferred) for label, each in found.items()} == expected
        assert list(found) == list(expected)
        assert all(torch.equal(each.values[1], values[1][int(each.values[0])]) for each in found.values())


def test_without_images_there_is_nothing() -> None:
    assert FirstOfClass(3).found() == {}
