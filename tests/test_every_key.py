"""Every key of six experiments with values that it cannot have: one line and exit code 2, or a fit begins."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from capsexp import records, resolvers

Run = Callable[..., int]

EXPERIMENTS = ("cnn_prune", "caps_prune", "fast_filters", "deep_prune", "merge_walk", "shared_ae_prune")
VALUES = (
    "word",
    "null",
    "-1",
    "0",
    "1e30",
    "100000000000000000000",
    "nan",
    "[1,x]",
    "[]",
    "{}",
    "''",
    "true",
    "'${x}'",
    "gone",
)
GONE = "gone"
"""Stands for a key that is taken away."""

ELSEWHERE = ("hydra", "report", "paths.cache", "sweep.cell")
"""Keys that are not a cell's, or that the plan sets."""


def keys(experiment: str) -> Iterator[str]:
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(records.CONF)):
        config = OmegaConf.to_container(compose("config", [f"+experiment={experiment}"]), resolve=False)
    yield from (key for key in _leaves(config) if not key.startswith(ELSEWHERE) and not key.endswith("_"))


def _leaves(node: Any, before: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}"


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_value_is_taken_or_refused_in_one_line(
    run: Run,
    in_tmp: Path,
    tiny_npz: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    experiment: str,
) -> None:
    def begin(*_: Any, **__: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(L.Trainer, "fit", begin)
    usual = ["data=dhcd", f"data.path={tiny_npz}", "threads=1", "logger.wandb.mode=disabled"]
    usual += ["callbacks.memory_check=null", "sweep.name=adhoc"]
    faults = []
    for key in keys(experiment):
        words = [f"+experiment={experiment}", *(word for word in usual if not word.startswith(f"{key}="))]
        for value in VALUES:
            fault = fault_of(run, capsys, [*words, f"~{key}" if value == GONE else f"{key}={value}"])
            faults += [f"{key}={value}: {fault}"] if fault else []
            records.remove(Path("multirun"))
    assert faults == []


def fault_of(run: Run, capsys: pytest.CaptureFixture[str], words: list[str]) -> str | None:
    """What is wrong with how a command ends; None if a fit begins, or if it is refused in one line."""
    capsys.readouterr()
    try:
        code = run(*words)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    said = capsys.readouterr()
    refused = said.err.startswith("capsexp: error: ") and said.err.count("\n") == 1
    traced = "Traceback" in said.err + said.out
    return None if not traced and (code == 130 or (code == 2 and refused)) else f"{code} {said.err[-300:]}"
