"""Which keys of a config change the keys of a recipe's stages: every leaf of every recipe, against what older code did.

No two configs may share a stage that older code did not let them share.  That they still share what they should is
said by the older table too, but for the exceptions listed here.
"""

import copy
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_dir

from capsexp import build, records, resolvers
from capsexp.making import make_recipe
from capsexp.recipes.base import Recipe, TrainerSettings
from capsexp.recipes.merge_walk import MergeWalk
from capsexp.recipes.networks import Networks, scratch_stage
from capsexp.recipes.stages import Stage
from capsexp.sweep.cells import resolved
from tests.golden import collect, stage_keys

OLD: dict[str, Any] = json.loads(stage_keys.KEPT.read_text())
COMMON = ["data=dhcd", "data.path=tiny.npz", "sweep.name=stages", "logger.wandb.mode=disabled", "threads=1"]
CONF = Path(__file__).parents[2] / "conf"


class Now:
    """The stages of the present code."""

    def config(self, words: Sequence[str]) -> dict[str, Any]:
        """The resolved config of a single cell, in plain types."""
        resolvers.register()
        with initialize_config_dir(version_base="1.3", config_dir=str(records.CONF)):
            return resolved(compose("config", list(words), return_hydra_config=True))

    def folders(self, config: dict[str, Any], like: dict[str, Any] | None = None) -> dict[str, str]:
        """The name of the folder of each stage that a cell with this config goes through, by the stage's name."""
        memo = build.factories(config, Path("cell")).stages
        found: dict[str, str] = {}
        for stage in self._stages(like or config):
            name = stage.name if stage.name not in found else f"{stage.name}, the last"
            found[name] = memo.directory(stage).name
        return found

    def _stages(self, config: dict[str, Any]) -> list[Stage]:
        data = SimpleNamespace(image_shape=(1, 28, 28), classes=3)
        settings = TrainerSettings(config["trainer"]["max_epochs"], {})
        factories = dataclasses.replace(
            build.factories(config, Path("cell")),
            make_data=lambda: cast("Any", data),
            check_trainer=lambda: settings,
        )
        recipe = make_recipe(config)
        stages = list(recipe.stages(factories))
        if isinstance(recipe, MergeWalk) and recipe._mode == "reinit":
            networks = Networks(factories)
            widths = recipe._path(networks.whole)[1:]
            stages += [scratch_stage(widths[place], networks.depth, recipe.irrelevant) for place in (0, -1)]
        return stages


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files lie that the commands name."""
    made = tmp_path_factory.mktemp("stages")
    collect.write_data(made)
    for name in ("tiny.npz", "coupling.npy"):
        other = made / name.replace("tiny", "other").replace("coupling", "other")
        other.write_bytes((made / name).read_bytes() + b"other")
    return made


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CAPSEXP_CACHE", str(folder / "cache"))
    monkeypatch.delenv("CAPSEXP_DATA", raising=False)


@functools.cache
def config_of(case: str) -> dict[str, Any]:
    """For reading only."""
    return Now().config([*COMMON, *stage_keys.CASES[case]])


@functools.cache
def before(case: str) -> dict[str, str]:
    return Now().folders(config_of(case))


@functools.cache
def table(case: str) -> dict[str, Any]:
    return stage_keys.table(Now(), [*COMMON, *stage_keys.CASES[case]])


def test_every_recipe_with_stages_is_looked_at() -> None:
    recipes = {word.partition("=")[2] for words in stage_keys.CASES.values() for word in words if "recipe=" in word}
    assert recipes == {file.stem for file in CONF.glob("recipe/*.yaml")} - {"train"}
    assert set(OLD) == set(stage_keys.CASES)


SLOW = {
    "accumulate, fixed coupling",
    "retrain, share",
    "prune_and_retrain, nothing cut",
    "prune_and_retrain, ratio of 0 retrained",
    "prune_and_retrain, no ccm",
    "prune_and_retrain, from new weights",
    "max_depth, pruned",
    "autoencode_then_classify, epochs",
}
"""Further settings of recipes that another case tries."""


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in stage_keys.CASES]
)
def test_a_leaf_that_changed_a_stage_changes_it_now(case: str) -> None:
    old, now = OLD[case], table(case)
    assert old["leaves"] <= now["leaves"]
    assert list(now["unchanged"]) == list(old["unchanged"]), "the same stages in the same order"
    for stage, leaves in now["unchanged"].items():
        assert set(leaves) - set(old["unchanged"][stage]) == set(), f"{stage}: shared by configs that did not share it"
        assert set(old["unchanged"][stage]) - set(leaves) == set(), f"{stage}: no more shared by configs that shared it"


@pytest.mark.slow
def test_cases_share_the_stages_that_they_shared() -> None:
    def partition(tables: dict[str, Any]) -> list[list[tuple[str, str]]]:
        who: dict[str, list[tuple[str, str]]] = {}
        for case, each in tables.items():
            for stage, name in each["folders"].items():
                who.setdefault(name, []).append((case, stage))
        return sorted(who.values())

    assert partition({case: table(case) for case in OLD}) == partition(OLD)


@pytest.mark.parametrize("case", stage_keys.CASES)
@pytest.mark.parametrize("group", ["recipe", "model", "optimizer", "trainer", "callbacks", "data", "augment", None])
def test_a_key_that_nobody_has_thought_of_changes_the_keys_of_all_stages(case: str, group: str | None) -> None:
    config = config_of(case)
    other = copy.deepcopy(config)
    (other if group is None else other[group])["forgotten"] = 1
    assert not set(before(case).values()) & set(Now().folders(other, like=config).values())


def test_the_numerics_count(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("prune_and_retrain")
    known = before("prune_and_retrain")
    monkeypatch.setattr(records, "NUMERICS_VERSION", records.NUMERICS_VERSION + 1)
    assert not set(known.values()) & set(Now().folders(config).values())


def test_recipes_declare_keys_that_there_are() -> None:
    for case in stage_keys.CASES:
        config = config_of(case)
        recipe = make_recipe(config)
        for dotted in recipe.irrelevant:
            group, _, key = dotted.partition(".")
            if group == "recipe":
                assert key in config["recipe"], f"{case}: {dotted}"
        assert isinstance(recipe, Recipe)
