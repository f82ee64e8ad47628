"""Every experiment file composes, runs as one cell on a tiny data set, and says what an experiment has to say."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from capsexp import records, resolvers
from capsexp.analysis.measures import STANDARD
from capsexp.analysis.spec import Spec, parse
from tests.conftest import results

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(CONF.glob("experiment/*.yaml"))

SMALL = {
    "capsexp.models.capsnet.CapsNet": ["model.c1=16", "model.c2=16"],
    "capsexp.models.deep_capsnet.DeepCapsNet": ["study.net=C3D4"],
}
"""Overrides that make a large architecture small enough for tests."""

CHECKED = ("capsnet", "cnn_prune", "routing_zoo", "wang_table1")
"""The others do without the check of the memory, which takes longer than these trainings."""

SHORT = {
    "capsule_grid": ["study.net=null", "model.capsules=3", "model.dim=4"],
    "max_depth": ["recipe.limit=1", "callbacks.broken.last=1"],
    "merge_walk": ["recipe.down_to=14", "recipe.steps=2"],
}
"""The same for an experiment."""

one_by_one = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@functools.cache
def composed(file: Path) -> Any:
    """The whole config of an experiment, for reading only: all tests get the same."""
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", [f"+experiment={file.stem}"], return_hydra_config=True)


def spec_of(file: Path) -> Spec:
    return parse(OmegaConf.to_container(composed(file).report, resolve=True))


def metrics_of(spec: Spec) -> set[str]:
    """Everything that the report will look for in a result."""
    shown = [*(spec.columns or STANDARD), *(row.metric for row in spec.compare)]
    drawn = {getattr(figure, "metric", "") for figure in spec.figures or ()} - {""}
    return {*shown, *drawn, *spec.metrics, *spec.timings}


def arrays_of(spec: Spec) -> set[str]:
    """Every array that the report's figures will look for in a cell's arrays."""
    figures = spec.figures or ()
    keys = ("array", "labels", "images", "steps")
    named = {getattr(figure, key, "") for figure in figures for key in keys}
    named |= {name for figure in figures if figure.kind == "series" for name in (figure.x, figure.y)}
    kernels = {f"kernels/{figure.layer}" for figure in figures if figure.kind == "kernels"}
    return (named | kernels | {name for figure in figures for name in getattr(figure, "arrays", {}).values()}) - {""}


def has(body: dict[str, Any], metric: str) -> bool:
    if metric in body["metrics"]:
        return True
    found: Any = body
    for part in metric.split("."):
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return isinstance(found, int | float)


def test_every_experiment_file_is_covered() -> None:
    assert FILES
    assert sorted(path for path in (CONF / "experiment").rglob("*") if path.is_file()) == FILES


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all experiments: those of a paper train their base once."""
    return tmp_path_factory.mktemp("stages")


@one_by_one
def test_runs_as_one_cell(file: Path, run: Callable[..., int], in_tmp: Path, tiny_npz: Path, stages: Path) -> None:
    short = [
        f"paths.stages={stages}",
        "trainer.max_epochs=1",
        "data.batch_size=72",
        "threads=1",
        "logger.wandb.mode=disabled",
        *([] if file.stem in CHECKED else ["callbacks.memory_check=null"]),
    ]
    small = SMALL.get(composed(file).model._target_, [])
    assert (
        run(f"+experiment={file.stem}", "data=dhcd", f"data.path={tiny_npz}", *short, *small, *SHORT.get(file.stem, []))
        == 0
    )
    ((name, body),) = results(in_tmp).items()
    cell = in_tmp / "multirun" / composed(file).sweep.name / name
    status = records.read_status(cell)
    assert status is not None
    assert (status.state, status.cause) == ("done", None)
    assert records.read_result(cell) == body
    assert body["training"]["epochs"] == 1
    assert {"test/acc", "test/loss", "val/acc", "val/loss"} <= set(body["metrics"])
    spec = spec_of(file)
    assert [metric for metric in sorted(metrics_of(spec)) if not has(body, metric)] == []
    with np.load(cell / records.ARRAYS) as arrays:
        assert [name for name in sorted(arrays_of(spec)) if name not in arrays] == []
    header = (cell / records.METRICS).read_text().splitlines()[0].split(",")
    assert [
        metric for figure in spec.figures or () for metric in getattr(figure, "metrics", ()) if metric not in header
    ] == []


@one_by_one
def test_has_its_own_sweep_folder(file: Path) -> None:
    assert composed(file).sweep.name == file.stem


@one_by_one
def test_whether_it_is_a_sweep_is_left_to_the_command(file: Path) -> None:
    """``conftest`` relies on it too."""
    assert composed(file).hydra.mode is None


@one_by_one
def test_the_report_block_shows_swept_axes(file: Path) -> None:
    swept = {str(key) for key in composed(file).hydra.sweeper.get("params") or {}} | {"seed"}
    spec = spec_of(file)
    used = {axis for figure in spec.figures or () for axis in figure.shown_axes}
    used |= {axis for row in [*spec.compare, *(spec.figures or ())] for axis in row.where} | set(spec.axes)
    assert used - swept == set()


@one_by_one
@pytest.mark.parametrize("word", ["Claim", "Command", "Epochs"])
def test_the_header_says(file: Path, word: str) -> None:
    header = "".join(line for line in file.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert re.search(rf"^# {word}\s+\S", header, re.MULTILINE)


@one_by_one
def test_the_header_opens_with_package_and_source_and_its_command_is_this_experiments(file: Path) -> None:
    first, second = file.read_text().splitlines()[:2]
    assert first == "# @package _global_"
    assert re.match(r"# .*\((19|20)\d\d\)", second)
    assert f"python -m capsexp +experiment={file.stem} " in file.read_text()
