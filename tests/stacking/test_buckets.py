"""Members in buckets of like sizes, whatever their sizes are and whenever they come."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsexp.stacking.buckets import Buckets, Size

GROUP, OTHER = "group", "other"
parameters = st.lists(st.integers(1, 30), min_size=1, max_size=40)


def sized(parameters: list[int]) -> list[Size]:
    return [(each, number) for number, each in enumerate(parameters)]


def cut(sizes: list[Size], number: int) -> Buckets:
    buckets = Buckets()
    buckets.cut(GROUP, sizes, number)
    return buckets


@given(parameters, st.integers(1, 50))
def test_buckets_are_equal_in_count_and_ordered_by_size(parameters: list[int], number: int) -> None:
    sizes = sized(parameters)
    found = cut(sizes, number).of(GROUP, sizes)
    counts = Counter(found)
    assert sorted(counts) == list(range(min(number, len(sizes))))
    assert max(counts.values()) - min(counts.values()) <= 1
    in_order = [bucket for _, bucket in sorted(zip(sizes, found, strict=True))]
    assert in_order == sorted(in_order)


@given(parameters, parameters, st.integers(1, 6))
def test_who_comes_late_goes_where_it_belongs_and_nobody_moves(early: list[int], late: list[int], number: int) -> None:
    sizes = sized(early + late)
    first, more = sizes[: len(early)], sizes[len(early) :]
    buckets = cut(first, number)
    before = dict(zip(first, buckets.of(GROUP, first), strict=True))
    found = dict(zip(sizes, buckets.of(GROUP, sizes), strict=True))
    assert {size: found[size] for size in first} == before
    for size in more:
        smaller = [bucket for each, bucket in before.items() if each < size]
        larger = [bucket for each, bucket in before.items() if each > size]
        assert max(smaller, default=0) <= found[size] <= min(larger, default=max(before.values()) + 1)
        assert found[size] in before.values(), "a bucket of its own would be a stack of its own"


@given(st.lists(st.integers(1, 9), min_size=2, max_size=30), st.integers(1, 4), st.data())
def test_a_bucket_is_halved_and_the_others_stay(parameters: list[int], number: int, data: st.DataObject) -> None:
    sizes = sized(parameters)
    buckets = cut(sizes, number)
    before = buckets.of(GROUP, sizes)
    halved = data.draw(st.sampled_from([bucket for bucket, count in Counter(before).items() if count > 1] or [None]))
    if halved is None:
        return
    numbers = [buckets.number(GROUP, size) for size in sizes]
    buckets.halve(GROUP, [size for size, bucket in zip(sizes, before, strict=True) if bucket == halved])
    others = [place for place, bucket in enumerate(before) if bucket != halved]
    assert [buckets.number(GROUP, sizes[place]) for place in others] == [numbers[place] for place in others]
    pairs = Counter(zip(before, buckets.of(GROUP, sizes), strict=True))
    counts = Counter(old for old, _ in pairs)
    assert counts.pop(halved) == 2
    assert set(counts.values()) <= {1}
    low, high = sorted(count for (old, _), count in pairs.items() if old == halved)
    assert high - low <= 1


def test_halving_goes_on_until_each_is_alone() -> None:
    sizes = sized([3] * 5)
    buckets = cut(sizes, 1)
    for _ in range(4):
        largest, count = Counter(buckets.of(GROUP, sizes)).most_common(1)[0]
        assert count > 1
        members = zip(sizes, buckets.of(GROUP, sizes), strict=True)
        buckets.halve(GROUP, [size for size, bucket in members if bucket == largest])
    assert sorted(buckets.of(GROUP, sizes)) == [0, 1, 2, 3, 4]


def test_groups_are_cut_apart() -> None:
    buckets = cut(sized([1, 2]), 2)
    assert (buckets.knows(GROUP), buckets.knows(OTHER)) == (True, False)
    buckets.cut(OTHER, sized([1, 2, 3]), 1)
    assert buckets.of(OTHER, sized([1, 2, 3])) == [0, 0, 0]
    assert buckets.of(GROUP, sized([1, 2])) == [0, 1]
    assert len({buckets.number(GROUP, (2, 1)), buckets.number(GROUP, (1, 0)), buckets.number(OTHER, (1, 0))}) == 3
    with pytest.raises(KeyError):
        buckets.of("unknown", sized([1]))
