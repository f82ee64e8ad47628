"""Paired differences: against a slow reference, laws, protocols, missing values, and what is refused."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsexp.analysis.comparison.paired import Paired, obstacle, paired_differences
from capsexp.errors import ConfigError

T = {1: 12.706204736432095, 2: 4.302652729911275, 3: 3.182446305284263, 4: 2.7764451051977987, 5: 2.570581835636314}
"""97.5 % quantiles of Student's distribution by degrees of freedom, from a printed table."""

PROTOCOL = {"data.name": "digits", "data.sha256": None, "data.test_split": "seeded", "data.generated": False}


def row(sweep, value, seed=0, select_on="val", **axes):
    keys = {f"axes.{key}": each for key, each in axes.items()}
    facts = {**PROTOCOL, "training.select_on": select_on}
    return {"sweep": sweep, "state": "done", "axes.seed": seed, **keys, "acc": value, **facts}


def table(rows):
    """As load_joined makes it: axes are columns of objects, so that None stays None."""
    frame = pd.DataFrame(rows)
    for column in [name for name in frame if name.startswith("axes.")]:
        frame[column] = pd.Series([each.get(column, math.nan) for each in rows], dtype=object)
    return frame


def one(rows, first="a", second="b") -> Paired:
    (found,) = paired_differences(table(rows), "acc", first, second)
    return found


# -- against loops ----------------------------------------------------------------------------------------------------


def interval(values):
    """Mean, deviation and interval by hand."""
    n, mean = len(values), sum(values) / len(values)
    if n < 2:
        return mean, None, None
    std = math.sqrt(sum((each - mean) ** 2 for each in values) / (n - 1))
    half = T[n - 1] * std / math.sqrt(n)
    return mean, std, (mean - half, mean + half)


def by_hand(ours, theirs):
    """The statistics of two dictionaries from (point, seed) to a value."""
    common = [
        place for place in ours if place in theirs and math.isfinite(ours[place]) and math.isfinite(theirs[place])
    ]
    differences = {place: ours[place] - theirs[place] for place in common}
    seeds = sorted({seed for _, seed in common})
    chosen, points = balanced(common, seeds)
    values = []
    for seed in chosen:
        of_seed = [differences[point, seed] for point in points]
        values.append(sum(of_seed) / len(of_seed))
    if len(chosen) == 1:
        values = [differences[point, chosen[0]] for point in points]
    signs = [(each > 0) - (each < 0) for each in differences.values()]
    counts = signs.count(1), signs.count(0), signs.count(-1)
    left_out = len(common) - len(chosen) * len(points)
    return interval(values), len(common), len({point for point, _ in common}), len(seeds), counts, left_out


def balanced(common, seeds):
    """The most seeds that have a point in common, of these those with the most points, then the smallest."""
    best = None
    for size in range(1, len(seeds) + 1):
        for chosen in itertools.combinations(seeds, size):
            points = [p for p in sorted({p for p, _ in common}) if all((p, seed) in common for seed in chosen)]
            if points and (best is None or (size, len(points)) > (len(best[0]), len(best[1]))):
                best = chosen, points
    return best


places = st.tuples(st.integers(0, 2), st.integers(0, 3))
numbers = st.one_of(st.floats(-8, 8, allow_subnormal=False).map(lambda x: round(x, 6)), st.just(math.nan))
sides = st.dictionaries(places, numbers, max_size=12)


def rows_of(ours, theirs, shift=0.0):
    rows = [row("a", value + shift, seed, p=point) for (point, seed), value in ours.items()]
    # The axis has several values whatever is drawn, and what has no value pairs with nothing.
    rows += [row(name, math.nan, 9, p=point) for name in "ab" for point in (0, 1)]
    return rows + [row("b", value, seed, p=point) for (point, seed), value in theirs.items()]


def close(one, other):
    return (one is None) == (other is None) and (one is None or one == pytest.approx(other, rel=1e-9, abs=1e-9))


@settings(max_examples=30, deadline=None)
@given(sides, sides)
def test_the_statistics_are_those_of_loops(ours, theirs):
    assumed = by_hand(ours, theirs) if _meet(ours, theirs) else ((), 0, 0, 0, (), 0)
    mean_std_interval, pairs, points, seeds, counts, left_out = assumed
    found = paired_differences(table(rows_of(ours, theirs)), "acc", "a", "b")
    if not pairs:
        assert found == []
        return
    (each,) = found
    mean, std, ends = mean_std_interval
    assert (len(each.pairs), len(each.points), len(each.seeds), each.counts) == (pairs, points, seeds, counts)
    assert each.left_out == left_out
    assert seeds > 1 or each.over == "points"
    assert close(each.summary.mean, mean)
    assert close(each.summary.std, std)
    assert close(each.summary.interval, ends)
    assert (each.left_out > 0) == (pairs < points * seeds)
    assert each.alone == tuple(sum(map(math.isfinite, side.values())) - pairs for side in (ours, theirs))
    for axes, summary in each.points:
        of_point = [
            ours[place] - theirs[place]
            for place in sorted(ours)
            if place[0] == axes["p"] and math.isfinite(ours[place] - theirs.get(place, math.nan))
        ]
        assert close(summary.mean, interval(of_point)[0])
        assert close(summary.interval, interval(of_point)[2])


def _meet(ours, theirs):
    return any(math.isfinite(ours[place] - theirs[place]) for place in ours.keys() & theirs.keys())


@settings(max_examples=15, deadline=None)
@given(sides, sides, st.randoms(use_true_random=False), st.sampled_from([-2.5, 0.75, 3.0]))
def test_swapping_negates_shifting_shifts_and_the_order_does_not_matter(ours, theirs, random, shift):
    frame = table(rows_of(ours, theirs))
    found = paired_differences(frame, "acc", "a", "b")
    swapped = paired_differences(frame, "acc", "b", "a")
    shifted = paired_differences(table(rows_of(ours, theirs, shift)), "acc", "a", "b")
    order = list(frame.index)
    random.shuffle(order)
    mixed = paired_differences(frame.loc[order], "acc", "a", "b")
    assert len(found) == len(swapped) == len(shifted) == len(mixed) == _meet(ours, theirs)
    for each, other, moved, again in zip(found, swapped, shifted, mixed, strict=True):
        assert other.summary.mean == -each.summary.mean
        assert other.counts == each.counts[::-1]
        assert other.alone == each.alone[::-1]
        assert close(moved.summary.mean, each.summary.mean + shift)
        assert (again.summary.mean, again.summary.interval) == (each.summary.mean, each.summary.interval)
        if each.summary.interval is not None:
            low, high = each.summary.interval
            assert close(other.summary.interval, (-high, -low))
            assert close(moved.summary.interval, (low + shift, high + shift))


@settings(max_examples=30, deadline=None)
@given(st.sets(places, min_size=1), st.sampled_from([-0.25, 0.0, 2.0]))
def test_effects_of_points_are_in_no_interval_over_seeds_whatever_is_missing(have, shift):
    """The difference is an effect of the point and one of the seed: the seeds' means have the same points' effect."""
    ours = {(point, seed): 10.0 * point + seed for point, seed in have}
    theirs = {(point, seed): 7.0 * point + shift for point, seed in have}
    (each,) = paired_differences(table(rows_of(ours, theirs)), "acc", "a", "b")
    if each.over == "seeds":
        seeds, points = balanced(have, sorted({seed for _, seed in have}))
        of_points = sum(3.0 * point for point in points) / len(points)
        assert sorted(each.summary.values) == pytest.approx([of_points + seed - shift for seed in seeds])


# -- seeds and points -------------------------------------------------------------------------------------------------


def grid(value_a, value_b, seeds=(0, 1), points=(1, 2)):
    return [
        row(name, value(point, seed), seed, p=point)
        for name, value in (("a", value_a), ("b", value_b))
        for seed, point in itertools.product(seeds, points)
    ]


def test_the_interval_is_over_seeds_however_many_points_there_are():
    found = one(grid(lambda p, s: 10.0 * p + s, lambda p, s: 10.0 * p, seeds=(0, 1), points=range(50)))
    assert found.over == "seeds"
    assert found.summary.values == (0.0, 1.0)
    assert found.summary.interval == pytest.approx((0.5 - T[1] * 0.5, 0.5 + T[1] * 0.5))


def test_one_seed_is_over_points_and_one_pair_has_no_interval():
    found = one(grid(lambda p, s: float(p), lambda p, s: 0.0, seeds=(7,), points=(1, 2, 3)))
    assert found.over == "points"
    assert found.summary.interval == pytest.approx((2 - T[2] / math.sqrt(3), 2 + T[2] / math.sqrt(3)))
    alone = one([row("a", 1.0, 3), row("b", 0.5, 3)])
    assert (alone.summary.mean, alone.summary.std, alone.summary.interval) == (0.5, None, None)
    assert [summary.interval for _, summary in found.points] == [None] * 3


def test_only_points_that_every_seed_has_are_in_the_mean():
    def of(pairs):
        return one([row(name, value, s, p=p) for p, s, v in pairs for name, value in (("a", v), ("b", 0.0))])

    whole = [(p, s, 10.0 * p + s) for p in (1, 2) for s in (0, 1, 2)]
    assert (of(whole).summary.mean, of(whole).left_out) == (16.0, 0)
    found = of(whole[:-1])
    assert (found.summary.values, found.left_out, len(found.pairs)) == ((10.0, 11.0, 12.0), 2, 5)
    assert [len(summary.values) for _, summary in found.points] == [3, 2], "each point has all its seeds"
    found = of([(1, 0, 1.0), (1, 1, 2.0), (2, 1, 8.0), (2, 2, 9.0), (3, 1, 8.0), (3, 2, 9.0)])
    assert (found.summary.values, found.left_out) == ((8.0, 9.0), 2), "no point of all: the seeds with most pairs"
    found = of([(1, 0, 1.0), (2, 1, 8.0)])
    assert (found.over, found.summary.values, found.summary.interval, found.left_out) == ("points", (1.0,), None, 1)


def test_a_cell_that_both_sweeps_have_is_no_pair():
    rows = [{**row(name, 1.0, seed), "id": f"id{seed}"} for name in "ab" for seed in (0, 1)]
    assert paired_differences(table(rows), "acc", "a", "b") == []
    assert obstacle(table(rows), "acc", "a", "b") == "the same cells"
    mixed = [*rows, {**row("a", 1.5, 2), "id": "x"}, {**row("b", 1.0, 2), "id": "y"}, {**row("b", 1.0, 3), "id": "z"}]
    found = one(mixed)
    assert [pair.difference for pair in found.pairs] == [0.5]
    assert (found.same, found.alone) == (2, (0, 1))
    unknown = [{**each, "id": missing} for each, missing in zip(rows[::2], (None, math.nan), strict=True)]
    assert len(one(unknown).pairs) == 1
    assert len(one([{**each, "id": None} for each in unknown]).pairs) == 1


def test_without_a_column_of_seeds_the_result_says_which_it_was():
    rows = [{key: each for key, each in row(name, 1.0).items() if key != "axes.seed"} for name in "ab"]
    seeds = [{**each, "training.seed": seed} for each in rows for seed in (4, 5)]
    assert one(seeds).seeds == [4, 5]
    assert obstacle(table(rows), "acc", "a", "b") == "no equal point"


# -- points -----------------------------------------------------------------------------------------------------------


def test_a_key_that_varies_in_neither_sweep_is_what_is_compared():
    rows = [
        row("a", 1.0, lr=0.1, p=1),
        row("a", 2.0, lr=0.1, p=2),
        row("b", 4.0, lr=0.3, p=1),
        row("b", 8.0, lr=0.3, p=2),
    ]
    assert [pair.difference for pair in one(rows).pairs] == [-3.0, -6.0]
    assert one(rows).pairs[0].axes == {"p": 1}
    third = [row("c", 1.0, lr=lr, p=1) for lr in (0.1, 0.3)]
    assert one([*rows, *third]).pairs == one(rows).pairs, "a third sweep's axes do not matter"
    assert [pair.difference for pair in one([*rows, *third], "a", "c").pairs] == [0.0]


def test_a_value_that_is_not_known_equals_none_and_null_equals_null():
    rows = [row("a", 1.0, p=1), row("a", 2.0, p=None), row("a", 3.0, p=math.nan)]
    others = [row("b", 0.0, p=None), row("b", 0.0, p=math.nan)]
    found = one([*rows, *others])
    assert [(pair.axes, pair.difference) for pair in found.pairs] == [({"p": None}, 2.0)]
    assert found.alone == (2, 1)
    fixed = [row("b", 0.0, p=math.nan)]
    assert paired_differences(table([*rows, *fixed]), "acc", "a", "b") == []
    assert obstacle(table([*rows, *fixed]), "acc", "a", "b") == "no equal point"


def test_whole_numbers_and_lists_are_equal_however_they_are_kept():
    rows = [row("a", 1.0, p=4), row("a", 2.0, p=[1, 2]), row("b", 0.0, p=4.0), row("b", 0.0, p=[1, 2])]
    assert [pair.difference for pair in one(rows).pairs] == [1.0, 2.0]


# -- protocols --------------------------------------------------------------------------------------------------------


def test_protocols_are_never_mixed():
    both = [row(name, value, select_on=on) for name, value, on in (("a", 1.0, "val"), ("b", 0.0, "test"))]
    assert paired_differences(table(both), "acc", "a", "b") == []
    assert obstacle(table(both), "acc", "a", "b") == "protocol"
    every = [
        row(n, v, select_on=on)
        for n, v, on in (("a", 1.0, "val"), ("a", 9.0, "test"), ("b", 0.5, "val"), ("b", 0.0, "test"))
    ]
    found = paired_differences(table(every), "acc", "a", "b")
    assert [(each.protocol.select_on, each.summary.mean) for each in found] == [("test", 9.0), ("val", 0.5)]
    for column, value in (
        ("data.sha256", "00ff"),
        ("data.test_split", "published"),
        ("data.name", "mnist"),
        ("data.generated", True),
    ):
        rows = [row("a", 1.0), {**row("b", 0.0), column: value}]
        assert paired_differences(table(rows), "acc", "a", "b") == []


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_metric_has_numbers_of_any_kind_and_nothing_else():
    for value in (True, "0.5", [1.0], np.bool_(True)):
        frame = table([row("a", 1.0), row("b", 2.0)])
        frame["acc"] = pd.Series([1.0, value], dtype=object)
        for asked in (paired_differences, obstacle):
            with pytest.raises(ConfigError, match="acc must be a column of numbers, got "):
                asked(frame, "acc", "a", "b")
    frame = table([row("a", 1.0, np.int64(0), p=np.float32(2)), row("b", 2.0, 0, p=2), row("b", 2.0, 1, p=3)])
    for values in ([np.float32(0.5), np.int64(2), None], [np.float16(0.5), 2, pd.NA]):
        frame["acc"] = pd.Series(values, dtype=object)
        (found,) = paired_differences(frame, "acc", "a", "b")
        assert [pair.difference for pair in found.pairs] == [-1.5]
        assert found.alone == (0, 0)


def test_what_cannot_be_compared_is_refused_or_named():
    rows = [row("a", 1.0), row("b", 2.0)]
    for asked, message in [
        (("loss", "a", "b"), "metric must be a column of the table, got 'loss'"),
        (("acc", "c", "b"), r"first must be a sweep of the table \(a, b\), got 'c'"),
        (("acc", "a", "c"), r"second must be a sweep of the table \(a, b\), got 'c'"),
        (("acc", "a", "a"), "second must be another sweep than first, got 'a'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            paired_differences(table(rows), *asked)
    with pytest.raises(ConfigError, match="b must have one cell for each point, seed and protocol, got 2"):
        paired_differences(table([*rows, row("b", 3.0)]), "acc", "a", "b")
    assert obstacle(table([row("a", 1.0), row("b", math.nan)]), "acc", "a", "b") == "no value in b"
    later = table([row("a", 1.0), row("b", 1.0, seed=1)])
    assert obstacle(later, "acc", "a", "b") == "no common seed at an equal point"
    assert obstacle(table(rows), "acc", "a", "b") == ""
    with pytest.raises(ConfigError, match="metric must be a column of the table, got 'loss'"):
        obstacle(table(rows), "loss", "a", "b")
