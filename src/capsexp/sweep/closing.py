"""The closing lines and the exit code of a sweep, from the cells' own files."""

import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from capsexp import records
from capsexp.text import count


def statuses_of(directory: Path, sweep: records.Sweep) -> dict[str, records.Status]:
    """The status of each planned cell, by the name of its directory; its cells may have run in other processes."""
    return {
        cell.name: records.read_status(directory / cell.name) or records.Status("pending", cell.id)
        for cell in sweep.cells
    }


def exit_code(statuses: Sequence[records.Status]) -> int:
    """The exit code: 0 if all cells are done, 2 if every cell failed by a value in its config, else 1."""
    failed = [status for status in statuses if status.state != "done"]
    if failed and all(records.is_user_error(status) for status in statuses):
        return 2
    return 1 if failed else 0


def print_closing(directory: Path, sweep: records.Sweep, lacking: Iterable[str] = ()) -> None:
    """Print the number of cells in each state, what the report will lack, and why each cell that is not done is not.

    Args:
        directory: the sweep's folder.
        sweep: its plan.
        lacking: a line for each metric of the report that no cell has.
    """
    statuses = statuses_of(directory, sweep)
    done = [name for name, status in statuses.items() if status.state == "done"]
    stale = sum(records.is_stale(records.read_result(directory / name) or {}) for name in done)
    facts = [f"{len(done)} of {count(len(statuses), 'cell')} done" + (f", {stale} of them stale" if stale else "")]
    states = Counter(status.state for status in statuses.values())
    facts += [f"{states[state]} {state}" for state in ("failed", "interrupted", "running", "pending") if states[state]]
    report = ["python", "-m", "capsexp.report", str(directory), *(["--trust"] if _own_figures(sweep) else [])]
    lines = [f"{', '.join(facts)}; report: {shlex.join(report)}"]
    lines += [f"  {line}" for line in lacking]
    for name, status in statuses.items():
        if status.state in ("failed", "interrupted", "running"):
            lines.append(f"  {name}: {_why(status)} (see {directory / name / records.LOG})")
    print_lines(lines)


def _own_figures(sweep: records.Sweep) -> bool:
    """True if the checked ``report:`` block asks for kinds of figures of one's own, which have dotted names."""
    return any("." in figure["kind"] for figure in sweep.report.get("figures") or [])


def _why(status: records.Status) -> str:
    if status.state == "running":
        return f"being run by process {status.pid} on {status.host}"
    again = f" (tried {len(status.retried) + 1} times)" if status.retried else ""
    return f"{status.cause or status.state}{again}"


def print_lines(lines: Iterable[str]) -> None:
    """Write lines to the terminal or pipe; errors are ignored: a sweep goes on without a reader."""
    try:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
    except OSError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # otherwise Python reports the error again at its exit
