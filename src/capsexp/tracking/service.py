"""wandb-core, the process in which wandb does its work: how to be rid of one that hangs."""

import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path


def kill_service() -> None:
    """End the wandb-core process of this process at once, if there is one.

    wandb waits for it when the process exits, and for as long as it takes; one that hangs would hang the exit.  What it
    has not yet written to disk is lost.
    """
    process = _known()
    if process is not None:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
    for pid in _found():  # one that was still starting, of which wandb has no handle yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _known() -> "subprocess.Popen[bytes] | None":
    """The process as wandb knows it; these are its own inner names, so any of them may be gone."""
    import wandb.sdk.wandb_setup

    value: object = wandb.sdk.wandb_setup
    for name in ("_singleton", "_connection", "_proc", "_process"):
        value = getattr(value, name, None)
    return value if isinstance(value, subprocess.Popen) else None


def _found() -> Iterator[int]:
    """Processes named wandb-core that were told to watch this process; none where there is no /proc."""
    ours = str(os.getpid()).encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"wandb-core") and (b"--pid", ours) in itertools.pairwise(words):
            yield int(path.parent.name)
