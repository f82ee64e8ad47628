"""The law of a grid: a cell has the config and the id that its overrides give it alone, in whatever order they come."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hypothesis import given, settings
from hypothesis import strategies as st

from capsexp import records, resolvers
from capsexp.sweep.cells import id_of, resolved
from capsexp.sweep.plan import plan_sweep

Words = dict[str, list[str]]
"""The values of each override of a command, by key."""

VALUES: Words = {
    "model.c2": ["4", "8", "5"],
    "model.c3": ["${model.c2}", "6", "${oc.env:CAPSEXP_TEST_NUMBER}"],
    "model.kernels": ["[7,5,3]", "[5,5,3]"],
    "optimizer": ["{lr:0.1}", "{weight_decay:0.5}", "{lr:0.2,weight_decay:1}"],
    "++optimizer": ["{momentum:0.9}", "{amsgrad:true}", "{lr:0.3}"],
    "optimizer.lr": ["0.01", "${seed}", "1"],
    "trainer.gradient_clip_val": ["null", "0.5", "{a:1}"],
    "trainer.precision": ["'32-true'", '"16-mixed"', "bf16-mixed"],
    "trainer.deterministic": ["true", "false"],
    "callbacks.peak": ["{patience:3}", "{patience:4}"],
    "augment": ["crop28", "none", "shift2"],
    "data": ["digits", "rmnist"],
    "+recipe.more": ["{a:1}", "{b:{c:2}}", "null", "word"],
    "seed": ["0", "1", "7"],
}
"""Overrides of every kind: numbers, words, lists, mappings that are merged, null, groups, new keys, interpolations."""

commands = st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3, unique=True).flatmap(
    lambda keys: st.fixed_dictionaries(
        {key: st.lists(st.sampled_from(VALUES[key]), min_size=1, max_size=2, unique=True) for key in keys}
    )
)


def _is_refused(words: Words) -> bool:
    """Two swept mappings of one key: the axis would have no single value."""
    return len(words.get("optimizer", [])) > 1 and len(words.get("++optimizer", [])) > 1


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConfigLoader]:
    resolvers.register()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("law"))
        patch.delenv("CAPSEXP_DATA", raising=False)
        patch.setenv("CAPSEXP_TEST_NUMBER", "7")
        with initialize_config_dir(version_base="1.3", config_dir=str(records.CONF)):
            yield GlobalHydra.instance().config_loader()


def swept(loader: ConfigLoader, words: Words) -> dict[str, Any]:
    """The cells' configs by id."""
    overrides = ["sweep.name=law", *(f"{key}={','.join(values)}" for key, values in words.items())]
    config = loader.load_configuration("config", overrides, run_mode=RunMode.MULTIRUN)
    return {identifier: cell.config for identifier, cell in plan_sweep(config, loader).frozen.items()}


def alone(loader: ConfigLoader, words: Words) -> dict[str, Any]:
    """The configs, by id, that each combination of values gives as a command of its own."""
    texts = [[f"{key}={value}" for value in values] for key, values in words.items()]
    cells = {}
    for overrides in itertools.product(*texts):
        composed = loader.load_configuration("config", ["sweep.name=law", *overrides], run_mode=RunMode.RUN)
        plain = resolved(composed)
        cells[id_of(plain)] = plain
    return cells


@settings(max_examples=15, deadline=None)
@given(words=commands.filter(lambda words: not _is_refused(words)))
def test_a_cell_of_a_sweep_is_what_its_overrides_give_alone(loader: ConfigLoader, words: Words) -> None:
    expected = alone(loader, words)
    assert swept(loader, words) == expected
    backwards = {key: values[::-1] for key, values in words.items()}
    assert swept(loader, backwards) == expected


@pytest.mark.parametrize(
    "words",
    [
        {"optimizer.lr": ["0.1", "1"], "optimizer": ["{lr:3}"]},
        {"optimizer": ["{lr:3}"], "optimizer.lr": ["0.1", "1"]},
        {"trainer.gradient_clip_val": ["1", "null"], "trainer": ["{gradient_clip_val:2}", "{max_epochs:3}"]},
    ],
)
def test_a_mapping_and_a_key_within_it_apply_in_their_order(loader: ConfigLoader, words: Words) -> None:
    assert swept(loader, words) == alone(loader, words)


@pytest.mark.parametrize(
    ("overrides", "choices"),
    [
        (["optimizer={lr:0.1}", "optimizer={weight_decay:0.5}", "seed=0,1"], [["seed=0"], ["seed=1"]]),
        (["model.c2=4", "model.c2=5", "seed=0,1"], [["seed=0"], ["seed=1"]]),
        (["optimizer={lr:0.1},{weight_decay:2}", "optimizer={lr:2}"], None),
        (["+recipe.new=1", "recipe.new=2", "seed=0,1"], [["seed=0"], ["seed=1"]]),
    ],
)
def test_several_overrides_of_one_key(loader: ConfigLoader, overrides: list[str], choices: Any) -> None:
    """They count as in a command of its own: mappings are merged in order, else the last one stands."""
    config = loader.load_configuration("config", ["sweep.name=law", *overrides], run_mode=RunMode.MULTIRUN)
    found = list(plan_sweep(config, loader).frozen.values())
    fixed = [word for word in overrides if "," not in word]
    jobs = [[*fixed, *choice] for choice in choices] if choices else []
    jobs = jobs or [["optimizer={lr:0.1}", "optimizer={lr:2}"], ["optimizer={weight_decay:2}", "optimizer={lr:2}"]]
    expected = [
        resolved(loader.load_configuration("config", ["sweep.name=law", *job], run_mode=RunMode.RUN)) for job in jobs
    ]
    assert [cell.config for cell in found] == expected


def test_axes_show_what_an_interpolation_is_in_each_cell(loader: ConfigLoader) -> None:
    overrides = ["model.c2=4,8", "model.c3=${model.c2},16", "sweep.name=law"]
    sweep = plan_sweep(loader.load_configuration("config", overrides, run_mode=RunMode.MULTIRUN), loader).sweep
    assert sweep.axes == {"model.c2": [4, 8], "model.c3": [4, 16, 8]}
    assert [tuple(cell.axes.values()) for cell in sweep.cells] == [(4, 4), (4, 16), (8, 8), (8, 16)]
    assert [cell.name.rpartition("-")[0] for cell in sweep.cells[:2]] == ["c2-04_c3-04", "c2-04_c3-16"]
    assert sweep.overrides[:2] == overrides[:2]


def test_folders_of_alike_keys_differ_and_those_of_older_versions_go_on(loader: ConfigLoader) -> None:
    def folder(key: str) -> str:
        words = ["model=capsnet", f"{key}=classic,linear", "hydra.mode=MULTIRUN"]
        return str(loader.load_configuration("config", words, run_mode=RunMode.MULTIRUN).sweep.name)

    assert folder("model.squash") == "model.squash_model-capsnet"
    assert folder("routing.squash") == "routing.squash_model-capsnet"
    earlier = records.Sweep("x", {}, [], ["model=capsnet", "model.squash=classic,linear"], {})
    records.write_sweep(Path("multirun", "squash_model-capsnet"), earlier)
    assert folder("model.squash") == "squash_model-capsnet"
    assert folder("routing.squash") == "routing.squash_model-capsnet"
