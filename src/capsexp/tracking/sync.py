"""Uploads the Weights & Biases runs that were kept on disk, with wandb's own ``sync``."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from capsexp import records
from capsexp.tracking.guard import UNSENT

TIMEOUT_S = 120.0
"""Seconds after which one run's upload is given up; wandb itself would try for days."""

AT_ONCE = 4

COMMAND = (sys.executable, "-m", "wandb", "sync", "--include-online")
"""wandb's command; the runs' paths are added.  Without the flag it leaves out runs that began online."""

HEADER_BYTES = 7
"""A run's file holds no more than this where its process was killed before wandb wrote anything into it."""


@dataclass
class Tally:
    """What became of the runs: how many were uploaded, already there, empty or left for later, and what went wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[Path, str]] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{self.counts['uploaded']} uploaded", f"{len(self.failures)} failed"]
        parts.append(f"{self.counts['there']} already there")
        if self.counts["empty"]:
            parts.append(f"{self.counts['empty']} empty (killed before anything was written)")
        if self.counts["running"]:
            parts.append(f"{self.counts['running']} left for later (still running)")
        return ", ".join(parts)


def find_runs(directories: Iterable[Path]) -> dict[Path, list[Path]]:
    """The directories of all runs that are to be uploaded or have been, oldest first, by their cell's directory."""
    found: dict[Path, list[Path]] = {}
    for directory in directories:
        offline = directory.glob("**/wandb/offline-run-*")
        begun_online = (path.parent for path in directory.glob(f"**/wandb/run-*/{UNSENT}"))
        for path in sorted([*offline, *begun_online], key=lambda run: run.name.removeprefix("offline-")):
            runs = found.setdefault(path.parent.parent, [])
            if path not in runs:
                runs.append(path)
    return found


def sync(
    directories: Iterable[Path],
    *,
    command: Sequence[str] = COMMAND,
    timeout_s: float = TIMEOUT_S,
    at_once: int = AT_ONCE,
    tell: Callable[[str], object] = lambda line: None,
) -> Tally:
    """Upload what is below these directories and not uploaded yet.

    Cells are done several at once, the runs of one cell one after the other: they have one id, and the last one counts.

    Args:
        directories: where to look.
        command: what uploads one run; its directory is added.
        timeout_s: seconds that one run may take.
        at_once: how many uploads run beside each other.
        tell: gets a line for every run that failed.
    """
    tally = Tally()
    upload = partial(_upload, command=command, timeout_s=timeout_s)
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for outcomes in pool.map(partial(_sync_cell, upload=upload), *_columns(find_runs(directories))):
                for path, outcome, reason in outcomes:
                    if outcome == "failed":
                        tally.failures.append((path, reason))
                        tell(f"failed: {path}: {reason}")
                    tally.counts[outcome] += 1
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return tally


def _columns(runs: dict[Path, list[Path]]) -> tuple[list[Path], list[list[Path]]]:
    return list(runs), list(runs.values())


def _sync_cell(cell: Path, runs: Sequence[Path], upload: Callable[[Path], str | None]) -> list[tuple[Path, str, str]]:
    """What became of each run of one cell, and why."""
    status = records.read_status(cell)
    if status is not None and status.state == "running":
        return [(path, "there" if _is_synced(path) else "running", "") for path in runs]
    return [(path, *_sync_run(path, upload)) for path in runs]


def _sync_run(path: Path, upload: Callable[[Path], str | None]) -> tuple[str, str]:
    files = sorted(path.glob("run-*.wandb"))
    if not files:
        return "failed", "there is no run-*.wandb file in it"
    if _is_synced(path):
        return "there", ""
    if files[0].stat().st_size <= HEADER_BYTES:
        return "empty", ""
    reason = upload(path)
    return ("uploaded", "") if reason is None else ("failed", reason)


def _is_synced(path: Path) -> bool:
    return any(path.glob("run-*.wandb.synced"))


def _upload(path: Path, command: Sequence[str], timeout_s: float) -> str | None:
    """Upload one run; None, or why it is not there.

    wandb's exit code says little (it is 0 for a damaged file), so the mark that it leaves beside the file decides.
    """
    # WANDB_SILENT would hide the reason; wandb-core ends by itself when the process that started it is killed.
    environment = {key: value for key, value in os.environ.items() if key not in ("WANDB_SILENT", "WANDB_MODE")}
    environment["WANDB_DIR"] = str(
        path.parent.parent.resolve()
    )  # its own logs; else a wandb/ folder appears right here
    try:
        done = subprocess.run(
            [*command, str(path)],
            stdin=subprocess.DEVNULL,  # nobody is asked for a login
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end within {timeout_s:g} s"
    except OSError as error:
        return str(error)
    if _is_synced(path):
        return None
    return _reason(done.stdout, done.returncode)


def _reason(output: str, code: int) -> str:
    """What wandb's output says about a failure, in one line."""
    lines = [" ".join(line.split()).removeprefix("wandb: ") for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error") and "debug-cli" not in line]
    if errors:
        return errors[-1].removeprefix("ERROR ").removeprefix("Error: ")[:300]
    return f"wandb sync ended with {code} and no mark of success; it said last: {(lines or ['nothing'])[-1][:200]}"
