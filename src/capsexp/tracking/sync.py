"""Upload of the Weights & Biases runs that were kept on disk, with wandb's own ``sync``."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from capsexp import records
from capsexp.tracking.guard import OPEN, UNSENT

TIMEOUT_S = 120.0
"""Seconds after which the upload of one run is aborted; wandb itself would try for days."""

AT_ONCE = 4

COMMAND = (sys.executable, "-m", "wandb", "sync", "--include-online")
"""wandb's command; the paths of the runs are appended.  Without the flag it skips runs that began online."""

HEADER_BYTES = 7
"""Size of a run's file whose process was killed before wandb wrote any data."""


@dataclass
class UploadSummary:
    """Counts of the runs that were uploaded, already uploaded, empty or postponed, and the failures."""

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
        for wandb in _wandb_folders(directory):
            for path in _to_upload(list(wandb.iterdir())):
                runs = found.setdefault(path.parent.parent, [])
                if path not in runs:
                    runs.append(path)
    return found


def _to_upload(runs: Iterable[Path]) -> list[Path]:
    """Those of a cell's runs that were kept on disk, oldest first.

    An online run of a killed process is left out if a later one has ended well: the cell began again, or went on from
    its checkpoint, and the server has what there was.
    """
    online = [run for run in runs if run.name.startswith("run-")]
    last_sent = max((run.name for run in online if not (run / UNSENT).exists()), default="")
    kept = [run for run in runs if run.name.startswith("offline-run-")]
    for run in online:
        mark = run / UNSENT
        if mark.exists() and (run.name > last_sent or mark.read_text() != OPEN):
            kept.append(run)
    return sorted(kept, key=lambda run: run.name.removeprefix("offline-"))


def _wandb_folders(directory: Path) -> Iterator[Path]:
    """The folders called ``wandb`` below a folder; links are followed, each folder once."""
    seen: set[Path] = set()
    for folder, below, _ in os.walk(directory, followlinks=True):
        if Path(folder).name == "wandb":
            below.clear()
            yield Path(folder)
        new = [name for name in sorted(below) if Path(folder, name).resolve() not in seen]
        seen |= {Path(folder, name).resolve() for name in new}
        below[:] = new


def sync(
    directories: Iterable[Path],
    *,
    command: Sequence[str] = COMMAND,
    timeout_s: float = TIMEOUT_S,
    at_once: int = AT_ONCE,
    report: Callable[[str], object] = lambda line: None,
) -> UploadSummary:
    """Upload the runs below these directories that are not uploaded yet.

    Several cells are uploaded in parallel.  The runs of one cell are uploaded in sequence, since they share one id and
    the last run counts.

    Args:
        directories: where to look.
        command: the command that uploads one run; the run's directory is appended.
        timeout_s: time limit per run in seconds.
        at_once: number of parallel uploads.
        report: receives one line per failed run.
    """
    summary = UploadSummary()
    upload = partial(_upload, command=command, timeout_s=timeout_s)
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for outcomes in pool.map(partial(_sync_cell, upload=upload), *_columns(find_runs(directories))):
                for path, outcome, reason in outcomes:
                    if outcome == "failed":
                        summary.failures.append((path, reason))
                        report(f"failed: {path}: {reason}")
                    summary.counts[outcome] += 1
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return summary


def _columns(runs: dict[Path, list[Path]]) -> tuple[list[Path], list[list[Path]]]:
    return list(runs), list(runs.values())


def _sync_cell(cell: Path, runs: Sequence[Path], upload: Callable[[Path], str | None]) -> list[tuple[Path, str, str]]:
    """The path, outcome and reason of each run of one cell."""
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
    """Upload one run; returns None, or the reason of the failure.

    wandb's exit code is not reliable (it is 0 for a damaged file), so the marker file that wandb writes decides.
    """
    # WANDB_SILENT would hide the reason; wandb-core ends by itself when the process that started it is killed.
    environment = {key: value for key, value in os.environ.items() if key not in ("WANDB_SILENT", "WANDB_MODE")}
    environment["WANDB_DIR"] = str(
        path.parent.parent.resolve()
    )  # for wandb's own logs; otherwise it creates a wandb/ folder in the working directory
    try:
        with records.temporary_folder() as folder:  # wandb makes folders that it leaves when it is killed
            environment["TMPDIR"] = str(folder)
            done = subprocess.run(
                [*command, str(path)],
                stdin=subprocess.DEVNULL,  # no prompt for a login
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
    """The reason of a failure from wandb's output, in one line."""
    lines = [" ".join(line.split()).removeprefix("wandb: ") for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error") and "debug-cli" not in line]
    if errors:
        return errors[-1].removeprefix("ERROR ").removeprefix("Error: ")[:300]
    return f"wandb sync ended with {code} and no mark of success; its last output: {(lines or ['nothing'])[-1][:200]}"
