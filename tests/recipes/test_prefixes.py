"""What a cell's fits are called in its Weights & Biases run: curves of different fits are not mixed."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers.logger import DummyLogger

from capsexp import build

CNN = ["model.c1=3", "model.c2=3", "model.c3=3"]
DEEP = ["model=deep_capsnet", "model.capsules=2", "model.dim=4", "model.dim_class=4"]
CASES: dict[str, tuple[list[str], dict[str, str]]] = {
    "train": (CNN, {"": "val/acc"}),
    "prune_and_retrain": (CNN, {"": "val/acc", "ccm": "val/acc", "pruned": "val/acc"}),
    "prune_and_retrain, deep": (
        [*DEEP, "model.depth=1", "recipe.correlation_weight=0"],
        {"": "val/acc", "pruned": "val/acc", "deep": "val/acc"},
    ),
    "prune_and_retrain, scratch": ([*CNN, "recipe.inherit=false"], {"": "val/acc"}),
    "max_depth": ([*DEEP, "recipe.limit=2", "callbacks.broken.margin=0"], {"base1": "val/acc", "base2": "val/acc"}),
    "merge_walk": ([*CNN, "recipe.steps=1"], {"": "val/acc", "walk": "test_acc"}),
    "merge_walk, reinit": (
        [*CNN, "recipe.mode=reinit"],
        {"": "val/acc", "scratch1": "val/acc", "scratch2": "val/acc", "walk": "test_acc"},
    ),
    "autoencode_then_classify": (["model=autoencoder"], {"autoencode": "val/loss", "": "val/acc"}),
}
"""Overrides, and the prefixes with one of the names that are logged under them."""


@pytest.mark.parametrize("case", CASES)
def test_every_fit_beside_the_first_has_a_prefix(
    case: str, run: Callable[..., int], in_tmp: Path, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: dict[str, set[str]] = {}

    class Listener(DummyLogger):
        def __init__(self, prefix: str = "") -> None:
            super().__init__()
            self._prefix_ = prefix

        def of_stage(self, prefix: str) -> "Listener":
            return Listener(prefix)

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            logged.setdefault(self._prefix_, set()).update(metrics)

    @contextlib.contextmanager
    def wandb_run(_: Any) -> Iterator[Listener]:
        yield Listener()

    monkeypatch.setattr(build.tracking, "wandb_run", wandb_run)
    monkeypatch.setattr(build.tracking, "summarise", lambda *_: None)
    words, wanted = CASES[case]
    fixed = ["hydra/launcher=basic", "data=dhcd", f"data.path={tiny_npz}", "data.batch_size=40", "threads=1"]
    short = ["trainer.max_epochs=1", "callbacks.memory_check=null"]
    last = ["callbacks.broken.last=1"] if case.startswith(("prune", "max")) else []
    assert run(*fixed, *short, *last, f"recipe={case.split(',')[0]}", *words) == 0
    assert logged.keys() == wanted.keys()
    assert all(name in logged[prefix] for prefix, name in wanted.items())
