"""Cells per hour of a sweep, for each way of running it, through the command itself.

A spread of the CNN study's grid (c2 and c3 in 16, 11, 6, 2: 16 cells) is trained for a few epochs on digits and, with
``--dhcd``, on a part of DHCD: 4,000 training and 1,000 test images with the same share of each class.  The ways:

    basic        one cell after the other in one process (hydra/launcher=basic)
    capsexp      in worker processes, one per core; with --gpu capsexp-4 is four on each GPU
    grouped-2    in stacks (hydra/launcher=stacked), with that impl of the convolutions and number of width buckets

They alternate, in every second round from the last to the first; a number is the median of the rounds, and a ratio is
to the first way in the same round.  Other processes slow the clock more than the work.  So there is a rate by the
clock, and one by the CPU seconds of the command and all its processes, for as many cores as had a worker (``basic`` has
one).  Both include the start.  ``without start`` is the rate of a long sweep: it subtracts the time of the same command
once all is done and, for each worker, the import of torch and Lightning, both measured in the same round (on a GPU with
its first use, and by the clock, since cores wait there).  It needs enough epochs to exceed the noise.

A stack needs more cells than one process can train in the same time: --stacked-widths gives the stacks a larger grid.
--json keeps every run in a file that is written anew after each.

    python benchmarks/throughput.py [--dhcd dhcd.npz] [--ways basic capsexp grouped-auto] [--epochs 3] [--rounds 3]
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

STACKED, IMPLS, BUCKETS = "hydra/launcher=stacked", ("grouped", "vmap", "loop", "unfold"), ("1", "2", "4", "auto")
Ways = Mapping[str, Sequence[str]]
"""The overrides of each way on the command line."""

PROCESSES = (1, 2, 4, 8)
"""Cells at once per GPU."""

IMAGES = {"train": 4_000, "test": 1_000}
"""Numbers of training and test images of the part of DHCD."""


class Cost(NamedTuple):
    """The cost of a command, with all processes that it started.

    Attributes:
        wall_s: seconds on the clock.
        cpu_s: seconds of CPU time.
        peak_bytes: main memory of its largest process.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int


class Run(NamedTuple):
    """A completed sweep.

    Attributes:
        cells: number of cells.
        cost: cost of the whole command.
        done: cost of the same command when nothing is left to do.
        imports: cost of the imports of a worker before its first cell.
        workers: number of processes that trained.
        members: number of members of the largest stack; 1 = there was none.
        gpu_bytes: peak memory of a process on a GPU; 0 = no GPU was used.
    """

    cells: int
    cost: Cost
    done: Cost
    imports: Cost
    workers: int
    members: int
    gpu_bytes: int

    def rates(self, *, gpu: bool) -> dict[str, float]:
        """Cells per hour, by kind of time."""
        start_s = self.done.wall_s + self.imports.wall_s  # workers start at the same time
        start_cpu_s = self.done.cpu_s + self.workers * self.imports.cpu_s
        if gpu:
            seconds = {"clock": self.cost.wall_s, "without start": self.cost.wall_s - start_s}
        else:
            each_s = [self.cost.cpu_s / self.workers, (self.cost.cpu_s - start_cpu_s) / self.workers]
            seconds = {"clock": self.cost.wall_s, "CPU time": each_s[0], "without start": each_s[1]}
        return {name: 3600 * self.cells / each for name, each in seconds.items()}

    def told(self, *, gpu: bool) -> dict[str, Any]:
        """Its numbers as plain values, with the rates."""
        costs = {name: getattr(self, name)._asdict() for name in ("cost", "done", "imports")}
        return {**self._asdict(), **costs, "cells_per_hour": self.rates(gpu=gpu)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dhcd", type=Path, help="DHCD as an .npz file; without it, digits alone")
    parser.add_argument("--gpu", action="store_true", help="on the GPUs of this machine")
    parser.add_argument("--ways", nargs="+", metavar="WAY", help="which, the one to compare with first; else all")
    parser.add_argument("--widths", default="16,11,6,2", help="of both swept layers")
    parser.add_argument("--stacked-widths", metavar="WIDTHS", help="of them in stacks; else the same")
    parser.add_argument("--epochs", type=int, default=3, help="of each cell")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=("digits", "dhcd"), help="this data set alone")
    parser.add_argument("--start-once", action="store_true", help="measure a worker's imports once a round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the runs to FILE, after each of them")
    given = parser.parse_args()
    known = ways(gpu=given.gpu)
    if not known.keys() >= set(given.ways or known):
        parser.error(f"--ways: choose from {', '.join(known)}")
    if given.only == "dhcd" and given.dhcd is None:
        parser.error("--only dhcd needs --dhcd FILE")
    resolve = {way: known[way] for way in given.ways or known}
    with tempfile.TemporaryDirectory() as folder:
        for name, words in data_sets(given, Path(folder)).items():
            runs = compare(name, resolve, words, given)
            print(f"\n{title(name, given, runs)}\n")
            print("\n".join(table(runs, gpu=given.gpu)), flush=True)


def ways(*, gpu: bool) -> Ways:
    """All available ways."""
    processes = {f"capsexp-{count}": [f"hydra.launcher.cells_per_gpu={count}"] for count in PROCESSES}
    stacks = {
        f"{impl}-{buckets}": [STACKED, f"hydra.launcher.form={impl}", f"hydra.launcher.buckets={buckets}"]
        for impl, buckets in itertools.product(IMPLS, BUCKETS)
    }
    return {"basic": ["hydra/launcher=basic"], **(processes if gpu else {"capsexp": []}), **stacks}


def data_sets(given: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """The overrides of each data set on the command line."""
    sets = {"digits": ["data=digits"]}
    if given.dhcd is not None:
        sets["dhcd"] = ["data=dhcd", f"data.path={write_part(given.dhcd, folder / 'dhcd.npz')}"]
    return {name: words for name, words in sets.items() if given.only in (None, name)}


def widths_of(way: Sequence[str], given: argparse.Namespace) -> str:
    """Of both swept layers, where the cells run in this way."""
    widths: str = given.stacked_widths if STACKED in way and given.stacked_widths else given.widths
    return widths


def grid(widths: str, given: argparse.Namespace) -> list[str]:
    """The common overrides of the cells."""
    words = [f"model.c2={widths}", f"model.c3={widths}", f"trainer.max_epochs={given.epochs}"]
    device = f"trainer.accelerator={'gpu' if given.gpu else 'cpu'}"
    return [*words, "callbacks.peak.patience=100000", "threads=1", device, "logger.wandb.mode=disabled"]


def write_part(whole: Path, path: Path) -> Path:
    """A part of a data set, as a separate file."""
    with np.load(whole, allow_pickle=False) as arrays:
        parts: dict[str, Any] = {}
        for part, count in IMAGES.items():
            labels_N = arrays[f"y_{part}"].reshape(-1)
            places = stratified(labels_N, count)
            parts |= {f"x_{part}": arrays[f"x_{part}"][places], f"y_{part}": labels_N[places]}
    np.savez(path, **parts)
    return path


def stratified(labels_N: NDArray[Any], count: int) -> NDArray[Any]:
    """Indices of ``count`` images, in order: the first ones of each class, by the share of the class."""
    shares_N = np.empty(len(labels_N))
    for label in np.unique(labels_N):
        places = np.flatnonzero(labels_N == label)
        shares_N[places] = np.arange(len(places)) / len(places)
    return np.sort(np.argsort(shares_N, kind="stable")[:count])


def compare(name: str, resolve: Ways, words: Sequence[str], given: argparse.Namespace) -> dict[str, list[Run]]:
    """The run of every way in every round."""
    runs: dict[str, list[Run]] = {way: [] for way in resolve}
    for number in range(given.rounds):
        imports = imports_of(given) if given.start_once else None
        for way in list(resolve)[:: -1 if number % 2 else 1]:
            with tempfile.TemporaryDirectory() as folder:
                runs[way].append(swept([*words, *resolve[way]], given, Path(folder), imports))
            print(f"{name} {way:12s} {runs[way][-1].cost}", file=sys.stderr, flush=True)
            if given.json:
                keep(given.json, name, runs, given)
    return runs


def keep(path: Path, name: str, runs: Mapping[str, Sequence[Run]], given: argparse.Namespace) -> None:
    """Write what a data set has given so far beside what the others have."""
    told = {way: [run.told(gpu=given.gpu) for run in each] for way, each in runs.items() if each}
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**before, name: {"epochs": given.epochs, "ways": told}}))


def swept(words: Sequence[str], given: argparse.Namespace, folder: Path, imports: Cost | None) -> Run:
    """Run a sweep, read its files, repeat its command, and run the imports of a worker if they are not known."""
    widths = widths_of(words, given)
    line = ["-m", "capsexp", "+experiment=cnn_prune", *words, *grid(widths, given), "-m"]
    cost = cost_of(line, folder)
    bodies = [result["body"] for result in read(folder, "result.json")]
    stacks = [body["environment"]["stack"] for body in bodies if "stack" in body["environment"]]
    assert len(bodies) == len(widths.split(",")) ** 2, f"{len(bodies)} cells finished"
    assert all(body["training"]["epochs"] == given.epochs for body in bodies), "a cell has stopped early"
    assert len(stacks) == (len(bodies) if STACKED in words else 0), f"{len(stacks)} cells were stacked"
    workers = len({status["pid"] for status in read(folder, "status.json")})
    members = max((stack["members"] for stack in stacks), default=1)
    gpu_bytes = max(body.get("gpu", {}).get("peak_bytes", 0) for body in bodies)
    done = cost_of(line, folder)
    return Run(len(bodies), cost, done, imports or imports_of(given), workers, members, gpu_bytes)


def imports_of(given: argparse.Namespace) -> Cost:
    """The cost of what a worker imports before its first cell."""
    touch = "; import torch; torch.zeros(1, device='cuda')" if given.gpu else ""
    with tempfile.TemporaryDirectory() as folder:
        return cost_of(["-c", f"import capsexp.build{touch}"], Path(folder))


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """The files of this name of all cells."""
    return [json.loads(path.read_text()) for path in folder.rglob(name)]


def cost_of(arguments: Sequence[str], folder: Path) -> Cost:
    """The cost of a Python command; if it fails, the end of its output is printed."""
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)  # includes the processes for which it has waited
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        assert process.returncode == 0, f"{' '.join(arguments)}:\n{said.read().decode()[-3000:]}"
    return Cost(wall_s, used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss)


def title(name: str, given: argparse.Namespace, runs: Mapping[str, Sequence[Run]]) -> str:
    """The settings of the run, and the cost of the start."""
    every = [run for each in runs.values() for run in each]
    done_s = statistics.median(run.done.cpu_s for run in every)
    imports_s = statistics.median(run.imports.cpu_s for run in every)
    where = "GPU" if given.gpu else f"{len(os.sched_getaffinity(0))} cores"
    start = f"{done_s:.1f} s of CPU time for the command, {imports_s:.1f} s for each worker"
    cells = " or ".join(str(count) for count in sorted({run.cells for run in every}))
    return f"{name}, {cells} cells, epochs: {given.epochs}, rounds: {given.rounds}, {where}; start: {start}."


def table(runs: Mapping[str, Sequence[Run]], *, gpu: bool) -> Iterator[str]:
    """Lines of Markdown: a row for each way, and after each rate its ratio to that of the first way.

    Args:
        runs: the runs of every way, one per round.
        gpu: True if they were on a GPU.
    """
    rates = {way: [run.rates(gpu=gpu) for run in each] for way, each in runs.items()}
    first = next(iter(runs))
    names = list(rates[first][0])
    heads = ["way", *(head for name in names for head in (f"cells/h, {name}", f"against {first}"))]
    heads += ["CPU s a cell", "members", "MB a process", *(["MB on the GPU"] if gpu else [])]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for way, each in runs.items():
        values = [word for name in names for word in rate_words(name, rates[way], rates[first])]
        yield f"| {' | '.join([way, *values, *facts(each)][: len(heads)])} |"


def rate_words(name: str, rates: Sequence[Mapping[str, float]], first: Sequence[Mapping[str, float]]) -> list[str]:
    """The median of a way's rates, and that of their ratios to the first way's in the same round."""
    ratios = [ours[name] / other[name] for ours, other in zip(rates, first, strict=True)]
    return [f"{statistics.median(each[name] for each in rates):,.0f}", f"{statistics.median(ratios):.2f}"]


def facts(runs: Sequence[Run]) -> list[str]:
    """Further facts about a way."""
    each_s = statistics.median(run.cost.cpu_s / run.cells for run in runs)
    peaks = zip(*((run.members, run.cost.peak_bytes / 1e6, run.gpu_bytes / 1e6) for run in runs), strict=True)
    return [f"{each_s:.2f}", *(f"{max(values):,.0f}" for values in peaks)]


if __name__ == "__main__":
    main()
