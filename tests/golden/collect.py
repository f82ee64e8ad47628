"""Gathers what is kept, from whatever checkout of capsexp can be imported: ``python -m tests.golden.collect``.

It knows the command line and the files on disk, and nothing of how the package is built, so that it runs with older and
newer code alike.  What is known of the inside stands in :mod:`tests.golden.inside`.
"""

import argparse
import contextlib
import copy
import hashlib
import html
import io
import json
import logging
import os
import re
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml
from hydra.core.plugins import Plugins

from tests.golden import cases, differences, drawn, inside, names

LENGTH = 16
"""Digits of the digests that are kept."""


def sha(content: bytes | str) -> str:
    """The start of a SHA-256."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:LENGTH]


def canonical(value: Any) -> str:
    """JSON that is the same for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


# -- the folder in which commands are given ----------------------------------------------------------------------------


@contextlib.contextmanager
def working(folder: Path) -> Iterator[None]:
    """Give commands in ``folder``, which gets the data that they name."""
    folder.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    set_, gone = {"CAPSEXP_CACHE": str(folder / "cache"), "COLUMNS": "120"}, ("CAPSEXP_DATA", "HYDRA_FULL_ERROR")
    with mock.patch.dict(os.environ, set_):
        for name in gone:
            os.environ.pop(name, None)
        os.chdir(folder)
        try:
            write_data(folder)
            yield
        finally:
            os.chdir(before)


def write_data(folder: Path) -> None:
    """Four classes of 32x32 gray images, each a bright quarter in noise; and a matrix of couplings."""
    path = folder / "tiny.npz"
    if path.exists():
        return
    number = 12345
    noise = np.empty(104 * 32 * 32, np.int64)
    for place in range(noise.size):  # a generator of our own: the same for every version of numpy
        number = (1103515245 * number + 12345) % 2**31
        noise[place] = (number >> 8) % 90
    images = noise.reshape(104, 32, 32)
    labels = np.arange(104) % 4
    for image, label in zip(images, labels, strict=True):
        image[16 * (label // 2) :, 16 * (label % 2) :][:16, :16] += 120
    images = images.astype(np.uint8)
    np.savez(path, x_train=images[:80], y_train=labels[:80], x_test=images[80:], y_test=labels[80:])
    np.save(folder / "coupling.npy", np.full((10, 1152), 0.125))


def plain_text(text: str, folder: Path) -> str:
    """A text without what depends on the machine: folders, and where the checkout lies."""
    text = text.replace(str(folder), "FOLDER")
    return re.sub(r"(/[\w.+-]+)+/(conf|src|site-packages)/", r"\2/", text)


def plain(value: Any, folder: Path) -> Any:
    """The same for everything within a value."""
    if isinstance(value, dict):
        return {key: plain(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item, folder) for item in value]
    return inside.FIRST_TARGETS.get(value, plain_text(value, folder)) if isinstance(value, str) else value


# -- commands ----------------------------------------------------------------------------------------------------------


def command(arguments: Sequence[str], module: str = "capsexp") -> tuple[int, str, str]:
    """Give a command in this process: exit code, output, errors."""
    out, err = io.StringIO(), io.StringIO()
    handlers, level = logging.root.handlers[:], logging.root.level
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        try:
            if module == "capsexp":
                from capsexp import cli

                code = cli.main(list(arguments))
            else:
                code = run_module(module, arguments)
        finally:
            logging.root.handlers[:] = handlers
            logging.root.setLevel(level)
    return code, out.getvalue(), err.getvalue()


def run_module(module: str, arguments: Sequence[str]) -> int:
    """``python -m module arguments`` in this process."""
    with mock.patch.object(sys, "argv", [module, *arguments]):
        try:
            name = f"{module}.__main__" if is_package(module) else module
            sys.modules.pop(name, None)  # another test may have imported it, of which runpy would warn
            runpy.run_module(name, run_name="__main__")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def is_package(module: str) -> bool:
    import importlib.util

    spec = importlib.util.find_spec(module)
    assert spec is not None, module
    return spec.submodule_search_locations is not None


# -- plans -------------------------------------------------------------------------------------------------------------


class Idle:
    """A launcher that launches nothing."""

    def launch(self, *_: Any, **__: Any) -> list[Any]:
        return []


def planned(arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """The plan of a sweep as it is on disk when the first cell would start; none of them does."""
    with mock.patch.object(Plugins, "instantiate_launcher", return_value=Idle()):
        code, out, err = command([*arguments, "hydra/launcher=basic", "logger.wandb.mode=disabled", "-m"])
    (path,) = folder.glob("multirun/*/sweep.json")
    assert code == 1, (arguments, out, err)  # as nothing has run
    sweep = json.loads(path.read_text())
    frozen = json.loads((path.parent / "configs.json").read_text())
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    configs = {key: plain(cell["config"], folder) for key, cell in frozen["cells"].items()}
    axes = list(sweep["axes"])
    cells = [
        [cell["id"], cell["name"], [cell["axes"][axis] for axis in axes], sha(canonical(configs[cell["id"]]))]
        for cell in sweep["cells"]
    ]
    assert all(list(cell["axes"]) == axes for cell in sweep["cells"])
    assert len(frozen["cells"]) == len({cell[0] for cell in cells})
    return {
        "name": sweep["name"],
        "folder": path.parent.name,
        "axes": sweep["axes"],
        "cells": cells,
        "report": sha(canonical(sweep["report"])),
        "keys": [sorted(sweep), sorted(frozen), sorted(next(iter(frozen["cells"].values())))],
        "config": configs[cells[-1][0]],
    }


def plans(folder: Path, some: Sequence[str] = ()) -> dict[str, Any]:
    """Every plan by its name."""
    with working(folder):
        asked = {name: words for name, words in cases.plans().items() if not some or name in some}
        return {name: planned(words, folder) for name, words in asked.items()}


def singles(folder: Path) -> dict[str, Any]:
    """The ids of single cells: of each option of each group."""
    found = {}
    with working(folder):
        for name, words in cases.singles().items():
            plan = planned(words, folder)
            ids = [cell[0] for cell in plan["cells"]]
            found[name] = {"axes": plan["axes"], "ids": ids, "cells": sha(canonical(plan["cells"]))}
    return found


# -- sweeps ------------------------------------------------------------------------------------------------------------


def array(values: Any) -> dict[str, Any]:
    """An array as its digest, and as a few numbers that can be read."""
    values = np.ascontiguousarray(values)
    kept: dict[str, Any] = {"dtype": str(values.dtype), "shape": list(values.shape), "sha": sha(values.tobytes())}
    if values.size and values.dtype.kind in "fiub":
        wide = values.astype(np.float64)
        kept["numbers"] = [float(f(wide)) for f in (np.min, np.max, np.mean)]
    return kept


def text_of_numbers(value: Any) -> Any:
    """Numbers that are not finite as text, since JSON has none."""
    if isinstance(value, dict):
        return {str(key): text_of_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [text_of_numbers(item) for item in value]
    return repr(value) if isinstance(value, float) and not np.isfinite(value) else value


def body_of(body: dict[str, Any]) -> dict[str, Any]:
    """The body of a result without what differs from run to run; of clocks and environment only the keys stay."""
    kept = copy.deepcopy(body)
    for key in ("clocks", "environment"):
        if key in kept:
            kept[key] = sorted(kept[key])
    return kept


def files_of(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def fit_of(directory: Path, folder: Path, result: str) -> dict[str, Any]:
    """What a cell's or a stage's folder holds."""
    found: dict[str, Any] = {"files": files_of(directory)}
    if (directory / result).is_file():
        raw = json.loads((directory / result).read_text())
        found["result"] = body_of(raw["body"])
        checksums = {"config", "files", "of"}  # which later versions have beside the three keys
        found["schema"] = [raw["schema"], sorted(raw.keys() - checksums)]
        if "clocks" in raw["body"].get("facts", {}):
            raise AssertionError("clocks are somewhere else")
    for path in sorted(directory.glob("*.csv")):
        found[path.name] = path.read_text().splitlines()
    if (directory / "arrays.npz").is_file():
        with np.load(directory / "arrays.npz") as arrays:
            found["arrays"] = {name: array(arrays[name]) for name in arrays.files}
    if (directory / "checkpoints" / "best.ckpt").is_file():
        import torch

        saved = torch.load(directory / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)
        weights = saved.pop("state_dict")
        found["weights"] = {name: array(value.numpy()) for name, value in weights.items()}
        found["checkpoint"] = [sorted(saved), text_of_numbers(saved["hyper_parameters"])]
    if (directory / "config.yaml").is_file():
        config = plain(yaml.safe_load((directory / "config.yaml").read_text()), folder)
        found["config"] = sha(canonical(config))
    return found


def cells_of(directory: Path, folder: Path) -> dict[str, Any]:
    """Every cell of a sweep's folder, by the name of its directory."""
    found = {}
    for path in sorted(directory.glob("*/status.json")):
        status = json.loads(path.read_text())
        cell = fit_of(path.parent, folder, "result.json")
        cell["status"] = {key: plain(status.get(key), folder) for key in ("state", "id", "cause", "kind", "retried")}
        cell["status keys"] = sorted(status)
        found[path.parent.name] = cell
    return found


def stages_of(folder: Path) -> dict[str, Any]:
    """Every stage below ``multirun/.stages``, by its folder's name."""
    return {
        path.name: fit_of(path, folder, "stage.json") for path in sorted((folder / "multirun" / ".stages").glob("*"))
    }


def swept(name: str, folder: Path, *more: str) -> dict[str, Any]:
    """Run a sweep in ``folder``; give its cells and stages."""
    with working(folder):
        code, out, err = command([*cases.sweep(name), *more])
        return {
            "exit": code,
            "out": telling(out, folder),
            "err": plain_text(err, folder).splitlines(),
            "files": sorted(path.name for path in (folder / "multirun" / name).iterdir() if path.is_file()),
            "cells": cells_of(folder / "multirun" / name, folder),
            "stages": stages_of(folder),
        }


def telling(out: str, folder: Path) -> list[str]:
    """What a command says, without times, in lines."""
    lines = [re.sub(r"\b\d+(\.\d+)? [kMGT]?B\b", "SIZE", line) for line in plain_text(out, folder).splitlines()]
    return [re.sub(r"\b\d+(\.\d+)?\s?(ms|s|min|h)\b|\d\d:\d\d:\d\d|\d+\.\d+ seconds?", "TIME", line) for line in lines]


# -- reports -----------------------------------------------------------------------------------------------------------

TIMED = "timings"
"""The table whose numbers differ from run to run."""


def reported(name: str, folder: Path, *more: str) -> dict[str, Any]:
    """Write the report of a sweep that was run in ``folder``, and give everything in it."""
    with working(folder), drawn.watching() as pictures:
        code, out, err = command([f"multirun/{name}", *more], "capsexp.report")
    report = folder / "multirun" / name / "report"
    texts = {}
    for path in sorted(report.glob("*")):
        if path.suffix in (".csv", ".md", ".tex"):
            text = plain_text(path.read_text(), folder)
            texts[path.name] = (re.sub(r"\d+(\.\d+)?", "0", text) if path.stem == TIMED else text).split("\n")
    seen = without_versions(seen_on(plain_text((report / "index.html").read_text(), folder)))
    return {
        "exit": code,
        "out": telling(out, folder),
        "err": plain_text(err, folder).splitlines(),
        "files": files_of(report),
        "texts": texts,
        "page": seen,
        "numbers": numbers_in("\n".join(seen)),
        "figures": pictures,
    }


def seen_on(page: str) -> list[str]:
    """The words of a page, a line for each element that holds some."""
    body = re.sub(r"<(style|script)\b.*?</\1>", "\n", page, flags=re.DOTALL)
    body = re.sub(r"data:[\w/+;-]+,[\w+/=%-]*", "", body)
    lines = [" ".join(html.unescape(line).split()) for line in re.split(r"<[^>]*>", body)]
    return [line for line in lines if line]


def without_versions(lines: list[str]) -> list[str]:
    """The versions of what is not ours are no concern of the page's golden text."""
    others = ("lightning", "python", "torch")
    return [
        re.sub(r"[\w.+]+", "VERSION", line) if before in others and line[:1].isdigit() else line
        for before, line in zip(["", *lines], lines, strict=False)
    ]


def numbers_in(text: str) -> list[str]:
    """All numbers of a text, in order."""
    return differences.NUMBER.findall(text)


# -- what commands say -------------------------------------------------------------------------------------------------


def said(folder: Path, some: Sequence[str] = ()) -> dict[str, Any]:
    """Exit code and words of commands that are refused, and of some that only tell."""
    found = {}
    with working(folder):
        (folder / "empty").mkdir(exist_ok=True)
        (folder / "words.npz").write_text("hello")
        for name, (module, *words) in {**cases.WRONG, **cases.TOLD}.items():
            if some and name not in some:
                continue
            small = [] if has(words, "model") else ["model.c2=3"]
            quiet = [] if has(words, "logger.wandb.mode") else ["logger.wandb.mode=disabled"]
            launched = [] if has(words, "hydra/launcher") else ["hydra/launcher=basic"]
            base = [*cases.TINY, "threads=1", *quiet, *launched, *small]
            with without_login(folder):
                trains = module in ("capsexp", "capsexp.plan")
                code, out, err = command([*base, *words] if trains else words, module)
            found[name] = {"exit": code, "out": telling(out, folder), "err": plain_text(err, folder).splitlines()}
    return found


def has(words: Sequence[str], key: str) -> bool:
    return any(word.lstrip("+").partition("=")[0] == key for word in words)


@contextlib.contextmanager
def without_login(folder: Path) -> Iterator[None]:
    """Whoever runs this is not known to Weights & Biases."""
    with mock.patch.dict(os.environ, {"HOME": str(folder), "NETRC": str(folder / "netrc")}):
        os.environ.pop("WANDB_API_KEY", None)
        yield


# -- stacked, interrupted, and written by older code -------------------------------------------------------------------


def stacked(folder: Path) -> dict[str, Any]:
    """The cells of a sweep that worker processes train as a stack."""
    with working(folder):
        code, _, err = command([*cases.STACKED, *cases.AS_STACK, "-m"])
        return {
            "exit": code,
            "err": plain_text(err, folder).splitlines(),
            "cells": cells_of(folder / "multirun" / "stacked", folder),
            "stages": stages_of(folder),
        }


def interrupted(folder: Path) -> dict[str, Any]:
    """Cells that are broken off once behind every checkpoint to resume from, and the same ones without interruption."""
    found: dict[str, Any] = {}
    for name in cases.INTERRUPTED:
        whole, broken = folder / "whole" / name, folder / "broken" / name
        with working(whole):
            code, _, err = command(cases.interrupted(name))
            assert code == 0, err
        exits = []
        with working(broken):
            while not exits or exits[-1] == 130:
                assert len(exits) < 40
                with breaking_off():
                    exits.append(command(cases.interrupted(name))[0])
        sides = []
        for side in (whole, broken):
            cells, stages = cells_of(side / "multirun" / name, side), stages_of(side)
            sides.append({"cells": cells, "stages": stages})
        found[name] = {"exits": exits, **sides[0], "differences": [str(each) for each in differences.unlike(*sides)]}
    return found


@contextlib.contextmanager
def breaking_off() -> Iterator[None]:
    """Ctrl-C, just after the first checkpoint to resume from is written."""
    import lightning

    save, written = lightning.Trainer.save_checkpoint, []

    def save_checkpoint(self: Any, path: Any, *arguments: Any, **options: Any) -> None:
        save(self, path, *arguments, **options)
        if "resume" in Path(path).name:
            written.append(path)

    def after_epoch(self: Any, *arguments: Any, **options: Any) -> None:
        if written:
            raise KeyboardInterrupt

    with (
        mock.patch.object(lightning.Trainer, "save_checkpoint", save_checkpoint),
        mock.patch.object(lightning.LightningModule, "on_train_epoch_start", after_epoch),
    ):
        yield


def older(folder: Path) -> dict[str, Any]:
    """What the commands make of directories that commit dbb0b0f has written."""
    import shutil

    from tests.golden import make_run_dir

    found: dict[str, Any] = {}
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(make_run_dir.RUN_DIR, folder / "multirun", dirs_exist_ok=True)
    for name, words in make_run_dir.SWEEPS.items():
        with working(folder):
            code, out, _ = command([f"multirun/{name}", "--json"], "capsexp.status")
            facts = {key: value for key, value in json.loads(out).items() if not isinstance(value, float)}
            facts["slowest"] = sorted(each["name"] for each in facts["slowest"])
            cells = cells_of(folder / "multirun" / name, folder)
            again = command([*words, *cases.ALWAYS, "-m"])
            found[name] = {
                "status": [code, facts],
                "cells": cells,
                "again": [again[0], telling(again[1], folder), plain_text(again[2], folder).splitlines()],
                "trained again": (folder / "multirun" / ".stages").exists(),
            }
        found[name]["report"] = reported(name, folder)
    found["scores"] = {
        path.relative_to(make_run_dir.RUN_DIR).as_posix(): make_run_dir.scores_of(path) for path in make_run_dir.cells()
    }
    return found


# -- everything --------------------------------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    """What decides the last bits of a number: kind of CPU and versions."""
    import matplotlib
    import torch

    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    facts = dict(re.findall(r"(?m)^(model name|cpu family|model|stepping)\s*:\s*(.*)$", text.split("\n\n")[0]))
    return {
        "cpu": " ".join(facts.get(key, "?") for key in ("model name", "cpu family", "model", "stepping")),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "matplotlib": matplotlib.__version__,
        "python": ".".join(map(str, sys.version_info[:2])),
    }


def parts() -> dict[str, Callable[[Path], Any]]:
    """What can be gathered, by name."""
    found: dict[str, Callable[[Path], Any]] = {
        "plans": plans,
        "ids": singles,
        "said": said,
        "stacked": stacked,
        "interrupted": interrupted,
        "older": older,
    }
    for name in cases.SWEEPS:
        found[f"sweeps:{name}"] = lambda folder, name=name: swept(name, folder)
        found[f"reports:{name}"] = lambda folder, name=name: reported(name, folder)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Gather the parts that are asked for, each into a file of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.collect")
    parser.add_argument("out", type=Path, help="folder for the files")
    parser.add_argument("parts", nargs="+")
    given = parser.parse_args(arguments)
    out = given.out.resolve()
    known = parts()
    for part in given.parts:
        kind, _, name = part.partition(":")
        folder = out / "work" / (name or kind)
        value = known[part](folder)
        (out / names.file_of(part)).write_text(differences.dumps(text_of_numbers(value)) + "\n")
    (out / "machine.json").write_text(differences.dumps(machine()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
