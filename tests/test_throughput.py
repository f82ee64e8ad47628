"""The benchmark of whole sweeps: its part of a data set, its words on the command line, and its arithmetic."""

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from capsexp.engine import options
from capsexp.stacking.grouping import IMPLS

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "throughput.py"


@pytest.fixture(scope="module")
def throughput() -> ModuleType:
    spec = importlib.util.spec_from_file_location("throughput", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("gpu", [False, True])
def test_the_launcher_knows_every_way(throughput: ModuleType, gpu: bool) -> None:
    ways = throughput.ways(gpu=gpu)
    assert next(iter(ways)) == "basic"
    for words in ways.values():
        given = [word.removeprefix("hydra.launcher.").split("=") for word in words if "hydra.launcher." in word]
        stack = {"stack": "always" if "hydra/launcher=stacked" in words else "never"}
        options.checked({key: int(value) if value.isdigit() else value for key, value in given} | stack)
    stacked = {word.split("=")[1] for words in ways.values() for word in words if "form" in word}
    assert stacked == set(IMPLS) - {"auto"}
    buckets = {word.split("=")[1] for words in ways.values() for word in words if "buckets" in word}
    assert buckets == {"1", "2", "4", "auto"}


def test_each_class_has_its_share_and_the_first_images_are_taken(throughput: ModuleType) -> None:
    labels_N = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [400, 200, 100, 99, 1]))
    places = throughput.stratified(labels_N, 80)
    assert places.tolist() == sorted(set(places.tolist()))
    taken = Counter(labels_N[places].tolist())
    assert taken.total() == 80
    assert taken[4] == 1
    assert all(abs(taken[label] - size / 10) <= 1 for label, size in enumerate([400, 200, 100, 99]))
    for label, count in taken.items():
        assert np.array_equal(places[labels_N[places] == label], np.flatnonzero(labels_N == label)[:count])


def test_a_part_keeps_images_with_their_labels(throughput: ModuleType, tmp_path: Path) -> None:
    arrays = {}
    for part, size in (("train", 4_600), ("test", 1_150)):
        labels_N = np.arange(46).repeat(size // 46)
        arrays[f"x_{part}"] = np.tile(labels_N[:, None, None], (1, 2, 2)).astype(np.uint8)
        arrays[f"y_{part}"] = labels_N[:, None]
    np.savez(tmp_path / "whole.npz", **arrays)
    with np.load(throughput.write_part(tmp_path / "whole.npz", tmp_path / "part.npz")) as part:
        assert [len(part[name]) for name in ("x_train", "y_train", "x_test", "y_test")] == [4_000, 4_000, 1_000, 1_000]
        assert np.array_equal(part["x_train"][:, 0, 0], part["y_train"])
        assert set(part["y_train"].tolist()) == set(part["y_test"].tolist()) == set(range(46))


def test_a_command_costs_what_its_processes_cost(throughput: ModuleType, tmp_path: Path) -> None:
    busy = "import time\nwhile time.process_time() < 0.2: pass\n"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}], check=True)"
    assert 0.2 < throughput.cost_of(["-c", child], tmp_path).cpu_s < 3
    assert throughput.cost_of(["-c", "pass"], tmp_path).cpu_s < 0.2
    assert throughput.cost_of(["-c", "b'x' * 10**8"], tmp_path).peak_bytes > 1e8
    with pytest.raises(AssertionError, match="KeyError: 'x'"):
        throughput.cost_of(["-c", "{}['x']"], tmp_path)


def test_rates(throughput: ModuleType) -> None:
    run = throughput.Run(
        cells=16,
        cost=throughput.Cost(100.0, 120.0, 5),
        done=throughput.Cost(2.0, 1.0, 1),
        imports=throughput.Cost(8.0, 7.0, 1),
        workers=2,
        members=8,
        gpu_bytes=0,
    )
    on_cpu = {"clock": 576.0, "CPU time": 2 * 16 * 30.0, "without start": 2 * 16 * 3600 / (120 - 1 - 2 * 7)}
    assert run.rates(gpu=False) == pytest.approx(on_cpu)
    assert run.rates(gpu=True) == pytest.approx({"clock": 576.0, "without start": 640.0})


def test_the_table_has_medians_of_rates_and_of_ratios(throughput: ModuleType) -> None:
    def runs(*seconds: float, members: int = 1) -> list[object]:
        done = throughput.Cost(0.0, 0.0, 0)
        costs = [throughput.Cost(each, each, 10**6) for each in seconds]
        return [throughput.Run(10, cost, done, done, 1, members, 2 * 10**6) for cost in costs]

    ways = {"basic": runs(10, 100, 1000), "grouped-1": runs(1000, 50, 100, members=5)}
    heads, rule, first, second = (line.split(" | ") for line in throughput.table(ways, gpu=False))
    assert [head for head in heads if "cells/h" in head] == [f"cells/h, {name}" for name in runs(1)[0].rates(gpu=False)]
    assert len(heads) == len(first) == len(second) == rule[0].count("---")
    assert first[:3] == ["| basic", "360", "1.00"]
    assert second[:3] == ["| grouped-1", "360", "2.00"]  # of the rounds 0.01, 2 and 10
    assert second[-3:] == ["10.00", "5", "1 |"]
    assert next(throughput.table(ways, gpu=True)).endswith("MB on the GPU |")
    assert list(throughput.table(ways, gpu=True))[-1].endswith("| 1 | 2 |")
