"""What the fake cells do, inside the workers: a cell's real life around a recipe that misbehaves as its config says.

Every execution leaves a file of its own (process, device, begin, end) beside the cells' directories.
"""

import contextlib
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capsexp import cell as cell_life
from capsexp import records, stop_request
from capsexp.cell import Cell, CellOutcome
from capsexp.engine import worker
from capsexp.errors import ConfigError, StageBusy
from capsexp.stacking.grouping import Settings
from capsexp.tracking import guard

EVIDENCE = "evidence"

WORD = "go-on"
"""File that lets the cells that wait for it go on."""

AT_IMPORT = {"cuda": os.environ.get("CUDA_VISIBLE_DEVICES"), "torch": "torch" in sys.modules}
"""How the process was when this module was imported, which a worker does when it takes its first cell."""


def run(cell: Cell) -> CellOutcome:
    """The real ``cell.run``, with a recipe that needs no torch."""
    sys.modules.setdefault("capsexp.build", FAKE_BUILD)
    return cell_life.run(cell)


def tiny(cell: Cell) -> CellOutcome:
    """As little as can be: the evidence and nothing else."""
    with noted(cell.directory, cell.id):
        time.sleep(cell.config.get("seconds", 0.0))
    return CellOutcome(records.Status("done", cell.id), "done")


def without_a_server(cell: Cell) -> CellOutcome:
    """Weights & Biases' server does not answer: leave how far it was trusted before."""
    modes = cell.directory.parent / "modes"
    modes.write_text((modes.read_text() if modes.exists() else "") + f"{guard.process.most}\n")
    if guard.process.most == "online":
        guard.process.step_down("online", "no answer")
    return CellOutcome(records.Status("done", cell.id), "done")


def bare(cell: Cell) -> CellOutcome:
    """A recipe with no ``cell.run`` around it: what it raises leaves the worker's hands."""
    recipe(cell.config, cell.directory, cell_id=cell.id)
    return CellOutcome(records.Status("done", cell.id), "done")


def recipe(config: dict[str, Any], directory: Path, *, cell_id: str, **_: Any) -> dict[str, Any]:
    """Meet with ``config["faults"][i]`` at the i-th execution, if there is one, then sleep for ``seconds``."""
    with noted(directory, cell_id) as number:
        faults = config.get("faults", [])
        if number < len(faults) and faults[number]:
            FAULTS[faults[number]](directory)
        time.sleep(config.get("seconds", 0.0))
    metrics = {"val/acc": 0.5}
    return {"numerics": records.NUMERICS_VERSION, "metrics": metrics, "clocks": {}, "gpu": config.get("gpu")}


FAKE_BUILD: Any = types.ModuleType("capsexp.build")
FAKE_BUILD.run = recipe


@contextlib.contextmanager
def noted(directory: Path, identifier: str) -> Iterator[int]:
    """Leave evidence of one execution; gives its number."""
    folder = directory.parent / EVIDENCE
    folder.mkdir(parents=True, exist_ok=True)
    begin, number = time.monotonic(), 0
    facts = {"id": identifier, "pid": os.getpid(), "begin": begin, "at_import": AT_IMPORT}
    facts |= {"cuda": os.environ.get("CUDA_VISIBLE_DEVICES"), "omp": os.environ.get("OMP_NUM_THREADS")}
    whole = folder / f"unread-{os.getpid()}"
    whole.write_text(json.dumps(facts))
    while True:
        try:
            os.link(whole, folder / f"{identifier}.{number}")  # appears whole, and never twice under one number
            break
        except FileExistsError:
            number += 1
    whole.unlink()
    try:
        yield number
    finally:
        whole.write_text(str(time.monotonic()))
        whole.replace(folder / f"{identifier}.{number}.end")


def together(cells: Sequence[Cell], ended: Callable[[Cell, CellOutcome], None], settings: Settings) -> None:
    """Cells of a stack, one after the other here; what kills one kills all.  A "broken" one fails before any begins."""
    if cells[0].config.get("stack") == "broken":
        raise MemoryError("too many")
    for cell in cells:
        try:
            ended(cell, run(cell))
        except KeyboardInterrupt:
            ended(
                cell,
                CellOutcome(records.read_status(cell.directory) or records.Status("interrupted", cell.id), "stopped"),
            )


@dataclass(frozen=True)
class FakeWork(worker.CellWork):
    """A worker's work that needs no torch."""

    run_cell: worker.RunCell = run
    run_stack: worker.RunStack = together

    def prepare(self) -> None:
        """Nothing here is slow to import."""


# -- faults ------------------------------------------------------------------------------------------------------------


def _raise(error: BaseException) -> Callable[[Path], None]:
    def fault(_: Path) -> None:
        raise error

    return fault


def _kill(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _result_then_exit_0(directory: Path) -> None:
    """The process ends behind its last word, and says that all is well."""
    identifier = directory.name.rpartition("-")[2]
    records.write_result(directory, {"id": identifier, "metrics": {}, "clocks": {"total_s": 0.0}, "numerics": 1})
    records.write_status(directory, records.Status("done", identifier))
    os._exit(0)


def _kill_later(_: Path) -> None:
    """The process dies a moment after the cell has ended well."""
    threading.Timer(0.15, lambda: os._exit(3)).start()


def _obey(directory: Path) -> None:
    """Go on until it is asked to stop, and save."""
    deadline = time.monotonic() + 120
    while not stop_request.requested():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (directory / "saved").touch()
    raise KeyboardInterrupt


def _deaf(directory: Path) -> None:
    """Ignore every signal that can be ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    (directory / "deaf").touch()
    time.sleep(120)


def _noisy(_: Path) -> None:
    print("said by print")  # noqa: T201
    print("said to stderr", file=sys.stderr)  # noqa: T201
    os.write(1, b"written to fd 1\n")
    os.write(2, b"written to fd 2\n")
    warnings.warn("a Python warning", stacklevel=1)
    logging.getLogger("capsexp.data").warning("the cache is\tslow")
    logging.getLogger("capsexp.data").info("of no interest")
    logging.getLogger("capsexp.trace").error("a traceback")
    logging.getLogger("elsewhere").warning("not ours")


def _wait_for_word(directory: Path) -> None:
    """Go on until the test says so with a file beside the cells' directories."""
    deadline = time.monotonic() + 120
    while not (directory.parent / WORD).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _late(name: str) -> Callable[[Path], None]:
    def fault(directory: Path) -> None:
        _wait_for_word(directory)
        FAULTS[name](directory)

    return fault


def _result_then_kill(directory: Path) -> None:
    body = {"numerics": records.NUMERICS_VERSION, "metrics": {"val/acc": 0.5}, "clocks": {}}
    records.write_result(directory, body)
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS: dict[str, Callable[[Path], None]] = {
    "raise": _raise(RuntimeError("the numbers\nare wrong")),
    "config": _raise(ConfigError("model.c2", "be odd", 4)),
    "memory": _raise(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")),
    "disk": _raise(OSError(28, "No space left on device")),
    "stage_busy": _raise(StageBusy("encoder is being trained")),
    "timeout": _raise(TimeoutError("the server said nothing")),
    "exit": _raise(SystemExit(3)),
    "wait_for_word": _wait_for_word,
    "late_memory": _late("memory"),
    "late_stage_busy": _late("stage_busy"),
    "result_then_kill": _result_then_kill,
    "kill": _kill,
    "kill_later": _kill_later,
    "exit_0": lambda _: os._exit(0),
    "result_then_exit_0": _result_then_exit_0,
    "real_time_signal": lambda _: os.kill(os.getpid(), signal.SIGRTMIN + 6),
    "segfault": lambda _: faulthandler._sigsegv(),  # type: ignore[attr-defined]
    "hang": lambda _: time.sleep(120),
    "obey": _obey,
    "deaf": _deaf,
    "noisy": _noisy,
}


# -- initializers that go wrong ----------------------------------------------------------------------------------------


def never_starts(*_: Any) -> None:
    os._exit(7)


def one_dies_at_its_start(*told: Any) -> None:
    """The first worker dies before it can begin; the others are slow, as those that import torch are."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(os.environ["FIRST_WORKER"], os.O_CREAT | os.O_EXCL))
        os._exit(7)
    time.sleep(0.8)
    worker.start(*told)
