"""The end of a hanging wandb-core, the process in which wandb does its work."""

import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path


def kill_service() -> None:
    """Kill the wandb-core process of this process, if there is one.

    wandb waits for it without a limit when the process exits, so a hanging one would block the exit.  Data that it has
    not yet written to disk are lost.
    """
    process = _known()
    if process is not None:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
    for pid in _found():  # a process that is still starting, of which wandb has no handle yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _known() -> "subprocess.Popen[bytes] | None":
    """The process from wandb's internal attributes, any of which may be missing in another version."""
    import wandb.sdk.wandb_setup

    value: object = wandb.sdk.wandb_setup
    for name in ("_singleton", "_connection", "_proc", "_process"):
        value = getattr(value, name, None)
    return value if isinstance(value, subprocess.Popen) else None


def _found() -> Iterator[int]:
    """Processes named wandb-core with this process as their parent option; none without /proc."""
    ours = str(os.getpid()).encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"wandb-core") and (b"--pid", ours) in itertools.pairwise(words):
            yield int(path.parent.name)
