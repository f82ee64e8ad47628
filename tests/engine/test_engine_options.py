"""What the launcher is told, and what follows from it on a machine."""

from typing import Any

import pytest

from capsexp import hardware
from capsexp.engine.options import AUTO, CHECKS, WORKER_BYTES, Layout, Options, check_gpus, checked, environment, layout
from capsexp.errors import ConfigError
from capsexp.stacking.grouping import FEWEST, Settings

CPU: list[dict[str, Any]] = [{"threads": "auto", "trainer": {"accelerator": "cpu"}}]
ANY: list[dict[str, Any]] = [{"threads": "auto", "trainer": {"accelerator": "auto"}}]


@pytest.fixture(autouse=True)
def _a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 cores, plenty of memory, two GPUs."""
    has(monkeypatch)


def has(
    monkeypatch: pytest.MonkeyPatch, cores: int = 8, memory: int | None = 10**12, gpus: tuple[str, ...] = ("0", "1")
) -> None:
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    monkeypatch.setattr(hardware, "available_memory", lambda: memory)
    monkeypatch.setattr(hardware, "gpus", lambda: list(gpus))


POSITIVE = "be a whole number >= 1"
AUTO_OR_POSITIVE = "be auto or a whole number >= 1"
GPUS = "be auto or a list of different GPUs, such as [0,1]"


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        *[
            (key, value, AUTO_OR_POSITIVE)
            for key in ("cpus_per_cell", "cells_per_gpu", "members", "buckets")
            for value in (0, 1.5, "x", None)
        ],
        *[("max_cells", value, AUTO_OR_POSITIVE) for value in (0, -1, True, "two", [1])],
        *[("gpus", value, GPUS) for value in ([0, 0], [0, "0"], [None], [1.5], "", [""], True, 0.5, None)],
        *[
            ("cell_timeout", value, "be a number of seconds > 0, or null")
            for value in (0, -1, "auto", True, float("inf"))
        ],
        *[("retries", value, "be a whole number >= 0") for value in (-1, 1.0, None, True)],
        *[("fail_fast", value, "be true or false") for value in (1, "true", None)],
        *[("max_cells_per_worker", value, POSITIVE) for value in (0, "auto", 2.5)],
        *[("stack", value, "be one of never, always, auto") for value in (True, "yes", None)],
        *[("form", value, "be one of auto, grouped, vmap, unfold, loop") for value in ("dense", None)],
        *[("engine", value, "be one of local, ray") for value in ("slurm", None)],
        *[("address", value, "be a text, or null") for value in (1, " ", True)],
        ("max_cell", 3, f"be one of {', '.join(CHECKS)}"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: object, rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked({key: value})
    assert (caught.value.key, caught.value.rule, caught.value.value) == (f"hydra.launcher.{key}", rule, value)


def test_right_values() -> None:
    assert checked({}) == Options()
    auto = {key: AUTO for key in ("cpus_per_cell", "gpus", "cells_per_gpu", "max_cells")}
    never = {"cell_timeout": None, "max_cells_per_worker": None}
    assert checked({**auto, **never, "retries": 1, "fail_fast": False}) == Options()
    given = {"cpus_per_cell": 2, "gpus": [0, "GPU-5"], "cells_per_gpu": 3, "max_cells": 4, "cell_timeout": 0.5}
    given |= {"retries": 0, "fail_fast": True, "max_cells_per_worker": 9}
    assert checked(given) == Options(2, ("0", "GPU-5"), 3, 4, 0.5, 0, True, 9)
    stacks = {"stack": "auto", "members": 3, "form": "vmap", "buckets": 2, "engine": "ray", "address": "auto"}
    assert checked(stacks) == Options(stack="auto", members=3, form="vmap", buckets=2, engine="ray", address="auto")
    assert checked(stacks).settings == Settings("vmap", 2)
    for key, value in (("members", 3), ("form", "vmap"), ("buckets", 2)):
        with pytest.raises(ConfigError, match=rf"hydra\.launcher\.{key} must be auto unless hydra/launcher is stacked"):
            checked({key: value})
    assert checked({"members": AUTO, "buckets": AUTO, "form": AUTO, "engine": "local", "address": None}) == Options()
    assert Options().settings == Settings("auto", "auto")
    assert checked({"gpus": []}).gpus == ()
    assert checked({"gpus": 3}).gpus == ("3",)
    assert checked({"gpus": "MIG-1"}).gpus == ("MIG-1",)


def test_an_address_is_a_clusters() -> None:
    with pytest.raises(
        ConfigError, match=r"hydra\.launcher\.address must be null unless hydra\.launcher\.engine is ray"
    ):
        checked({"address": "auto"})


@pytest.mark.parametrize(
    ("cells", "threads", "most"), [(1, 8, 1), (2, 4, 2), (3, 2, 4), (5, 1, 8), (8, 1, 8), (300, 1, 8)]
)
def test_cores_are_shared_by_the_cells_of_the_plan(cells: int, threads: int, most: int) -> None:
    assert layout(Options(), cells, CPU) == Layout(("",), threads, most, most)


def test_given_threads_decide_how_many_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert layout(Options(cpus_per_cell=3), 300, CPU) == Layout(("",), 3, 2, 2)
    in_configs = [{**CPU[0], "threads": number} for number in (3, AUTO, 2)]
    assert layout(Options(), 300, in_configs) == Layout(("",), 3, 2, 2)
    assert layout(Options(cpus_per_cell=1), 300, in_configs).threads == 1, "the launcher's word is the last"
    assert layout(Options(cpus_per_cell=20), 300, CPU) == Layout(("",), 20, 1, 1)
    has(monkeypatch, cores=1)
    assert layout(Options(), 300, CPU) == Layout(("",), 1, 1, 1)


def test_memory_limits_what_runs_together(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, memory=3 * WORKER_BYTES + 1)
    assert layout(Options(), 300, CPU) == Layout(("",), 1, 3, 3)
    assert layout(Options(max_cells=6), 300, CPU) == Layout(("",), 1, 6, 6)
    has(monkeypatch, memory=1)
    assert layout(Options(), 300, CPU).most == 1
    has(monkeypatch, memory=None)
    assert layout(Options(), 300, CPU).most == 8


@pytest.mark.parametrize("memory", [1, 3 * WORKER_BYTES, None])
def test_threads_do_not_depend_on_what_is_free_just_now(monkeypatch: pytest.MonkeyPatch, memory: int | None) -> None:
    has(monkeypatch, memory=memory)
    assert layout(Options(), 4, CPU).threads == 2


def test_max_cells_is_what_runs_together() -> None:
    assert layout(Options(max_cells=2), 300, CPU) == Layout(("",), 4, 2, 2), "the cores are shared by two cells"
    assert layout(Options(max_cells=5), 300, CPU) == Layout(("",), 1, 5, 5)
    assert layout(Options(max_cells=3, cells_per_gpu=2), 300, ANY) == Layout(("0", "1"), 2, 2, 3)


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert layout(Options(cells_per_gpu=2), 300, ANY) == Layout(("0", "1"), 2, 2, 4)
    assert layout(Options(), 300, ANY) == Layout(("0", "1"), 1, None, 8), "as many as fit, until a cell says how many"
    assert layout(Options(gpus=("1", "GPU-9"), cells_per_gpu=1), 300, ANY) == Layout(("1", "GPU-9"), 4, 1, 2)
    assert layout(Options(gpus=("7",), cells_per_gpu=9), 300, CPU).devices == ("7",), "what is asked for is done"
    has(monkeypatch, cores=1)
    assert layout(Options(), 300, ANY) == Layout(("0", "1"), 1, None, 2)


def test_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert layout(Options(gpus=()), 300, ANY) == Layout(("",), 1, 8, 8), "hidden from the cells"
    assert layout(Options(), 300, CPU).devices == ("",), "not wanted by any cell"
    assert layout(Options(), 300, [*CPU, *ANY]).devices == ("0", "1")
    assert layout(Options(), 300, [{"threads": 1, "trainer": None}]).devices == ("0", "1")
    has(monkeypatch, gpus=())
    assert layout(Options(), 300, ANY) == Layout((None,), 1, 8, 8)


def test_the_environment_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    for name in (*names, "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    threads = {**dict.fromkeys(names, "3"), "OMP_WAIT_POLICY": "passive"}
    assert environment(None, 3) == threads
    assert environment("", 3) == {**threads, "CUDA_VISIBLE_DEVICES": "", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    bound = {"CUDA_VISIBLE_DEVICES": "GPU-5", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert environment("GPU-5", 3) == {**threads, "OMP_NUM_THREADS": "7", **bound}


def test_gpus_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for fine in (None, (), ("0",), ("1", "0"), ("GPU-5",), ("MIG-7",)):
        check_gpus(Options(gpus=fine), ANY)
    check_gpus(Options(gpus=("7",)), CPU)  # no cell will look for it
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.gpus must be among the visible GPUs \(0, 1\)"):
        check_gpus(Options(gpus=("0", "7")), ANY)
    has(monkeypatch, gpus=())
    with pytest.raises(ConfigError, match=r"\(there is none\), or trainer\.accelerator be cpu, got \['0'\]"):
        check_gpus(Options(gpus=("0",)), [*CPU, *ANY])


def test_stacks_have_the_place_of_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    always = Options(stack="always")
    assert layout(always, 300, CPU) == Layout(("",), 1, 8, 8, stacked=True), "as many stacks as cells otherwise"
    assert layout(always, 300, ANY) == Layout(("0", "1"), 4, 1, 2, stacked=True), "one on each GPU"
    assert layout(Options(stack="always", cells_per_gpu=2), 300, ANY) == Layout(("0", "1"), 2, 2, 4, stacked=True)
    assert layout(Options(stack="always", max_cells=1), 300, ANY).most == 1
    chosen = layout(Options(stack="auto"), 300, ANY * FEWEST)
    assert (chosen.stacked, chosen.per_device, chosen.why[:13]) == (True, 1, "auto: stacked")
    chosen = layout(Options(stack="auto"), 300, CPU * FEWEST)
    assert (chosen.stacked, chosen.per_device, chosen.why) == (True, 8, "auto: stacked (8 cells can share a stack)")
    chosen = layout(Options(stack="auto"), 300, ANY)
    assert (chosen.stacked, chosen.per_device, chosen.most) == (False, None, 8), "too few are alike"


def test_in_a_cluster_this_machine_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its cores, nor its memory, nor its GPUs."""
    has(monkeypatch, cores=64, memory=1)
    ray = Options(engine="ray", gpus=None)
    assert layout(ray, 300, ANY) == Layout((None,), 1, None, 300)
    assert layout(ray, 300, CPU) == Layout(("",), 1, None, 300)
    assert layout(Options(engine="ray", max_cells=7, cpus_per_cell=3, cells_per_gpu=2), 300, ANY) == Layout(
        (None,), 3, 2, 7
    )
    assert layout(ray, 300, [{**ANY[0], "threads": 2}]).threads == 2
    assert layout(Options(engine="ray", stack="always"), 300, ANY) == Layout((None,), 1, 1, 300, stacked=True)
    check_gpus(Options(engine="ray", gpus=("7",)), ANY)
