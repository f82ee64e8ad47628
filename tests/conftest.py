"""What many tests use: a tiny data set, and the command run in a folder of its own."""

import copy
import gc
import io
import itertools
import json
import pickle
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from capsexp import cli, records


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_and_hangups_are_heard() -> None:
    """A shell lets its background jobs ignore SIGINT, and ``nohup`` SIGHUP: every process of a test would, too."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session", autouse=True)
def _yaml_is_parsed_once() -> Iterator[None]:
    """Hydra reads the files of conf/ for every command; the same text makes the same config, so it is parsed once."""
    parsed: dict[str, Any] = {}
    load = OmegaConf.load

    def parse(file: Any) -> Any:
        if not hasattr(file, "read"):
            return load(file)
        text = file.read()
        if text not in parsed:
            parsed[text] = load(io.StringIO(text))
        return copy.deepcopy(parsed[text])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", staticmethod(parse))
        yield


@pytest.fixture(scope="session", autouse=True)
def _files_are_merged_once() -> Iterator[None]:
    """Before it looks at a command's values, Hydra finds and merges the files of its groups; the same give the same."""
    kept: dict[str, bytes] = {}
    find, merge = defaults_list._create_defaults_list, ConfigLoaderImpl._compose_config_from_defaults_list

    def once(key: str, work: Callable[[], Any]) -> Any:
        if key not in kept:
            kept[key] = pickle.dumps(work())
        return pickle.loads(kept[key])

    def found(repo: Any, config_name: str | None, overrides: Any, prepend_hydra: bool, skip_missing: bool) -> Any:
        def work() -> Any:
            files = find(repo, config_name, overrides, prepend_hydra, skip_missing)
            return files, {name: value for name, value in vars(overrides).items() if name != "config_overrides"}

        asked = [overrides.override_choices, overrides.append_group_defaults, overrides.deletions]
        files, noted = once(repr([repo.get_sources(), config_name, asked, prepend_hydra, skip_missing]), work)
        vars(overrides).update(noted)
        return files

    def merged(self: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> Any:
        return once(repr([repo.get_sources(), defaults]), lambda: merge(self, defaults, repo))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defaults_list, "_create_defaults_list", found)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merged)
        yield


@pytest.fixture(scope="session", autouse=True)
def _hydras_store_is_not_copied() -> Iterator[None]:
    """Hydra copies its store of structured configs, which nothing here changes, for each composition."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigStore, "__deepcopy__", lambda self, memo: self, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _a_command_is_composed_once() -> Iterator[None]:
    """Hydra composes a command's config once more before, only to read ``hydra.mode``, which no file of conf/ sets."""
    read = Hydra.get_mode

    def mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        return read(self, config_name, overrides) if "hydra.mode" in " ".join(overrides) else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hydra, "get_mode", mode)
        yield


def pytest_collection_finish() -> None:
    """What is there now, the modules above all, stays: later collections of garbage need not look at it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the tests by file, as ``tests/scheduling.py`` says."""
    from tests.scheduling import ByFile  # pytest-xdist may not be there

    return ByFile(config, log)


@pytest.fixture
def tiny_npz(tmp_path: Path) -> Path:
    return write_tiny_npz(tmp_path)


def write_tiny_npz(folder: Path) -> Path:
    """A learnable data set: 4 classes of 32x32 gray images, each a bright quarter in noise."""
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", 80), ("test", 24)):
        labels = np.arange(count) % 4
        images = random.integers(0, 90, (count, 32, 32))
        for image, label in zip(images, labels, strict=True):
            image[16 * (label // 2) :, 16 * (label % 2) :][:16, :16] += 120
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels}
    path = folder / "tiny.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own; multirun/ appears below it."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CAPSEXP_DATA", raising=False)
    monkeypatch.setenv("CAPSEXP_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def quick(tiny_npz: Path, in_tmp: Path) -> list[str]:
    return quick_words(tiny_npz)


def quick_words(npz: Path) -> list[str]:
    """Overrides that make a cell last a fraction of a second, run in this process."""
    return [
        "hydra/launcher=basic",
        "sweep.name=adhoc",
        "data=dhcd",
        f"data.path={npz}",
        "data.batch_size=16",
        "trainer.max_epochs=2",
        "model.c2=3",
        "model.c3=3",
        "threads=1",
        "logger.wandb.mode=disabled",
        "callbacks.memory_check=null",  # the check takes longer than these trainings, and has tests of its own
    ]


def ran_in(folder: Path, *more: str) -> Path:
    """The folder in which a command with the words of :func:`quick_words` has run, with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CAPSEXP_CACHE", str(folder / "cache"))
        assert cli.main([*quick_words(write_tiny_npz(folder)), *more]) == 0
    return folder


@pytest.fixture
def run(in_tmp: Path) -> Callable[..., int]:
    """The command, in this process: ``run("key=value", ...)`` gives the exit code."""
    return lambda *arguments: cli.main(arguments)


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """The bodies of all results below a folder, by the name of the cell's directory."""
    files = sorted(folder.rglob("result.json"))
    return {path.parent.name: json.loads(path.read_text())["body"] for path in files}


def plan(axes: Mapping[str, list[Any]]) -> list[records.PlannedCell]:
    """Every combination of the axes' values as planned cells."""
    cells = []
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        identifier = records.cell_id({"axes": chosen})
        cells.append(records.PlannedCell(identifier, records.cell_name(chosen, identifier), chosen))
    return cells
