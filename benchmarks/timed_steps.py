"""Commands with a time limit each, and what is kept of them."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

LOG_BYTES = 2 * 2**20
"""Largest log: the end of a longer output stays."""

LAST_LINES = 12
"""Lines of the output of a step that did not end well, in the record."""


@dataclass(frozen=True)
class Step:
    """A command, and the file into which it writes its figures as it goes.

    Attributes:
        name: its name, also of its log.
        share: of the whole time that it may take.
        command: program and arguments.
        figures: a JSON file; None = the command writes none.
        environment: variables beside those of this process.
        folder: where it runs.
        grace_s: seconds between the interruption and the end of a command that takes too long.
    """

    name: str
    share: float
    command: Sequence[str]
    figures: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    grace_s: float = 5.0


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        outcome: ``ok``, ``failed`` or ``timed out``.
        exit_code: negative = the number of the signal that ended it.
        seconds: on the clock.
        output: its standard output and standard error.
    """

    outcome: str
    exit_code: int
    seconds: float
    output: str


def run(step: Step, limit_s: float, log: Path) -> Ended:
    """Run a step's command, for so many seconds and the grace at most; it and its processes are gone afterwards.

    Args:
        step: what to run.
        limit_s: seconds until it is interrupted.
        log: file for the end of its output.
    """
    started = time.perf_counter()
    with log.open("wb") as said:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **step.environment}
        options: dict[str, Any] = {"stdout": said, "stderr": subprocess.STDOUT, "env": environment, "cwd": step.folder}
        process = subprocess.Popen(step.command, start_new_session=True, **options)
        try:
            in_time = _wait(process, limit_s)
            if not in_time:
                _signal(process, signal.SIGINT)
                _wait(process, step.grace_s)
        finally:
            _signal(process, signal.SIGKILL)
            process.wait()
    outcome = "timed out" if not in_time else "failed" if process.returncode else "ok"
    return Ended(outcome, process.returncode, time.perf_counter() - started, _shortened(log))


def record(step: Step, ended: Ended, limit_s: float) -> dict[str, Any]:
    """What is kept of a step: how it ended, and the figures that it had written until then."""
    kept = {"name": step.name, "command": " ".join(step.command), "limit_s": round(limit_s, 1)}
    kept |= {"outcome": ended.outcome, "exit_code": ended.exit_code, "seconds": round(ended.seconds, 1)}
    if step.figures is not None and step.figures.is_file():
        with suppress(json.JSONDecodeError):  # it was ended in the middle of writing
            kept["figures"] = json.loads(step.figures.read_text())
    if ended.outcome != "ok":
        kept["last_lines"] = ended.output.splitlines()[-LAST_LINES:]
    return kept


def write(path: Path, kept: Mapping[str, Any]) -> None:
    """Write a record as JSON, whole or not at all."""
    partly = path.with_suffix(".partly")
    partly.write_text(json.dumps(kept, indent=1))
    partly.replace(path)


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return False
    return True


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal to the command and all its processes that are left."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _shortened(log: Path) -> str:
    text = log.read_bytes()
    if len(text) > LOG_BYTES:
        text = text[-LOG_BYTES:]
        log.write_bytes(text)
    return text.decode(errors="replace")
