"""What waits for a GPU, as one command of at most eight minutes.

The steps, the most valuable first.  Each has a time limit, and what it found until then is kept:

    tests     the tests marked ``cuda``: recipes, networks, stacks, metrics, callbacks and criteria against the CPU
    stacks    cells per hour of stacks against one, two, four and eight processes (benchmarks/throughput.py)
    memory    the predicted memory of a training step against the measured (benchmarks/memory_estimate.py)
    chip      CHIP's scores against their definition (benchmarks/chip_scores.py)
    cells     as many cells of +experiment=cnn_prune as the rest of the time lets finish, in stacks

OUT gets ``gpu_check.json`` with the machine, the outcome of each step and its figures, a log of each step, and
``cells.tar.xz`` with the finished cells (python -m capsexp.archive).  benchmarks/gpu_table.py makes tables of the JSON.
If OUT has such an archive already, its cells are not run again, and with --work DIR unfinished cells go on too.
With --only the other steps of OUT's record stay, if it is of the same machine, code and data.

With --data FOLDER (or CAPSEXP_DATA) stacks and cells use its dhcd.npz, otherwise digits.  With --device cpu (or
GPU_CHECK_DEVICE=cpu) the CPU takes the GPU's place, and every step is small.

    benchmarks/gpu_check.sh OUT [--data FOLDER] [--device cpu] [--seconds 470] [--only tests cells] [--work DIR]
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import timed_steps
from timed_steps import Step

from capsexp import hardware, records

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
RECORD, ARCHIVE = "gpu_check.json", "cells.tar.xz"
SECONDS = 470.0
"""Of all steps together: eight minutes, less the start."""

GRACE_S = {"cells": 15.0}
"""Seconds between the interruption of a step and its end, where they are more than the usual ones."""

PACKING_S = 10.0
"""Seconds that are left for the archive of the cells."""

SHARES = {"tests": 0.32, "stacks": 0.31, "memory": 0.07, "chip": 0.11, "cells": 1.0}
"""Share of the whole time that each step may take; the last one gets what is left."""

WIDTHS = ("16,11,6,2", "16,14,13,11,10,8,7,5,4,2")
"""Of the cells in processes, and of those in stacks: 16 and 100 cells with the same mean widths, about 9."""

SIZES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "gpu": {
        "tests": (),
        "stacks": (
            *("--gpu", "--widths", WIDTHS[0], "--stacked-widths", WIDTHS[1], "--epochs", "4", "--start-once"),
            *("--ways", "capsexp-1", "grouped-auto", "capsexp-8", "grouped-1", "capsexp-4", "capsexp-2"),
        ),
        "memory": ("--device", "cuda"),
        "chip": ("--device", "cuda", "--network", "128", "--shapes", "3", "--seconds", "1", "--turns", "2"),
        "cells": ("hydra.launcher.members=45", "hydra.launcher.buckets=1"),  # a stack must end within minutes
    },
    "cpu": {
        "tests": ("-k", "test_a_metric or test_a_criterion or test_batches"),
        "stacks": (
            *("--widths", "2", "--stacked-widths", "3,2", "--epochs", "1", "--start-once"),
            *("--ways", "capsexp", "grouped-auto"),
        ),
        "memory": ("--only", "cnn", "--largest", "256"),
        "chip": (
            "--threads",
            "1",
            "--network",
            "2",
            "--shapes",
            "1",
            "--images",
            "2",
            "--seconds",
            "0",
            "--turns",
            "2",
        ),
        "cells": ("model.c2=3,2", "model.c3=2", "trainer.max_epochs=1", "trainer.accelerator=cpu", "threads=1"),
    },
}
"""Arguments of each step, by device."""


def main() -> None:
    """Run the steps; the exit code is 1 if one failed."""
    given = parse()
    given.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the step that is running is ended too
    with working_folder(given.work) as work:
        kept = check(given, work)
    print("\n".join(f"{step['name']:8} {step['outcome']:12} {step['seconds']:6.1f} s" for step in kept["steps"]))
    sys.exit(any(step["outcome"] == "failed" for step in kept["steps"]))


def parse() -> argparse.Namespace:
    """The arguments of the command, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    environment = os.environ
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for what was found")
    parser.add_argument("--data", type=Path, metavar="FOLDER", default=environment.get("CAPSEXP_DATA"))
    parser.add_argument("--device", default=environment.get("GPU_CHECK_DEVICE", "gpu"), choices=tuple(SIZES))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of all steps together")
    parser.add_argument("--only", nargs="+", choices=tuple(SHARES), default=list(SHARES), metavar="STEP")
    parser.add_argument("--work", type=Path, metavar="DIR", help="the sweep's folder goes below DIR and stays there")
    given = parser.parse_args()
    if given.data is not None:
        given.data = Path(given.data).resolve()
        if not (given.data / "dhcd.npz").is_file():
            parser.error(f"--data must be a folder with dhcd.npz, got {given.data}")
    if given.device == "gpu" and not hardware.gpus():
        parser.error("there is no GPU here (--device cpu puts the CPU in its place)")
    given.out = given.out.resolve()
    return given


@contextlib.contextmanager
def working_folder(work: Path | None) -> Iterator[Path]:
    """A folder for what the steps write and nobody keeps."""
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
        yield work.resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def check(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run the steps one after the other, and write the record anew after each."""
    started, until = datetime.now(UTC), time.perf_counter() + given.seconds
    kept: dict[str, Any] = {"started": started.isoformat(timespec="seconds"), "seconds_at_most": given.seconds}
    kept |= {"command": " ".join(sys.argv), "data": "digits" if given.data is None else "dhcd"}
    kept |= {"machine": machine(given.device), "steps": []}
    steps = steps_before(given, kept)
    for name in (name for name in SHARES if name in given.only):
        try:
            steps[name] = one(name, given, work, until)
        except (OSError, subprocess.SubprocessError, LookupError, ValueError) as error:  # the other steps go on
            steps[name] = {"name": name, "outcome": "failed", "seconds": 0.0, "last_lines": [repr(error)]}
        kept["steps"] = [steps[name] for name in SHARES if name in steps]
        kept["seconds"] = round(given.seconds - (until - time.perf_counter()), 1)
        timed_steps.write(given.out / RECORD, kept)
    return kept


def steps_before(given: argparse.Namespace, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Steps that OUT's record has from an earlier run on the same machine with the same data; they stay."""
    path = given.out / RECORD
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    alike = all(earlier.get(key) == kept[key] for key in ("machine", "data"))
    return {step["name"]: step for step in earlier["steps"]} if alike else {}


def one(name: str, given: argparse.Namespace, work: Path, until: float) -> dict[str, Any]:
    """Run a step, if there is time, and return its record."""
    make, finish = STEPS[name]
    step = make(given, work)
    left_s = until - time.perf_counter() - step.grace_s - PACKING_S * (name == "cells")
    limit_s = min(given.seconds * step.share, left_s)
    if limit_s <= 0:
        return {"name": name, "outcome": "not started", "seconds": 0.0}
    print(f"{name}: at most {limit_s:.0f} s", flush=True)
    ended = timed_steps.run(step, limit_s, given.out / f"{name}.log")
    return finish(timed_steps.record(step, ended, limit_s), ended.output, given, work)


# -- the machine ------------------------------------------------------------------------------------------------------

VERSIONS = "import json, torch; print(json.dumps({'torch': torch.__version__, 'cuda': torch.version.cuda}))"


def machine(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    facts: dict[str, Any] = {"device": device, "cores": hardware.cores(), "processor": processor()}
    facts |= {"python": platform.python_version(), **json.loads(output_of(sys.executable, "-c", VERSIONS) or "{}")}
    if device == "gpu":
        asked = output_of("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
        lines = [line.split(", ") for line in asked.splitlines() if line.count(", ") == 2]
        facts["gpus"] = [dict(zip(("name", "driver", "memory"), words, strict=True)) for words in lines]
    commit = output_of("git", "-C", str(ROOT), "rev-parse", "HEAD")
    return {**facts, "commit": commit or None}


def processor() -> str:
    """The name of the CPU, or of its kind."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.machine()


def output_of(*command: str) -> str:
    """What a short command prints; nothing if it cannot run."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""


# -- steps: each is made, and its record finished ---------------------------------------------------------------------

Kept = dict[str, Any]


def made_of_tests(given: argparse.Namespace, work: Path) -> Step:
    """The tests marked ``cuda``; in three processes where pytest-xdist is there."""
    several = ["-n", "3", "--dist", "loadscope"] if importlib.util.find_spec("xdist") and given.device == "gpu" else []
    words = ["-m", "pytest", "tests/cuda", "-m", "cuda", "-v", "-W", "default", "-p", "no:cacheprovider", *several]
    device = {"CAPSEXP_TEST_DEVICE": "cuda" if given.device == "gpu" else "cpu"}
    command = [sys.executable, *words, f"--basetemp={work / 'pytest'}", *SIZES[given.device]["tests"]]
    return Step("tests", SHARES["tests"], command, environment=device, folder=ROOT)


RESULT = re.compile(
    r"^(?:\[gw\d+\] \[ *\d+%\] (\w+) (tests/\S.*)|(tests/\S.*?) (PASSED|FAILED|SKIPPED|ERROR)\b.*)$", re.M
)
"""A test's line, in one process or in several."""


def with_tests(kept: Kept, output: str, given: argparse.Namespace, work: Path) -> Kept:
    """Which tests passed, as far as they came; none is a failure."""
    found: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": [], "error": []}
    for ours, test, plain_test, plain in RESULT.findall(output):
        found.setdefault((ours or plain).lower(), []).append((test or plain_test).strip())
    wrong = sorted({*found["failed"], *found["error"]})
    figures = {"passed": len(found["passed"]), "skipped": len(found["skipped"]), "failed": wrong}
    failed = bool(wrong) or (kept["outcome"] == "ok" and not found["passed"])
    return {**kept, "figures": figures, "outcome": "failed" if failed else kept["outcome"]}


def benchmark(name: str, script: str) -> Callable[[argparse.Namespace, Path], Step]:
    """A step that is a script of this folder, which writes its figures by itself."""

    def make(given: argparse.Namespace, work: Path) -> Step:
        figures = work / f"{name}.json"
        figures.unlink(missing_ok=True)
        data = given.data / "dhcd.npz" if given.data is not None and given.device == "gpu" else None
        sets = ["--only", "digits"] if data is None else ["--only", "dhcd", "--dhcd", str(data)]
        words = [*SIZES[given.device][name], *(sets if name == "stacks" else [])]
        command = [sys.executable, str(BENCHMARKS / script), *words, "--json", str(figures)]
        return Step(name, SHARES[name], command, figures, folder=work)

    return make


def as_it_is(kept: Kept, output: str, given: argparse.Namespace, work: Path) -> Kept:
    """Nothing more is known."""
    return kept


def made_of_cells(given: argparse.Namespace, work: Path) -> Step:
    """The sweep, after the cells that OUT has already were put back."""
    sweep, archive = work / "multirun" / "cnn_prune", given.out / ARCHIVE
    if archive.is_file():
        command = [sys.executable, "-m", "capsexp.archive", str(sweep), str(archive), "--restore"]
        subprocess.run(command, check=True, timeout=60)
    data = "digits" if given.data is None or given.device == "cpu" else "dhcd"
    words = ["-m", "capsexp", "+experiment=cnn_prune", "-m", f"data={data}", "hydra/launcher=stacked"]
    words += ["logger.wandb.mode=disabled", *SIZES[given.device]["cells"]]
    variables = {} if given.data is None else {"CAPSEXP_DATA": str(given.data)}
    more = {"environment": variables, "folder": work, "grace_s": GRACE_S["cells"]}
    return Step("cells", SHARES["cells"], [sys.executable, *words], **more)


def with_cells(kept: Kept, output: str, given: argparse.Namespace, work: Path) -> Kept:
    """How many cells are finished, and what they took; they are packed."""
    sweep = work / "multirun" / "cnn_prune"
    planned = records.read_sweep(sweep)
    results = [records.read_result(cell) for cell in records.cell_directories(sweep).values()]
    done = [result for result in results if result is not None]
    best = max((result["metrics"]["test/acc"] for result in done), default=None)
    figures = {"planned": 0 if planned is None else len(planned.cells), "done": len(done), "best_test_accuracy": best}
    figures["share_s"] = sum(result["clocks"].get("share_s", result["clocks"]["total_s"]) for result in done)
    figures["largest_stack"] = max(
        (result["environment"].get("stack", {}).get("members", 1) for result in done), default=0
    )
    if done:
        packed = work / ARCHIVE
        command = [sys.executable, "-m", "capsexp.archive", str(sweep), str(packed)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if ended.returncode == 0:
            shutil.move(packed, given.out / ARCHIVE)
        figures["archive"] = ARCHIVE if ended.returncode == 0 else ended.stderr.strip()
    return {**kept, "figures": figures}


STEPS: Mapping[str, tuple[Callable[[argparse.Namespace, Path], Step], Callable[..., Kept]]] = {
    "tests": (made_of_tests, with_tests),
    "stacks": (benchmark("stacks", "throughput.py"), as_it_is),
    "memory": (benchmark("memory", "memory_estimate.py"), as_it_is),
    "chip": (benchmark("chip", "chip_scores.py"), as_it_is),
    "cells": (made_of_cells, with_cells),
}
"""How each step is made of the arguments, and its record finished."""


if __name__ == "__main__":
    main()
