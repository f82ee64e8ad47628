"""The launcher's settings, and the layout that follows from them on this machine."""

import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from capsexp import hardware
from capsexp.errors import require, require_int
from capsexp.stacking.grouping import IMPLS, STACK_CHOICES, Settings, choose

AUTO = "auto"

ENGINES = ("local", "ray")

WORKER_BYTES = 1_000_000_000
"""Assumed main memory of a worker in bytes when ``max_cells`` is ``auto``: torch and a small network."""


@dataclass(frozen=True)
class Options:
    """The launcher's settings (``hydra.launcher.*``).

    The user's value ``auto`` is None here.

    Attributes:
        cpus_per_cell: CPU threads of a cell; None = ``threads`` if that is a number, else the cores divided by the
            number of concurrent cells, at least one.
        gpus: the GPUs, as CUDA_VISIBLE_DEVICES names them; None = all visible GPUs, [] = none.
        cells_per_gpu: concurrent cells per GPU; None = as many as fit by the first cell's peak memory.  A stack counts
            as one cell here, and None means one stack.  The same holds for ``max_cells`` and
            ``max_cells_per_worker``.
        max_cells: concurrent cells on all devices; None = as many as the GPUs, or the cores and the memory, allow.
        cell_timeout: time limit per cell in seconds, or None; the limit of a stack is multiplied by its members.
        retries: number of retries after a cell's process died or memory ran out.
        fail_fast: start no more cells after one has failed.
        max_cells_per_worker: cells after which a worker process is replaced, or None.
        stack: whether similar cells are trained as one stack: never, always or auto.
        members: maximum number of cells per stack; None = no limit.
        form: ``impl`` of :class:`~capsexp.stacking.grouping.Settings`.
        buckets: ``buckets`` of the same; None = the fastest on the device.
        engine: local = processes of this machine, ray = a Ray cluster.
        address: the address of the Ray cluster.
    """

    cpus_per_cell: int | None = None
    gpus: tuple[str, ...] | None = None
    cells_per_gpu: int | None = None
    max_cells: int | None = None
    cell_timeout: float | None = None
    retries: int = 1
    fail_fast: bool = False
    max_cells_per_worker: int | None = None
    stack: str = "never"
    members: int | None = None
    form: str = AUTO
    buckets: int | None = None
    engine: str = "local"
    address: str | None = None

    @property
    def settings(self) -> Settings:
        """The settings of stacks."""
        return Settings(self.form, self.buckets or "auto")


def checked(given: Mapping[str, Any]) -> Options:
    """The given options, each checked.

    Raises:
        ConfigError: one is unknown or breaks its rule; the key is named as the user would override it.
    """
    for key, value in given.items():
        require(key in CHECKS, f"hydra.launcher.{key}", f"be one of {', '.join(CHECKS)}", value)
    options = Options(**{key: CHECKS[key](f"hydra.launcher.{key}", value) for key, value in given.items()})
    fine = options.address is None or options.engine == "ray"
    require(fine, "hydra.launcher.address", "be null unless hydra.launcher.engine is ray", options.address)
    for key in ("members", "form", "buckets"):
        fine = options.stack != "never" or given.get(key, AUTO) == AUTO
        require(fine, f"hydra.launcher.{key}", "be auto unless hydra/launcher is stacked or auto", given.get(key))
    return options


def _number(key: str, value: Any) -> int | None:
    fine = value == AUTO or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)
    require(fine, key, "be auto or a whole number >= 1", value)
    return None if value == AUTO else int(value)


def _gpus(key: str, value: Any) -> tuple[str, ...] | None:
    if value == AUTO:
        return None
    given = str(value).split(",") if isinstance(value, int | str) and not isinstance(value, bool) else value
    names = [str(name).strip() for name in given if isinstance(name, int | str)] if isinstance(given, list) else [""]
    rule = "be auto or a list of different GPUs, such as [0,1]"
    require(all(names) and len(set(names)) == len(names) == len(given), key, rule, value)
    return tuple(names)


def _seconds(key: str, value: Any) -> float | None:
    fine = value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf)
    require(fine, key, "be a number of seconds > 0, or null", value)
    return None if value is None else float(value)


def _flag(key: str, value: Any) -> bool:
    require(isinstance(value, bool), key, "be true or false", value)
    return bool(value)


def _one_of(*words: str) -> Callable[[str, Any], str]:
    def check(key: str, value: Any) -> str:
        require(value in words, key, f"be one of {', '.join(words)}", value)
        return str(value)

    return check


def _address(key: str, value: Any) -> str | None:
    require(value is None or (isinstance(value, str) and value.strip() != ""), key, "be a text, or null", value)
    return None if value is None else str(value)


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "cpus_per_cell": _number,
    "gpus": _gpus,
    "cells_per_gpu": _number,
    "max_cells": _number,
    "cell_timeout": _seconds,
    "retries": lambda key, value: require_int(key, value, 0),
    "fail_fast": _flag,
    "max_cells_per_worker": lambda key, value: None if value is None else require_int(key, value, 1),
    "stack": _one_of(*STACK_CHOICES),
    "members": _number,
    "form": _one_of(*IMPLS),
    "buckets": _number,
    "engine": _one_of(*ENGINES),
    "address": _address,
}
"""The check of each option, by key."""


@dataclass(frozen=True)
class Layout:
    """The assignment of a sweep to the devices and cores of this machine.

    Attributes:
        devices: values of CUDA_VISIBLE_DEVICES; [None] = cells are not bound to a GPU, [""] = GPUs are hidden.
        threads: CPU threads of a cell, the same for all cells of the sweep.
        per_device: concurrent cells per device; None = one, until the first cell's peak memory is known.
        most: concurrent cells on all devices.
        stacked: similar cells are trained as one stack, which has the slot and the threads of one cell.
        why: the choice of ``auto`` as one line; empty if the user has chosen.
    """

    devices: tuple[str | None, ...]
    threads: int
    per_device: int | None
    most: int
    stacked: bool = False
    why: str = ""


def layout(options: Options, cells: int, configs: Collection[Mapping[str, Any]]) -> Layout:
    """The layout for a plan of ``cells`` cells.

    It depends on the plan and not on the number of finished cells, so that a resumed sweep uses the same number of
    threads, and its results are equal to the last digit.  In a cluster it holds the requirements of a cell; the number
    of concurrent cells depends on the nodes.
    """
    devices = _devices(options, configs)
    choice = choose(options.stack, options.engine, devices, configs)
    threads = _given_threads(options, configs)
    per_device = options.cells_per_gpu or (1 if choice.stacked else None)
    if options.engine != "local":
        return Layout(devices, threads or 1, per_device, options.max_cells or cells, choice.stacked, choice.why)
    cores = hardware.cores()
    if not any(devices):
        threads = threads or max(1, cores // min(cells, options.max_cells or cores))
        most = _most(options, max(1, cores // threads))
        return Layout(devices, threads, most, most, choice.stacked, choice.why)
    at_once = len(devices) * per_device if per_device else max(cores, len(devices))
    threads = threads or max(1, cores // at_once)
    return Layout(devices, threads, per_device, options.max_cells or at_once, choice.stacked, choice.why)


def _devices(options: Options, configs: Collection[Mapping[str, Any]]) -> tuple[str | None, ...]:
    if options.gpus is not None:
        return options.gpus or ("",)
    wanted = {(config.get("trainer") or {}).get("accelerator", AUTO) for config in configs}
    if wanted <= {"cpu"}:
        return ("",)
    return tuple(hardware.gpus() if options.engine == "local" else ()) or (None,)


def check_gpus(options: Options, configs: Collection[Mapping[str, Any]]) -> None:
    """Refuse GPUs that do not exist, unless all cells run on the CPU; the GPUs of a cluster are not checked.

    Raises:
        ConfigError: for ``hydra.launcher.gpus``.
    """
    on_cpu = all((config.get("trainer") or {}).get("accelerator") == "cpu" for config in configs)
    if not options.gpus or options.engine != "local" or on_cpu:
        return
    visible = hardware.gpus()
    missing = [name for name in options.gpus if name not in visible and not name.startswith(("GPU-", "MIG-"))]
    rule = f"be among the visible GPUs ({', '.join(visible) or 'there is none'}), or trainer.accelerator be cpu"
    require(not missing, "hydra.launcher.gpus", rule, list(options.gpus))


def _given_threads(options: Options, configs: Collection[Mapping[str, Any]]) -> int | None:
    if options.cpus_per_cell:
        return options.cpus_per_cell
    given = {config.get("threads", AUTO) for config in configs}
    numbers = [threads for threads in given if isinstance(threads, int) and not isinstance(threads, bool)]
    return max(1, *numbers) if numbers else None


def _most(options: Options, devices: int) -> int:
    if options.max_cells:
        return options.max_cells
    memory = hardware.available_memory()
    fitting = math.inf if memory is None else max(1, memory // WORKER_BYTES)
    return int(min(devices, fitting))


learned: dict[str, str] = {}
"""Environment variables that workers of this sweep have reported for those that start later."""


def environment(device: str | None, threads: int) -> dict[str, str]:
    """The environment variables of a worker on ``device``."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    usual = {**dict.fromkeys(names, str(threads)), **hardware.WAITING}
    variables = {name: os.environ.get(name) or value for name, value in usual.items()}
    if device is not None:
        variables |= {"CUDA_VISIBLE_DEVICES": device, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return variables | learned
