"""Which cells a worker gets together, and whether ``auto`` lets it."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsexp.stacking.grouping import FEWEST, Choice, choose, grouped, most_alike

CONFIG: dict[str, Any] = {
    "seed": 0,
    "threads": 1,
    "data": {"_target_": "Digits", "batch_size": 32, "path": None},
    "augment": {"crop": 28, "shift": None},
    "model": {
        "_target_": "CNN",
        "c2": 16,
        "dropout": 0.25,
        "shared": True,
        "hidden": None,
        "kernels": [7, 5],
        "module": {"_target_": "Classifier", "margin": 0.1},
    },
    "routing": {"iterations": 3},
    "optimizer": {"_target_": "Adam", "lr": 5e-4, "weight_decay": 1e-6, "fused": True},
    "trainer": {
        "max_epochs": 3,
        "precision": "32-true",
        "gradient_clip_val": None,
        "progress": "auto",
        "log_every_n_steps": 50,
    },
    "recipe": {"_target_": "Train"},
    "callbacks": {"peak": {"patience": 10}},
    "pruning": {"_target_": "Magnitude"},
    "filter": None,
}


@dataclass(frozen=True, eq=False)
class Point:
    config: dict[str, Any]


def changed(key: str, value: Any, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """The config with the value at a dotted key changed, or left out where it is ``...``."""
    head, _, rest = key.partition(".")
    config = dict(CONFIG if config is None else config)
    if rest:
        return config | {head: changed(rest, value, config[head])}
    return {name: old for name, old in (config | {head: value}).items() if old is not ...}


def together(key: str, value: Any) -> bool:
    return most_alike([CONFIG, changed(key, value)]) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 7),
        ("model.c2", 3),
        ("model.dropout", 0),
        ("model.module.margin", 1.5),
        ("optimizer.lr", 1),
        ("optimizer.weight_decay", 0.0),
        ("trainer.max_epochs", 9),
        ("trainer.gradient_clip_val", 1.0),
        ("trainer.progress", False),
        ("trainer.log_every_n_steps", 1),
        ("recipe._target_", "Walk"),
        ("callbacks.peak", None),
        ("pruning._target_", "Random"),
        ("filter", {"eps": 1}),
        ("study", {"layer": 2}),
    ],
)
def test_members_may_differ_in_what_is_their_own(key: str, value: Any) -> None:
    assert together(key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threads", 2),
        ("data.batch_size", 33),
        ("data.path", "a.npz"),
        ("augment.shift", 2),
        ("model._target_", "Autoencoder"),
        ("model.shared", False),
        ("model.shared", 1),
        ("model.hidden", 5),
        ("model.kernels", [7, 3]),
        ("model.c2", ...),
        ("model.c9", 1),
        ("model.module._target_", "Other"),
        ("routing.iterations", 2),
        ("routing", ...),
        ("optimizer._target_", "SGD"),
        ("optimizer.fused", False),
        ("optimizer.momentum", 0.9),
        ("trainer.precision", "64-true"),
        ("trainer.accelerator", "cpu"),
    ],
)
def test_members_agree_in_what_a_step_computes_for_all(key: str, value: Any) -> None:
    assert not together(key, value)


def test_configs_without_a_part_are_alike() -> None:
    bare = {"model": None, "seed": 1}
    assert most_alike([bare, {"model": None}, CONFIG]) == 2
    assert most_alike([]) == 0


AXES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 3),
        "model.c2": st.sampled_from([1, 2, 8, 16, 16.5]),
        "data.batch_size": st.sampled_from([8, 16]),
        "model.shared": st.booleans(),
        "optimizer.lr": st.sampled_from([1e-3, 1e-2]),
    }
)


def point(axes: dict[str, Any]) -> Point:
    config = CONFIG
    for key, value in axes.items():
        config = changed(key, value, config)
    return Point(config)


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(AXES, max_size=30).map(lambda found: [point(axes) for axes in found]),
    at_once=st.integers(1, 9),
    members=st.one_of(st.none(), st.integers(1, 7)),
)
def test_every_cell_is_in_one_group_and_groups_keep_their_limits(
    points: list[Point], at_once: int, members: int | None
) -> None:
    made = grouped(points, at_once, members)
    assert Counter(map(id, (cell for group in made for cell in group))) == Counter(map(id, points))
    groups: dict[Any, list[tuple[Point, ...]]] = {}
    for group in made:
        (shared,) = {(cell.config["data"]["batch_size"], cell.config["model"]["shared"]) for cell in group}
        groups.setdefault(shared, []).append(group)
    for parts in groups.values():
        sizes, number = [len(group) for group in parts], sum(len(group) for group in parts)
        assert max(sizes) <= (members or number)
        assert max(sizes) - min(sizes) <= 1
        assert len(sizes) >= min(at_once, number // 2)
        if min(sizes) == 1 and number > 1:  # not avoidable: fewer groups would hold too many
            assert members is not None
            assert number > (len(sizes) - 1) * members
        widths = [cell.config["model"]["c2"] for group in parts for cell in group]
        assert widths == sorted(widths, reverse=True), "neighbours are alike in their widths"


@pytest.mark.parametrize(
    ("number", "at_once", "members", "sizes"),
    [
        (225, 1, None, [225]),
        (225, 2, None, [112, 113]),
        (225, 1, 100, [75, 75, 75]),
        (3, 2, None, [3]),
        (5, 4, None, [2, 3]),
        (3, 1, 2, [1, 2]),
        (4, 8, 1, [1, 1, 1, 1]),
        (1, 8, None, [1]),
        (0, 8, 2, []),
    ],
)
def test_sizes_of_groups(number: int, at_once: int, members: int | None, sizes: list[int]) -> None:
    assert [len(group) for group in grouped([Point(CONFIG)] * number, at_once, members)] == sizes


def test_cells_of_one_size_stay_in_the_order_of_their_sweep() -> None:
    points = [Point(changed("seed", seed)) for seed in range(6)]
    assert [cell for group in grouped(points, 2, None) for cell in group] == points


# -- auto --------------------------------------------------------------------------------------------------------------


def test_the_user_has_the_last_word() -> None:
    many = [CONFIG] * FEWEST
    assert choose("always", "local", (None,), many[:1]) == Choice(True)
    assert choose("always", "ray", ("",), many) == Choice(True)
    assert choose("never", "local", ("0",), many) == Choice(False)


def test_auto_stacks_on_a_gpu_where_enough_cells_are_alike() -> None:
    many = [changed("model.c2", width) for width in range(FEWEST)]
    other = changed("data.batch_size", 3)
    plain = [{**each, "routing": None} for each in many]  # no capsules
    for devices, configs, stacked, why in (
        (("0",), many, True, "auto: stacked (8 cells can share a stack on a GPU)"),
        (("0", "1"), [*many, other], True, "auto: stacked (8 cells can share a stack on a GPU)"),
        (("0",), [*many[1:], other], False, "auto: processes (7 cells at most could share a stack, 8 should)"),
        ((None,), plain, True, "auto: stacked (8 cells can share a stack)"),
        (("",), plain[1:], False, "auto: processes (7 cells at most could share a stack, 8 should)"),
        (("",), many, False, "auto: processes (0 cells at most could share a stack, 8 should)"),
    ):
        assert choose("auto", "local", devices, configs) == Choice(stacked, why)
    assert not choose("auto", "ray", ("0",), many).stacked
