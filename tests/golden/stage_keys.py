"""Which keys of a config do not change the key of a recipe's stages: ``python -m tests.golden.stage_keys [--write]``.

For every recipe that has stages, each leaf of the resolved config is given another value, and the folder of each stage
is asked for again.  What is kept, ``kept/stages.json``, holds for each stage the leaves that leave it where it was.

This script is for the code of dbb0b0f, and uses names of its inside, all of them in :class:`Old`.  For newer code
``tests/recipes/test_stage_keys.py`` has a class with the same two methods, and compares.  A network is made for each
value, of the smallest sizes, and nothing is trained.
"""

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.golden import cases, collect, differences

KEPT = Path(__file__).parent / "kept" / "stages.json"

CAPSULES = ("model=capsnet", "model.c1=8", "model.c2=8", "model.decoder=[4]")
DEEP = ("model=deep_capsnet", "model.capsules=2", "model.dim=4", "model.depth=1", "+study.net=null")
CASES: dict[str, tuple[str, ...]] = {
    "accumulate": ("recipe=accumulate", "filter=kmeans", *CAPSULES),
    "accumulate, fixed coupling": ("recipe=accumulate", "routing=fixed", "routing.coupling=coupling.npy", *CAPSULES),
    "retrain": ("recipe=retrain", "filter=kmeans", *CAPSULES),
    "retrain, share": ("recipe=retrain", "recipe.first_share=0.5", *CAPSULES),
    "warm_start": ("recipe=warm_start", *CAPSULES),
    "prune_and_retrain": ("recipe=prune_and_retrain", "pruning=chip", "pruning.ratio=0.5", *DEEP),
    "prune_and_retrain, nothing cut": ("recipe=prune_and_retrain", "pruning=chip", "pruning.ratio=0", *DEEP),
    "prune_and_retrain, ratio of 0 retrained": (
        "recipe=prune_and_retrain",
        "pruning.ratio=0",
        "recipe.retrain_unpruned=true",
        *DEEP,
    ),
    "prune_and_retrain, no ccm": (
        "recipe=prune_and_retrain",
        "recipe.correlation_weight=0",
        "pruning.ratio=0.5",
        *DEEP,
    ),
    "prune_and_retrain, from new weights": (
        "recipe=prune_and_retrain",
        "recipe.inherit=false",
        "pruning.ratio=0.5",
        *DEEP,
    ),
    "prune_and_retrain, cnn": ("recipe=prune_and_retrain", "pruning=cosine_merge", "model.c2=4", "model.c3=4"),
    "max_depth": ("recipe=max_depth", "pruning=chip", *DEEP),
    "max_depth, pruned": ("recipe=max_depth", "pruning=chip", "pruning.ratio=0.5", *DEEP),
    "merge_walk": ("recipe=merge_walk", "pruning=cosine", "model.c2=4", "model.c3=4", "recipe.mode=merge"),
    "merge_walk, reinit": ("recipe=merge_walk", "pruning=cosine", "model.c2=4", "model.c3=4", "recipe.mode=reinit"),
    "autoencode_then_classify": ("recipe=autoencode_then_classify", "model=autoencoder", "model.c1=2", "model.c2=2"),
    "autoencode_then_classify, epochs": (
        "recipe=autoencode_then_classify",
        "recipe.reconstruction_epochs=3",
        "model=shared_autoencoder",
        "model.c1=2",
        "model.c2=2",
    ),
}
"""Commands, by what is said of them."""

OTHERS: dict[str, Any] = {
    "activity": "other",
    "auto": "cpu",
    "capsule": "channel",
    "channel": "capsule",
    "classic": "linear",
    "dynamic": "fast",
    "full": "last",
    "image": "batch_mean",
    "master": "routing",
    "merge": "remove",
    "own": "shared",
    "reinit": "merge",
    "symmetric": "unit",
    "up": "down",
    "val": "test",
    "warn": True,
    "whole": "ground_truth",
    "32-true": "64-true",
}
"""For words that stand for a choice, another one."""


class Old:
    """The stages of dbb0b0f."""

    def config(self, words: Sequence[str]) -> dict[str, Any]:
        """The resolved config of a single cell, in plain types."""
        from hydra import compose, initialize_config_dir  # noqa: I001 - as older code had it

        from capsexp import plan, records
        from capsexp.plan.cells import resolved

        plan.register_resolvers()
        with initialize_config_dir(version_base="1.3", config_dir=str(records.CONF)):
            return resolved(compose("config", list(words), return_hydra_config=True))

    def folders(self, config: dict[str, Any], like: dict[str, Any] | None = None) -> dict[str, str]:
        """The name of the folder of each stage that a cell with this config goes through, by the stage's name.

        Args:
            config: what is part of the key.
            like: another config, whose stages they are; None for the same one.
        """
        from capsexp import build
        from capsexp.recipes import networks as old_networks
        from capsexp.recipes.retrain import SECOND

        data = SimpleNamespace(image_shape=(1, 28, 28), classes=3)
        memo = build.factories(config, Path("cell")).stages
        config = like or config
        factories = build.factories(config, Path("cell"))
        trainer = SimpleNamespace(max_epochs=config["trainer"]["max_epochs"])
        made = {**vars(factories), "make_data": lambda: data, "make_trainer": lambda *_, **__: trainer}
        factories = SimpleNamespace(**made)
        recipe = build._make_recipe(config)
        kind = type(recipe).__name__
        if kind in ("Accumulate", "Retrain"):
            stages = [recipe.first, *([SECOND] if kind == "Retrain" else [])]
        elif kind == "AutoencodeThenClassify":
            stages = [recipe.first(factories)]
        else:
            networks = old_networks.Networks(factories)
            depth = 1 if kind == "MaxDepth" else networks.depth
            if kind == "MergeWalk":
                stages = [old_networks.base_stage(depth)]
                if recipe._mode == "reinit":
                    widths = recipe._path(networks.whole)[1:]
                    stages += [old_networks.scratch_stage(widths[place], depth) for place in (0, -1)]
            else:
                stages = [step.stage for step in recipe.steps(networks, depth)]
        found: dict[str, str] = {}
        for stage in stages:
            name = stage.name if stage.name not in found else f"{stage.name}, the last"
            found[name] = memo.directory(stage).name
        return found


def leaves(config: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key that holds no further keys; a list counts as one value."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*before, str(key)))
        else:
            yield (*before, str(key))


def at(config: Any, place: Sequence[str]) -> Any:
    for key in place:
        config = config[key]
    return config


def changed(config: dict[str, Any], place: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy with another value at one place; ``model.routing`` is what ``routing`` is, as in every composed config."""
    copied = copy.deepcopy(config)
    places = [list(place)]
    copies = [("routing", ("model", "routing")), ("pruning", ("callbacks", "criterion_scores", "criterion"))]
    for group, elsewhere in [*copies, ("pruning", ("recipe", "criterion"))]:
        if place[0] == group and is_there(copied, [*elsewhere, *place[1:]]):
            places.append([*elsewhere, *place[1:]])
    for each in places:
        at(copied, each[:-1])[each[-1]] = copy.deepcopy(value)
    return copied


def is_there(config: Any, place: Sequence[str]) -> bool:
    for key in place:
        if not isinstance(config, dict) or key not in config:
            return False
        config = config[key]
    return True


def other_values(place: Sequence[str], value: Any) -> list[Any]:
    """Plausible other values, the most plausible first."""
    key = place[-1]
    if key in ("path", "coupling"):
        return [{".npz": "other.npz", ".npy": "other.npy"}["." + str(value)[-3:]] if value else "tiny.npz"]
    if value is None:
        return [1, 0.5, True, "other"]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, 2 * value + 4, value - 1]
    if isinstance(value, float):
        return [value / 2 or 0.5, 0.25]
    if isinstance(value, dict):
        return [{"other": 1}]
    if isinstance(value, list):
        return [[*other_list(value)], value[:-1], [*value, 8]]
    return [OTHERS[value]] if value in OTHERS else [f"{value}x", "other"]


def other_list(value: list[Any]) -> list[Any]:
    first = value[:1]
    return [each + 2 if isinstance(each, int) else f"{each}x" for each in first] + value[1:]


def table(code: Any, words: Sequence[str]) -> dict[str, Any]:
    """For one command: which stages it has, and for each the leaves that do not change its folder.

    Where the recipe or the network refuses every other value that is tried (``key alone``), the stages are those of the
    unchanged config, and only their keys are made anew.
    """
    config = code.config(words)
    before = code.folders(config)
    unchanged: dict[str, list[str]] = {name: [] for name in before}
    refused: list[str] = []
    for place in leaves(config):
        dotted = ".".join(place)
        for value in other_values(place, at(config, place)):
            try:
                after = code.folders(changed(config, place, value))
            except Exception:  # whatever refuses this value, the next may do
                continue
            break
        else:
            refused.append(dotted)
            after = code.folders(changed(config, place, other_values(place, at(config, place))[0]), like=config)
        for name, folder in before.items():
            if after.get(name) == folder:
                unchanged[name].append(dotted)
    return {
        "command": list(words),
        "folders": before,
        "leaves": len(list(leaves(config))),
        "key alone": sorted(refused),
        "unchanged": {name: sorted(found) for name, found in unchanged.items()},
    }


def tables(code: Any, folder: Path) -> dict[str, Any]:
    """The tables of all commands, made in a folder with the files that they name."""
    with collect.working(folder):
        collect.write_data(folder)
        (folder / "other.npz").write_bytes((folder / "tiny.npz").read_bytes() + b"other")
        (folder / "other.npy").write_bytes((folder / "coupling.npy").read_bytes() + b"other")
        base = ["data=dhcd", "data.path=tiny.npz", "sweep.name=stages", "logger.wandb.mode=disabled", "threads=1"]
        return {name: table(code, [*base, *words]) for name, words in CASES.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the tables; keep them, or say what differs from those that are kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.stage_keys")
    parser.add_argument("--write", action="store_true", help="keep them")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        found = tables(Old(), Path(folder))
    if given.write:
        KEPT.write_text(differences.dumps(found) + "\n")
        return 0
    unlike = list(differences.unlike(json.loads(KEPT.read_text()), found))
    for difference in unlike:
        sys.stdout.write(f"{difference}\n")
    return 1 if unlike else 0


if __name__ == "__main__":
    assert cases.ROOT.is_dir()
    sys.exit(main())
